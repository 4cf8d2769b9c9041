"""What batch tagging is asked for, what it tells at the end, and what it takes from outside: boxes and sinks."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from pydantic import BaseModel, Field

from ram_ray.data.tagged_parts import EXTRAS
from ram_ray.inference.tag_rules import TagRules
from ram_ray.records import Json, Row

if TYPE_CHECKING:
    from torch import Tensor

    from ram_ray.inference.tag_score import TagScore

MAX_IDENTITY = 300  # characters of a value in the manifest; a longer one stands there as its digest

Boxes = list[list[tuple[float, float, float, float] | None]]  # of each tag of each image


class FindBoxes(Protocol):
    """Finds the boxes of tags; made by a factory in the actor that has the model."""

    def __call__(self, tokens: Tensor, scores: list[list[TagScore]]) -> Boxes:
        """Find the box of each tag, None where there is none."""
        ...


class RowSink(Protocol):
    """Takes tagged rows besides the parts, such as a writer of sidecars."""

    @property
    def changes_images(self) -> bool:
        """Whether it writes into the image files."""
        ...

    def __call__(self, rows: Sequence[Row]) -> Counter[str]:
        """Take rows of `tagged_schema`; return what was written, by name."""
        ...


class Query(BaseModel, frozen=True, extra="forbid"):
    """What to write of each image; tags as in `Predictor.tag`."""

    top_k: int | None = Field(None, ge=1)
    threshold: float | None = Field(None, ge=0, le=1)
    tags: tuple[str, ...] | None = Field(None, min_length=1)
    rules: TagRules = TagRules()
    caption: bool = False
    boxes: bool = False
    embedding: bool = False

    @property
    def extras(self) -> tuple[str, ...]:
        """Columns beside those that every row has."""
        return tuple(name for name in EXTRAS if getattr(self, name))

    def identity(self, model: str) -> Json:
        """All that the rows depend on, beside the images, in a few characters a field.

        Args:
            model: digest of the model.

        Returns:
            Values by name.
        """
        values = self.model_dump(mode="json")
        return {"model": model} | {name: _short(value) for name, value in {**values.pop("rules"), **values}.items()}


class TagCounts(BaseModel):
    """What a call did, and what the output holds."""

    listed: int  # images that were found now
    tagged: int  # of them, rows that this call wrote
    rows: int  # of the output
    errors: int  # rows of the output whose image could not be read
    unlisted: int  # rows of the output whose images were not among those of this call
    not_images: int  # files that are no images
    examples: list[str] = []  # of those with an image's name
    written: dict[str, int] = {}  # by the sink
    folders: list[Json] = []  # the same for each folder and extension


def _short(value: object) -> object:
    text = json.dumps(value, sort_keys=True)
    return value if len(text) <= MAX_IDENTITY else hashlib.sha256(text.encode()).hexdigest()[:16]
