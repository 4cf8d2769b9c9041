"""A file beside the data that a stage reads, such as a list of labels, as a part of what the stage depends on."""

from __future__ import annotations

import hashlib

import fsspec
from pydantic import Field

from ram_ray.settings.section import RUNTIME_ONLY, Section


class InputFile(Section):
    """A file that a stage reads; only its content is part of the stage's identity."""

    uri: str = Field(json_schema_extra=RUNTIME_ONLY)
    digest: str

    @classmethod
    def find(cls, uri: str | None) -> InputFile | None:
        """Read the digest of a file's bytes.

        Args:
            uri: any fsspec URI; None: no file.

        Returns:
            The file with the digest (12 hexadecimal digits), or None.

        Raises:
            ValueError: if the file cannot be read.
        """
        if not uri:
            return None
        try:
            with fsspec.open(uri, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError, ImportError) as error:
            raise ValueError(f"{uri}: cannot be read ({error.__class__.__name__}); a setting names it") from None
        return cls(uri=uri, digest=content[:12])
