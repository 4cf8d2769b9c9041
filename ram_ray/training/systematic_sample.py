"""Systematic sampling: rows drawn in proportion to their weights."""

from __future__ import annotations

import random


def systematic_sample(weights: list[float], *, seed: str) -> list[int]:
    """Draw as many indices as there are weights, in proportion to the weights (systematic sampling).

    An index is drawn as often as its expected count, rounded up or down. A bucket keeps its number of rows, so the
    position in the run stays a single number.

    Args:
        weights: positive numbers.
        seed: seed of the draw.

    Returns:
        Indices in ascending order, as many as weights; an index may occur several times.
    """
    total, index = sum(weights), 0
    step = total / len(weights)
    point, cumulative = random.Random(seed).random() * step, weights[0]
    indices = []
    for _ in weights:
        while cumulative < point and index + 1 < len(weights):
            index += 1
            cumulative += weights[index]
        indices.append(index)
        point += step
    return indices
