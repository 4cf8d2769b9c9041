"""The curve of possible additions: how many (image, tag) cells lie above a score, and how many of them are right.

The baseline adds as many of the most frequent tags. `curve.json`, beside the stage `generate`, has for each point
`threshold` (lowest score of a cell), `added`, `estimated` (precision by the calibration), and where images carry human
labels `known` (additions to these images), `right`, `precision`, `recall` (of all tags after the additions),
`baseline_precision` and `baseline_recall`.

Letters: V votes, T tags, B bins (`data_engine.calibrate`).
"""

from __future__ import annotations

import numpy as np

from ram_ray.data_engine.calibrate import edge_of
from ram_ray.data_engine.mention_counts import Cells

MAX_POINTS = 200

Point = dict[str, float | None]  # of `curve.json`: fields by name


def uncalibrated_scores(cells: Cells) -> np.ndarray:
    """The score of each cell where nothing is calibrated.

    Args:
        cells: counts of images, by votes, tag and score.

    Returns:
        (V, T, B) float64: the tagger's probability, or 1 where a generated caption mentions the tag.
    """
    probabilities = 1 / (1 + np.exp(-edge_of(np.arange(cells.images.shape[2]))))
    scores = np.broadcast_to(probabilities, cells.images.shape).copy()
    scores[1:] = 1.0
    return scores


def make_curve(cells: Cells, scores: np.ndarray, *, right: np.ndarray | None = None) -> list[Point]:
    """Points of the curve, in descending order of the score.

    Args:
        cells: counts of images, by votes, tag and score.
        scores: (V, T, B) float, order of the cells; cells of equal score are added together.
        right: (V, T, B) float, probability by the calibration that an addition is right; None: not calibrated.

    Returns:
        At most `MAX_POINTS` points with the fields of `curve.json`.
    """
    order = np.argsort(-scores, axis=None, kind="stable")
    ranked = scores.ravel()[order]
    added, known, hits = (counts.ravel()[order].cumsum() for counts in (cells.open, cells.known, cells.right))
    expected = None if right is None else (cells.open * right).ravel()[order].cumsum()
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    ends = ends[np.diff(added[ends], prepend=0) > 0]
    if len(ends) > MAX_POINTS:
        targets = np.geomspace(added[ends[0]], added[ends[-1]], MAX_POINTS)
        ends = ends[np.unique(np.clip(np.searchsorted(added[ends], targets), 0, len(ends) - 1))]
    points = []
    for end in ends.tolist():
        point: Point = {"threshold": float(ranked[end]), "added": int(added[end])}
        point["estimated"] = None if expected is None else float(expected[end] / added[end])
        if cells.totals["labelled"]:
            point |= _true_figures(cells, known=int(known[end]), right=int(hits[end]))
        points.append(point)
    return points


def _true_figures(cells: Cells, *, known: int, right: int) -> Point:
    """Precision and recall of a point against human labels, and those of the baseline."""
    truths, had = max(1, cells.totals["truths"]), cells.totals["had"]
    baseline = _baseline_right(cells, known)
    return {
        "known": known,
        "right": right,
        "precision": right / known if known else None,
        "recall": (had + right) / truths,
        "baseline_precision": baseline / known if known else None,
        "baseline_recall": (had + baseline) / truths,
    }


def _baseline_right(cells: Cells, num_additions: int) -> float:
    """How many additions are right if the most frequent tags are added to every image without them."""
    order = np.argsort(-cells.said.sum((0, 2)), kind="stable")
    known, right = (np.append(0, counts.sum((0, 2))[order].cumsum()) for counts in (cells.known, cells.right))
    return float(np.interp(num_additions, known, right))
