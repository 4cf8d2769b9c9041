"""Truth of a labelled set, and the model's scores beside it: functions of a batch.

What is true of an image: its human labels where the shard carries them, otherwise the tags of its own original
captions. A label is a name, or `kind:name` where one name means two things ("orange"); a name that several kinds
hold means the one that captions use most. Names that the label system does not know cannot be scored: they are
counted, never dropped in silence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ram_ray.evaluation.metrics import Counts, score_tags, to_tag_blocks
from ram_ray.label_system import LabelSystem
from ram_ray.records import KINDS

if TYPE_CHECKING:
    from ram_ray.inference.predictor import Predictor

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
    """Id that a human label means, by name or synonym, or None."""
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


def targets_matrix(truths: Sequence[set[int]], num_tags: int) -> np.ndarray:
    """Truth as bools (N, T)."""
    targets = np.zeros((len(truths), num_tags), bool)
    for row, ids in enumerate(truths):
        targets[row, list(ids)] = True
    return targets


def tag_counts(batch: pa.Table, *, system: LabelSystem, labels_only: bool = True) -> pa.Table:
    """One TAG_COUNTS row of a batch of ANNOTATION rows: its images and tags, and how true the tags are.

    With `labels_only` images without human labels are counted but not scored: the tags of an image's captions
    are where its tags come from, and scoring them against themselves says nothing.
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


class Scorer:
    """Actor: pictures and their truth -> TAG_BLOCK rows, ready for `metrics.reduce_tag_block`.

    A batch holds `pixels` (B, S, S, 3) uint8 and the ANNOTATION columns. Rows with a `reason`, and rows of which
    nothing is known, are left out; `num_images` of the reduced rows says how many were scored.
    """

    def __init__(
        self,
        bundle_uri: str,
        *,
        device: str | None = None,
        precision: str = "fp32",
        threads: int | None = None,
        tags_per_block: int = 64,
        predictor: Predictor | None = None,
    ) -> None:
        if predictor is None:
            from ram_ray.inference.predictor import Predictor as Loader

            predictor = Loader.from_pretrained(bundle_uri, device=device, precision=precision, threads=threads)
        self.predictor = predictor
        self.tags_per_block = tags_per_block

    def __call__(self, batch: Mapping[str, np.ndarray]) -> pa.Table:
        system = self.predictor.labels
        truths: list[set[int] | None] = []
        for reason, labels, captions in zip(batch["reason"], batch["labels"], batch["captions"], strict=True):
            rejected = isinstance(reason, str)
            truths.append(None if rejected else truth_ids(_maybe(labels), captions, system)[0])
        keep = [row for row, truth in enumerate(truths) if truth is not None]
        known = [truth for truth in truths if truth is not None]
        if not keep:
            nothing = np.zeros((0, len(system)))
            return to_tag_blocks(nothing, nothing, tags_per_block=self.tags_per_block)
        scores = self.predictor.probabilities(np.stack([batch["pixels"][row] for row in keep]))
        return to_tag_blocks(scores, targets_matrix(known, len(system)), tags_per_block=self.tags_per_block)


def _maybe(labels: Any) -> list[str] | None:
    """A list column's value as Ray gives it in a numpy batch: an array, None, or NaN for a null."""
    return None if labels is None or isinstance(labels, float) else [str(one) for one in labels]


def _list(value: Any) -> list:
    return [] if value is None else list(value)
