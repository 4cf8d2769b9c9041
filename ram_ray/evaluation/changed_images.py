"""The images behind a difference: of a class, those whose rank got better most, those whose rank got worse, and curves.

The two systems' scores need not be comparable, but the ranks of the same images are: an image's share of the images
with a higher score. A true image gets better if fewer rank above it, one that is not true if more do.

Letters: N images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ram_ray.evaluation.class_curves import Reliability, measure_reliability, precision_recall, thin_curve
from ram_ray.evaluation.score_files import CLASSES_PER_BLOCK, ClassBlock, read_block, read_manifest
from ram_ray.evaluation.sets.prepare import RunTasks, in_this_process

IMAGES_PER_SIDE = 4  # of a class: that got better, and that got worse


@dataclass(frozen=True)
class ChangedImage:
    """An image whose rank in a class changed."""

    key: str
    is_true: bool  # the class is true of it
    first: float  # share of the images with a higher score, 0 to 1: 0 is the first
    second: float


@dataclass(frozen=True)
class ChangedClass:
    """A class in the scores of two systems."""

    name: str
    better: Sequence[ChangedImage]  # the largest change first
    worse: Sequence[ChangedImage]
    curves: Sequence[Sequence[tuple[float, float]]]  # of each system: recall and precision
    reliabilities: Sequence[Reliability | None]  # of each system; None: its scores are no probabilities


def look_at_classes(
    folders: Sequence[str],
    classes: Sequence[str],
    *,
    per_side: int = IMAGES_PER_SIDE,
    run_tasks: RunTasks = in_this_process,
) -> list[ChangedClass]:
    """Find of each class the images whose rank changed most: those that explain the difference of AP first.

    Args:
        folders: of the scores of the two systems, on one set.
        classes: that both score.
        per_side: most images of a class that got better, and as many that got worse.
        run_tasks: runs the work on blocks of classes.

    Returns:
        The classes, in their order.
    """
    indices = [{name: index for index, name in enumerate(read_manifest(folder).classes)} for folder in folders]
    by_blocks: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name in classes:
        by_blocks[tuple(index[name] // CLASSES_PER_BLOCK for index in indices)].append(name)
    look = partial(_look_at_blocks, folders=folders, per_side=per_side, sizes=[len(index) for index in indices])
    columns = {name: [index[name] % CLASSES_PER_BLOCK for index in indices] for name in classes}
    items = [(numbers, {name: columns[name] for name in names}) for numbers, names in by_blocks.items()]
    looked = {changed.name: changed for part in run_tasks(look, items) for changed in part}
    return [looked[name] for name in classes]


def _look_at_blocks(
    item: tuple[tuple[int, ...], dict[str, list[int]]], *, folders: Sequence[str], sizes: Sequence[int], per_side: int
) -> list[ChangedClass]:
    numbers, columns = item
    blocks = [
        read_block(folder, number, num_classes=size)
        for folder, number, size in zip(folders, numbers, sizes, strict=True)
    ]
    return [_look_at(name, blocks, of_class, per_side) for name, of_class in columns.items()]


def _look_at(name: str, blocks: Sequence[ClassBlock], columns: Sequence[int], per_side: int) -> ChangedClass:
    targets = blocks[0].targets[:, columns[0]]
    rows = np.flatnonzero(targets >= 0)
    truth, keys = targets[rows] == 1, blocks[0].keys
    scores = [block.scores[rows, column] for block, column in zip(blocks, columns, strict=True)]
    ranks = [share_above(values) for values in scores]
    # An AP depends on the first ranks: an image that moves from 1 to 10 of 1,000 matters more than from 501 to 600.
    moves = np.log(ranks[1] + 1 / max(1, len(rows))) - np.log(ranks[0] + 1 / max(1, len(rows)))
    order = np.argsort(-np.abs(moves), kind="stable")
    order = order[moves[order] != 0]
    is_better = (moves < 0) == truth
    better, worse = (
        [
            ChangedImage(keys[rows[i]], bool(truth[i]), float(ranks[0][i]), float(ranks[1][i]))
            for i in order[is_better[order] == side][:per_side]
        ]
        for side in (True, False)
    )
    curves = []
    for values in scores:
        recall, precision, _ = precision_recall(values, truth)
        curves.append([(float(recall[i]), float(precision[i])) for i in thin_curve(recall)])
    return ChangedClass(name, better, worse, curves, [measure_reliability(values, truth) for values in scores])


def share_above(scores: np.ndarray) -> np.ndarray:
    """Share of the images with a higher score.

    Args:
        scores: (N,) float.

    Returns:
        (N,) float64, 0 to 1.
    """
    ordered = np.sort(scores)
    return (len(scores) - np.searchsorted(ordered, scores, side="right")) / max(1, len(scores))
