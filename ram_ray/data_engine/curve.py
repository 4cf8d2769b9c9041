"""What could be added: cells of tags from the surest on, how many that is, and how many of them are right.

The yardstick is what anybody could do without looking: to add as many of the most frequent tags. `curve.json`, beside
the stage `generate`, holds for each point `threshold` (what a cell must be sure of), `added`, `estimated` (precision as
the calibration has it), and where pictures carry human labels `known` (additions to them), `right`, `precision`,
`recall` (of all tags then), `baseline_precision` and `baseline_recall` (as many of the most frequent tags).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ram_ray.data_engine.calibrate import edge_of
from ram_ray.data_engine.evidence import Cells

POINTS = 200


def by_score(cells: Cells) -> np.ndarray:
    """How sure of each cell one is without calibration.

    Args:
        cells: counts of pictures, by votes, tag and score.

    Returns:
        (V, T, B) float64: the probability, or 1 with a generated caption.
    """
    sure = np.broadcast_to(1 / (1 + np.exp(-edge_of(np.arange(cells.images.shape[2])))), cells.images.shape).copy()
    sure[1:] = 1.0
    return sure


def make_curve(cells: Cells, sure: np.ndarray, *, right: np.ndarray | None = None) -> list[dict[str, Any]]:
    """Points of the curve, surest first.

    Args:
        cells: counts of pictures, by votes, tag and score.
        sure: (V, T, B) what cells are ordered by; equal ones are one step.
        right: (V, T, B) how likely an addition is right by the calibration, where there is one.

    Returns:
        At most `POINTS` points, each with its threshold and additions; precision and recall where the truth is known.
    """
    order = np.argsort(-sure, axis=None, kind="stable")
    ranked = sure.ravel()[order]
    added, known, hits = (one.ravel()[order].cumsum() for one in (cells.open, cells.known, cells.right))
    expected = None if right is None else (cells.open * right).ravel()[order].cumsum()
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    ends = ends[np.diff(added[ends], prepend=0) > 0]
    if len(ends) > POINTS:
        wanted = np.geomspace(added[ends[0]], added[ends[-1]], POINTS)
        ends = ends[np.unique(np.clip(np.searchsorted(added[ends], wanted), 0, len(ends) - 1))]
    points = []
    for end in ends.tolist():
        point: dict[str, Any] = {"threshold": float(ranked[end]), "added": int(added[end])}
        point["estimated"] = None if expected is None else float(expected[end] / added[end])
        if cells.totals["labelled"]:
            point |= _judged(cells, known=int(known[end]), right=int(hits[end]))
        points.append(point)
    return points


def _judged(cells: Cells, *, known: int, right: int) -> dict[str, Any]:
    truths, had = max(1, cells.totals["truths"]), cells.totals["had"]
    chance = _most_frequent(cells, known)
    return {
        "known": known,
        "right": right,
        "precision": right / known if known else None,
        "recall": (had + right) / truths,
        "baseline_precision": chance / known if known else None,
        "baseline_recall": (had + chance) / truths,
    }


def _most_frequent(cells: Cells, number: int) -> float:
    """How many of so many additions are right if they are the most frequent tags, each to every picture without it."""
    order = np.argsort(-cells.said.sum((0, 2)), kind="stable")
    known, right = (np.append(0, one.sum((0, 2))[order].cumsum()) for one in (cells.known, cells.right))
    return float(np.interp(number, known, right))
