"""The curve of possible additions: how many (image, tag) cells lie above a score, and how many of them are correct.

The baseline adds as many of the most frequent tags. `curve.json`, beside the stage `generate`, has for each point
`threshold` (lowest score of a cell), `added`, `estimated` (precision by the calibration), and where images carry human
labels `labelled` (additions to these images), `correct`, `precision`, `recall` (of all tags after the additions),
`baseline_precision` and `baseline_recall`.

Letters: V votes, T tags, B bins (`data_engine.calibrate`).
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

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
    probabilities = expit(edge_of(np.arange(cells.images.shape[2])))
    scores = np.broadcast_to(probabilities, cells.images.shape).copy()
    scores[1:] = 1.0
    return scores


def make_curve(cells: Cells, scores: np.ndarray, *, correct: np.ndarray | None = None) -> list[Point]:
    """Points of the curve, in descending order of the score.

    Args:
        cells: counts of images, by votes, tag and score.
        scores: (V, T, B) float, order of the cells; cells of equal score are added together.
        correct: (V, T, B) float, probability by the calibration that an addition is correct; None: not calibrated.

    Returns:
        At most `MAX_POINTS` points with the fields of `curve.json`.
    """
    order = np.argsort(-scores, axis=None, kind="stable")
    ranked = scores.ravel()[order]
    added, labelled, hits = (
        counts.ravel()[order].cumsum()
        for counts in (cells.candidates, cells.labelled_candidates, cells.true_candidates)
    )
    expected = None if correct is None else (cells.candidates * correct).ravel()[order].cumsum()
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    ends = ends[np.diff(added[ends], prepend=0) > 0]
    if len(ends) > MAX_POINTS:
        targets = np.geomspace(added[ends[0]], added[ends[-1]], MAX_POINTS)
        ends = ends[np.unique(np.clip(np.searchsorted(added[ends], targets), 0, len(ends) - 1))]
    points = []
    for end in ends.tolist():
        point: Point = {"threshold": float(ranked[end]), "added": int(added[end])}
        point["estimated"] = None if expected is None else float(expected[end] / added[end])
        if cells.totals["labelled_images"]:
            point |= _true_figures(cells, labelled=int(labelled[end]), correct=int(hits[end]))
        points.append(point)
    return points


def _true_figures(cells: Cells, *, labelled: int, correct: int) -> Point:
    """Precision and recall of a point against human labels, and those of the baseline."""
    truths, present = max(1, cells.totals["true_tags"]), cells.totals["true_tags_present"]
    baseline = _baseline_correct(cells, labelled)
    return {
        "labelled": labelled,
        "correct": correct,
        "precision": correct / labelled if labelled else None,
        "recall": (present + correct) / truths,
        "baseline_precision": baseline / labelled if labelled else None,
        "baseline_recall": (present + baseline) / truths,
    }


def _baseline_correct(cells: Cells, num_additions: int) -> float:
    """How many additions are correct if the most frequent tags are added to every image without them."""
    order = np.argsort(-cells.mentioned.sum((0, 2)), kind="stable")
    labelled, correct = (
        np.append(0, counts.sum((0, 2))[order].cumsum())
        for counts in (cells.labelled_candidates, cells.true_candidates)
    )
    return float(np.interp(num_additions, labelled, correct))
