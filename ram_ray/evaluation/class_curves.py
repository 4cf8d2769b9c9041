"""The curves of one class: precision against recall, and how often a score is right (reliability).

Images with equal scores are one step of the ranking, as in AP. Reliability puts scores into ten ranges of equal width,
as scikit-learn's `calibration_curve` does. The expected calibration error of Guo et al. (arXiv 1706.04599, equation 3)
is the mean over images of |share that is right - mean score| of their range. All of a range are sums, so those of
several classes can be added.

Letters: N images, S steps of the ranking, K ranges.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

NUM_RANGES = 10
CURVE_POINTS = 60  # of a drawn curve
_TOLERANCE = 1e-6  # files of predictions have a score just below 0 for what they do not list


def precision_recall(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision and recall at each score that an image has, the highest first.

    Args:
        scores: (N,) float.
        targets: (N,) bool.

    Returns:
        Recall, precision and the score, each (S,), the first two float64; none without positives.
    """
    num_positives = int(targets.sum())
    if not num_positives:
        return np.zeros(0), np.zeros(0), scores[:0]
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], targets[order].cumsum()
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)  # last rank of each step
    return hits[ends] / num_positives, hits[ends] / (ends + 1), ranked[ends]


def thin_curve(recall: np.ndarray, *, num_points: int = CURVE_POINTS) -> np.ndarray:
    """Select points of a curve at about equal distances of recall; of one recall, the first and the last.

    Precision falls from the first to the last point of a recall, and rises only where recall does.

    Args:
        recall: (S,) float, ascending.
        num_points: the most that are selected.

    Returns:
        Their indices, with the first and the last point.
    """
    if not len(recall):
        return np.zeros(0, np.int64)
    first = np.searchsorted(recall, np.linspace(recall[0], recall[-1], num_points // 2))
    last = np.searchsorted(recall, recall[first], side="right") - 1
    return np.unique([first, last])


@dataclass(frozen=True)
class Reliability:
    """Sums over the images of each range of scores."""

    counts: np.ndarray  # (K,) int64, images
    score_sums: np.ndarray  # (K,) float64
    positives: np.ndarray  # (K,) int64

    @property
    def error(self) -> float | None:
        """Expected calibration error, 0 to 1; None without images."""
        total = int(self.counts.sum())
        return float(np.abs(self.positives - self.score_sums).sum() / total) if total else None

    @property
    def points(self) -> list[tuple[float, float]]:
        """Mean score and share of positives of each range that has images."""
        return [
            (float(scores / count), float(positives / count))
            for count, scores, positives in zip(self.counts, self.score_sums, self.positives, strict=True)
            if count
        ]


def measure_reliability(scores: np.ndarray, targets: np.ndarray) -> Reliability | None:
    """Put scores into ranges.

    Args:
        scores: (N,) float.
        targets: (N,) bool.

    Returns:
        The sums; None if the scores are no probabilities: one is not in 0 to 1.
    """
    if len(scores) and not (scores.min() >= -_TOLERANCE and scores.max() <= 1 + _TOLERANCE):
        return None
    ranges = np.searchsorted(np.linspace(0, 1, NUM_RANGES + 1)[1:-1], scores)
    return Reliability(
        np.bincount(ranges, minlength=NUM_RANGES),
        np.bincount(ranges, weights=scores.astype(np.float64), minlength=NUM_RANGES),
        np.bincount(ranges[targets], minlength=NUM_RANGES),
    )


def add_reliabilities(parts: Iterable[Reliability | None]) -> Reliability | None:
    """Add the sums of several classes.

    Args:
        parts: of the classes.

    Returns:
        The sums; None without a part, or if one is None.
    """
    total: Reliability | None = None
    for part in parts:
        if part is None:
            return None
        total = (
            part
            if total is None
            else Reliability(
                total.counts + part.counts, total.score_sums + part.score_sums, total.positives + part.positives
            )
        )
    return total
