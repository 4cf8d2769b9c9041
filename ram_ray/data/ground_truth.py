"""What is true of an image, and how well its tags agree with that, counted a batch at a time.

True are the image's human labels where the shard carries them, otherwise the tags of its own original
captions. A label is a name, or `kind:name` where one name means two things ("orange"); a name that several kinds
hold means the one that captions use most. Names that the label system does not know cannot be scored: they are
counted, never dropped in silence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ram_ray.label_system import LabelSystem
from ram_ray.records import KINDS

# One row a batch; sums over rows are the figures of a stage.
TAG_COUNTS = pa.schema(
    [
        ("images", pa.int64()),
        ("tags", pa.int64()),
        ("labelled", pa.int64()),  # images with a truth; tp, fp and fn are over these
        ("tp", pa.int64()),
        ("fp", pa.int64()),
        ("fn", pa.int64()),
        ("unknown", pa.int64()),  # label mentions that the label system does not know
    ]
)


@dataclass(frozen=True)
class Counts:
    """Decisions counted against the truth; add them up over batches, shards and machines."""

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def precision(self) -> float:
        """Share of the predictions that are true; 0 where nothing was predicted."""
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else 0.0

    @property
    def recall(self) -> float:
        """Share of the truth that was predicted; 0 where nothing is true."""
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else 0.0


def label_id(label: str, system: LabelSystem) -> int | None:
    """Id that a human label means, by name or synonym, or None.

    Args:
        label: a name, or "kind:name".
        system: the label system that ids are of.
    """
    kind, colon, name = label.partition(":")
    if colon and kind in KINDS:
        return system.find(name.strip().lower(), kind)
    found = [one for one in (system.find(label.strip().lower(), kind) for kind in KINDS) if one is not None]
    return max(found, key=lambda id: system[id].count) if found else None


def truth_ids(
    labels: Sequence[str] | None, captions: Iterable[Mapping[str, Any]] | None, system: LabelSystem
) -> tuple[set[int] | None, Counter]:
    """What is true of one image: ids, or None where nothing is known; and the labels that are unknown, counted.

    Args:
        labels: the row's `labels`; None where the shard carries no human labels (an empty list: nothing is there).
        captions: the row's `captions`; only original ones are believed.
        system: the label system that ids are of.
    """
    unknown: Counter = Counter()
    if labels is not None:
        ids = set()
        for label in labels:
            id = label_id(label, system)
            if id is None:
                unknown[label] += 1
            else:
                ids.add(id)
        return ids, unknown
    original = [one for one in captions if one["origin"] == "original"] if captions is not None else []
    if not original:
        return None, unknown
    return {int(id) for caption in original for id in _list(caption["tags"])}, unknown


def score_tags(predicted: Iterable[Iterable[int]], truth: Iterable[Iterable[int]]) -> Counts:
    """Count the tags of images against their truth, image by image.

    Args:
        predicted: ids of each image's tags.
        truth: ids that are true of it.

    Raises:
        ValueError: if the two do not hold the same number of images.
    """
    total = Counts()
    for one, true in zip(predicted, truth, strict=True):
        given, right = set(one), set(true)
        total += Counts(len(given & right), len(given - right), len(right - given))
    return total


def tag_counts(batch: pa.Table, *, system: LabelSystem, labels_only: bool = True) -> pa.Table:
    """One TAG_COUNTS row of a batch of ANNOTATION rows: its images and tags, and how true the tags are.

    Args:
        batch: ANNOTATION rows.
        system: the label system that ids are of.
        labels_only: images without human labels are counted but not scored: the tags of an image's captions are where
            its tags come from, and scoring them against themselves says nothing.
    """
    rows = [row for row in batch.select(["captions", "tags", "labels", "reason"]).to_pylist() if not row["reason"]]
    counts, unknown, labelled = Counts(), 0, 0
    for row in rows:
        truth, missing = truth_ids(row["labels"], None if labels_only else row["captions"], system)
        unknown += missing.total()
        if truth is not None:
            labelled += 1
            counts += score_tags([[tag["id"] for tag in row["tags"] or []]], [truth])
    line = {
        "images": len(rows),
        "tags": sum(len(row["tags"] or []) for row in rows),
        "labelled": labelled,
        "tp": counts.tp,
        "fp": counts.fp,
        "fn": counts.fn,
        "unknown": unknown,
    }
    return pa.Table.from_pylist([line], schema=TAG_COUNTS)


def _list(value: Any) -> list:
    return [] if value is None else list(value)
