"""Rows that the data engine's page reads and samples, as Arrow schemas and as types of their dicts."""

from __future__ import annotations

from typing import Literal, TypedDict

import pyarrow as pa

Outcome = Literal["kept", "removed", "added"]
OUTCOMES: tuple[Outcome, ...] = ("kept", "removed", "added")

# A tag of an image that is selected for the page.
SAMPLED_TAG = pa.schema(
    [
        ("tag", pa.int32()),
        ("outcome", pa.string()),  # one of OUTCOMES
        ("order", pa.int64()),  # the smallest are shown
        ("key", pa.string()),
        ("box", pa.list_(pa.float32())),  # null: the whole image
        ("cluster", pa.int32()),
        ("reason", pa.string()),  # of removal; of an added tag, its origin
        ("score", pa.float32()),
    ]
)
# A selected tag with its image. `true` is null where the truth is not known, `jpeg` where the image cannot be read.
SAMPLE_IMAGE = pa.schema([*SAMPLED_TAG, ("true", pa.bool_()), ("caption", pa.string()), ("jpeg", pa.binary())])


class SampledTag(TypedDict):
    """A SAMPLED_TAG row."""

    tag: int
    outcome: Outcome
    order: int
    key: str
    box: list[float] | None
    cluster: int | None
    reason: str | None
    score: float | None


class SampleImage(SampledTag):
    """A SAMPLE_IMAGE row."""

    true: bool | None
    caption: str | None
    jpeg: bytes | None


class Caption(TypedDict):
    """A caption in an ANNOTATION row."""

    text: str
    origin: str
    tags: list[int]


class Tag(TypedDict):
    """A tag in an ANNOTATION row."""

    id: int
    origin: str
    score: float


class RemovedTag(TypedDict):
    """A removed tag in an ANNOTATION row."""

    id: int
    reason: str
    score: float


class Annotation(TypedDict):
    """What the page reads of a row of `records.ANNOTATION`."""

    captions: list[Caption] | None
    tags: list[Tag] | None
    removed: list[RemovedTag] | None
