"""The ground truth of an image, and how well its tags agree with it, counted batch by batch.

The truth is the image's human labels; a model is scored against the tags of the original captions where there are
none. A human label is a name, or `kind:name` for a name with two meanings ("orange"); a name of several kinds means
the kind that captions use most. Case, underscores and further white space do not count. Names are resolved once, by
the stage `labels`; all others read the ids in the rows. Names that the label system does not contain cannot be scored;
they are counted as `unknown`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa

from ram_ray.label_system import LabelSystem, split_kind
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
    kind, name = split_kind(label)
    if kind:
        return system.find(name, kind)
    ids = [id for id in (system.find(name, kind) for kind in KINDS) if id is not None]
    return max(ids, key=lambda id: system[id].count) if ids else None


def resolve_labels(labels: Sequence[str] | None, system: LabelSystem) -> tuple[list[int] | None, list[str]]:
    """Find the human labels of an image in the label system.

    Args:
        labels: the row's `labels`; None if the shard has no human labels (an empty list: labelled with nothing).
        system: the label system that ids are of.

    Returns:
        The columns `truth` and `unknown_labels` of `records.ANNOTATION`: the ids without repetition, None without human
        labels; and the names that the label system does not contain.
    """
    if labels is None:
        return None, []
    ids = [label_id(label, system) for label in labels]
    unknown = [label for label, id in zip(labels, ids, strict=True) if id is None]
    return list(dict.fromkeys(id for id in ids if id is not None)), unknown


def true_tags(truth: Iterable[int] | None, captions: Iterable[Row] | None) -> set[int] | None:
    """The tags that a model is scored against: the truth of an image, or without one the tags of its captions.

    Args:
        truth: the row's `truth`.
        captions: the row's `captions`; only original ones count.

    Returns:
        The ids; None if there is neither.
    """
    if truth is not None:
        return {int(id) for id in truth}
    original = [caption for caption in captions if caption["origin"] == "original"] if captions is not None else []
    return {int(id) for caption in original for id in _list(caption["tags"])} if original else None


def decided_against(row: Row) -> set[int]:
    """Tags that are never added to an image: cleaning removed them, or a person excludes them.

    Args:
        row: with the columns `removed` and `absent` of `records.ANNOTATION`.

    Returns:
        Tag ids.
    """
    return {removal["id"] for removal in row["removed"] or []} | set(row["absent"] or [])


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


def tag_counts(batch: pa.Table) -> pa.Table:
    """Count the images and tags of a batch, and compare the tags with the truth.

    Images without a truth are counted but not scored: their tags come from their captions.

    Args:
        batch: ANNOTATION rows.

    Returns:
        A table of one TAG_COUNTS row.
    """
    columns = ["tags", "truth", "unknown_labels", "reason"]
    rows = [row for row in batch.select(columns).to_pylist() if not row["reason"]]
    labelled = [row for row in rows if row["truth"] is not None]
    tag_ids = [[tag["id"] for tag in row["tags"] or []] for row in labelled]
    counts = score_tags(tag_ids, [row["truth"] for row in labelled])
    line = {
        "images": len(rows),
        "tags": sum(len(row["tags"] or []) for row in rows),
        "labelled": len(labelled),
        "tp": counts.tp,
        "fp": counts.fp,
        "fn": counts.fn,
        "unknown": sum(len(row["unknown_labels"] or []) for row in rows),
    }
    return pa.Table.from_pylist([line], schema=TAG_COUNTS)


def _list(value: Iterable | None) -> list:
    return [] if value is None else list(value)
