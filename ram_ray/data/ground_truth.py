"""The ground truth of an image, and how well its tags agree with it, counted batch by batch.

The truth is the image's human labels if the shard has them, otherwise the tags of its original captions. A human label
is a name, or `kind:name` for a name with two meanings ("orange"); a name of several kinds means the kind that captions
use most. Names that the label system does not contain cannot be scored; they are counted as `unknown`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import pyarrow as pa

from ram_ray.label_system import LabelSystem
from ram_ray.records import KINDS, Row
from ram_ray.results import Counts

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


def label_id(label: str, system: LabelSystem) -> int | None:
    """Find a human label in the label system, by name or synonym.

    Args:
        label: a name, or "kind:name".
        system: the label system that ids are of.

    Returns:
        The id, or None if the label system does not contain the name.
    """
    kind, colon, name = label.partition(":")
    if colon and kind in KINDS:
        return system.find(name.strip().lower(), kind)
    ids = [id for id in (system.find(label.strip().lower(), kind) for kind in KINDS) if id is not None]
    return max(ids, key=lambda id: system[id].count) if ids else None


def truth_ids(
    labels: Sequence[str] | None, captions: Iterable[Row] | None, system: LabelSystem
) -> tuple[set[int] | None, Counter]:
    """The ground truth of an image.

    Args:
        labels: the row's `labels`; None if the shard has no human labels (an empty list: labelled with nothing).
        captions: the row's `captions`; only original ones count.
        system: the label system that ids are of.

    Returns:
        The ids, or None if no truth is known; and how often each unknown label occurs.
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
    original = [caption for caption in captions if caption["origin"] == "original"] if captions is not None else []
    if not original:
        return None, unknown
    return {int(id) for caption in original for id in _list(caption["tags"])}, unknown


def score_tags(predicted: Iterable[Iterable[int]], truth: Iterable[Iterable[int]]) -> Counts:
    """Count the tags of images against their truth, image by image.

    Args:
        predicted: ids of each image's tags.
        truth: ids that are true of each image.

    Returns:
        The counts of all images.

    Raises:
        ValueError: if the two do not hold the same number of images.
    """
    total = Counts()
    for tag_ids, true_ids in zip(predicted, truth, strict=True):
        tags, true = set(tag_ids), set(true_ids)
        total += Counts(len(tags & true), len(tags - true), len(true - tags))
    return total


def tag_counts(batch: pa.Table, *, system: LabelSystem, labels_only: bool = True) -> pa.Table:
    """Count the images and tags of a batch, and compare the tags with the truth.

    Args:
        batch: ANNOTATION rows.
        system: the label system that ids are of.
        labels_only: images without human labels are counted but not scored: their tags come from their captions, so
            that scoring tags against captions would compare them with themselves.

    Returns:
        A table of one TAG_COUNTS row.
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


def _list(value: Iterable | None) -> list:
    return [] if value is None else list(value)
