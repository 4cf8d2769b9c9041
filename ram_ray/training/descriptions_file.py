"""The file with descriptions of labels, as a part of what a stage depends on."""

from __future__ import annotations

import hashlib
import json

from pydantic import Field

from ram_ray.models.descriptions import Descriptions, read_descriptions
from ram_ray.settings.section import RUNTIME_ONLY, Section


class DescriptionsFile(Section):
    """A file with descriptions of labels; only its content is part of the identity."""

    uri: str = Field(json_schema_extra=RUNTIME_ONLY)
    digest: str

    @classmethod
    def find(cls, uri: str | None) -> DescriptionsFile | None:
        """Read the digest of a file.

        Args:
            uri: of the file; None: no file.

        Returns:
            The file, or None.

        Raises:
            ValueError: if it cannot be read, or has something else.
        """
        if uri is None:
            return None
        content = json.dumps(read_descriptions(uri), sort_keys=True)
        return cls(uri=uri, digest=hashlib.sha256(content.encode()).hexdigest()[:12])

    def read(self) -> Descriptions:
        """Read the file.

        Returns:
            Texts by name of a label.
        """
        return read_descriptions(self.uri)
