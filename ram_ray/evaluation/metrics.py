"""mAP, precision and recall, from scores that never lie in the memory of one process.

AP of a tag needs all scores of that tag and no others. So each batch of scores is cut into blocks of tags
(`to_tag_blocks`), and a task for each block joins its rows (`block_arrays`) and reduces them (`per_tag`). The driver's
memory grows with the number of tags, not of images. AP = sum over steps of the ranking of (recall gained x precision).

Ties: images with equal scores are one step of the ranking, so AP does not depend on the order of rows. Without ties it
equals the reference's mean of precision over positives. A tag without positives has no AP (NaN).

Precision and recall are averaged over tags (the paper's P and R) and over all decisions ("micro"). As in the paper's
code, a tag that is never predicted has precision 0. A prediction is a tag that the served model would return: over its
own threshold (`label_system.is_present`) and not muted.

Letters: N images, T tags of the label system, b tags of a block, C columns of scores.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import pyarrow as pa

from ram_ray.label_system import is_present
from ram_ray.records import Json
from ram_ray.results import Counts

# Rows of one batch cut by tags; `scores` and `targets` are (rows, b), flattened in row order.
TAG_BLOCK = pa.schema(
    [("block", pa.int32()), ("rows", pa.int32()), ("scores", pa.list_(pa.float32())), ("targets", pa.list_(pa.bool_()))]
)
Summary = Json  # of `summarise`, and summary.json


def average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """Average precision of one tag; images with equal scores are one step of the ranking.

    Args:
        scores: (N,) float.
        targets: (N,) bool.

    Returns:
        0 to 1; NaN without positives.

    Raises:
        ValueError: if the shapes differ or a score is NaN.
    """
    scores, targets = np.asarray(scores), np.asarray(targets, bool)
    if scores.shape != targets.shape or scores.ndim != 1:
        raise ValueError(f"scores {scores.shape} and targets {targets.shape} must both be (N,)")
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {len(scores)} scores are NaN")
    num_positives = int(targets.sum())
    if not num_positives:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], targets[order].cumsum()
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)  # last rank of each step
    step_hits = np.diff(hits[ends], prepend=0)
    return float((step_hits * hits[ends] / (ends + 1)).sum() / num_positives)


def reference_average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """Average precision of one tag as the released evaluation computes it, to compare with its figures.

    The order of images with equal scores is that of numpy's unstable sort.

    Args:
        scores: (N,) float32, as in the released evaluation: the type decides the order of ties.
        targets: (N,) bool.

    Returns:
        0 to 1; 0 without positives.
    """
    hits = np.asarray(targets, bool)[np.asarray(scores).argsort()[::-1]]
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    return float(precision[hits].sum() / (hits.sum() + 1e-8))


def to_tag_blocks(scores: np.ndarray, targets: np.ndarray, *, tags_per_block: int = 64) -> pa.Table:
    """Cut one batch into blocks of tags.

    Args:
        scores: (N, T) float.
        targets: (N, T) bool.
        tags_per_block: most tags of a block.

    Returns:
        TAG_BLOCK rows, one for each block.
    """
    assert scores.shape == targets.shape and scores.ndim == 2, (scores.shape, targets.shape)
    rows = []
    for block, start in enumerate(range(0, scores.shape[1], tags_per_block)):
        columns = slice(start, start + tags_per_block)
        rows.append(
            {
                "block": block,
                "rows": len(scores),
                "scores": scores[:, columns].astype(np.float32).ravel(),
                "targets": targets[:, columns].astype(bool).ravel(),
            }
        )
    return pa.Table.from_pylist(rows, schema=TAG_BLOCK)


def block_arrays(group: pa.Table, *, num_tags: int, tags_per_block: int = 64) -> tuple[np.ndarray, np.ndarray, int]:
    """Join the rows of one block.

    Args:
        group: TAG_BLOCK rows of one block.
        num_tags: T.
        tags_per_block: as passed to `to_tag_blocks`.

    Returns:
        Scores (N, b) float32, targets (N, b) bool, and the id of the first tag.
    """
    block = group["block"][0].as_py()
    assert set(group["block"].to_pylist()) == {block}, "a group holds one block"
    num_images = int(np.sum(group["rows"].to_numpy()))
    shape = (num_images, min(tags_per_block, num_tags - block * tags_per_block))
    scores = group["scores"].combine_chunks().flatten().to_numpy().reshape(shape)
    targets = group["targets"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(shape)
    return scores, targets, block * tags_per_block


def per_tag(
    scores: np.ndarray,
    targets: np.ndarray,
    *,
    thresholds: np.ndarray,
    muted: Collection[int] = (),
    first: int = 0,
) -> list[dict]:
    """Score each tag by itself.

    Args:
        scores: (N, C) float; column c is the tag `first` + c.
        targets: (N, C) bool.
        thresholds: (T,) float, by tag id.
        muted: ids of tags that are never predicted.
        first: id of the first column's tag.

    Returns:
        For each column: tag, num_images, num_positives, ap (NaN without positives), threshold, tp, fp, fn.
    """
    rows = []
    for column in range(scores.shape[1]):
        tag = first + column
        positive = targets[:, column].astype(bool)
        predicted = is_present(scores[:, column], thresholds[tag]) & (tag not in muted)
        tp = int((predicted & positive).sum())
        rows.append(
            {
                "tag": tag,
                "num_images": len(positive),
                "num_positives": int(positive.sum()),
                "ap": average_precision(scores[:, column], positive),
                "threshold": float(thresholds[tag]),
                "tp": tp,
                "fp": int(predicted.sum()) - tp,
                "fn": int(positive.sum()) - tp,
            }
        )
    return rows


def summarise(rows: Iterable[dict], *, names: list[str], kinds: list[str], min_positives: int = 1) -> Summary:
    """Average the figures of the tags.

    Tags with fewer than `min_positives` positives (at least 1) have a line but are in no average. Mean prevalence is
    the expected mAP of random scores.

    Args:
        rows: as of `per_tag`.
        names: of all tags, by id.
        kinds: of all tags, by id.
        min_positives: fewest positives of a tag that is averaged.

    Returns:
        mAP, mean_prevalence, num_tags, precision, recall, micro_precision, micro_recall (0 to 1; None without tags) and
        `per_tag`, a dict for each tag by id.
    """
    lines = []
    for row in sorted(rows, key=lambda row: row["tag"]):
        counts = Counts(row["tp"], row["fp"], row["fn"])
        lines.append(
            {
                "id": row["tag"],
                "tag": names[row["tag"]],
                "kind": kinds[row["tag"]],
                "num_positives": row["num_positives"],
                "prevalence": row["num_positives"] / max(1, row["num_images"]),
                "ap": row["ap"] if row["num_positives"] else None,
                "precision": counts.precision,
                "recall": counts.recall,
                "threshold": row["threshold"],
                "predicted": row["tp"] + row["fp"],
                "correct": row["tp"],
                "counted": row["num_positives"] >= max(1, min_positives),
            }
        )
    counted = [line for line in lines if line["counted"]]
    micro = Counts()
    for line in counted:
        correct = line["correct"]
        micro += Counts(correct, line["predicted"] - correct, line["num_positives"] - correct)
    return {
        "mAP": _mean([line["ap"] for line in counted]),
        "mean_prevalence": _mean([line["prevalence"] for line in counted]),
        "num_tags": len(counted),
        "precision": _mean([line["precision"] for line in counted]),
        "recall": _mean([line["recall"] for line in counted]),
        "micro_precision": micro.precision,
        "micro_recall": micro.recall,
        "per_tag": lines,
    }


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
