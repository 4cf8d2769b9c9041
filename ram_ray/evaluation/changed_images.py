"""The images behind a difference: of a class that got better or worse, those whose rank changed most.

The two systems' scores need not be comparable, but the ranks of the same images are: an image's share of the images
with a higher score.

Letters: N images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from ram_ray.evaluation.score_files import CLASSES_PER_BLOCK, ClassBlock, read_block, read_manifest
from ram_ray.evaluation.sets.prepare import EvalSet
from ram_ray.records import Row
from ram_ray.runtime.location import locate

IMAGES_PER_CLASS = 8


@dataclass(frozen=True)
class ChangedImage:
    """An image whose rank in a class changed."""

    class_name: str
    key: str
    is_true: bool  # the class is true of it
    first: float  # share of the images with a higher score, 0 to 1: 0 is the first
    second: float


def find_changed_images(
    folders: Sequence[str], classes: Sequence[str], *, per_class: int = IMAGES_PER_CLASS
) -> list[ChangedImage]:
    """Find the images whose rank changed most: those that explain the difference of AP first.

    Args:
        folders: of the scores of the two systems, on one set.
        classes: that differ.
        per_class: most images of a class.

    Returns:
        The images of each class, in the order of the classes.
    """
    indices = [{name: index for index, name in enumerate(read_manifest(folder).classes)} for folder in folders]
    by_blocks: dict[tuple[int, int], list[str]] = defaultdict(list)
    for name in classes:
        first, second = (index[name] // CLASSES_PER_BLOCK for index in indices)
        by_blocks[first, second].append(name)
    changed: dict[str, list[ChangedImage]] = {}
    for numbers, names in by_blocks.items():
        blocks = [
            read_block(folder, number, num_classes=len(index))
            for folder, number, index in zip(folders, numbers, indices, strict=True)
        ]
        for name in names:
            columns = [index[name] - block.first for index, block in zip(indices, blocks, strict=True)]
            changed[name] = _most_changed(name, blocks, columns, per_class)
    return [image for name in classes for image in changed[name]]


def _most_changed(name: str, blocks: Sequence[ClassBlock], columns: Sequence[int], count: int) -> list[ChangedImage]:
    targets = blocks[0].targets[:, columns[0]]
    rows = np.flatnonzero(targets >= 0)
    ranks = [share_above(block.scores[rows, column]) for block, column in zip(blocks, columns, strict=True)]
    # An AP depends on the first ranks: an image that moves from 1 to 10 of 1,000 matters more than from 501 to 600.
    moves = np.abs(np.log(ranks[1] + 1 / len(rows)) - np.log(ranks[0] + 1 / len(rows)))
    order = np.argsort(-moves, kind="stable")[:count]
    return [
        ChangedImage(name, blocks[0].keys[rows[i]], bool(targets[rows[i]] == 1), float(ranks[0][i]), float(ranks[1][i]))
        for i in order
        if moves[i] > 0
    ]


def share_above(scores: np.ndarray) -> np.ndarray:
    """Share of the images with a higher score.

    Args:
        scores: (N,) float.

    Returns:
        (N,) float64, 0 to 1.
    """
    ordered = np.sort(scores)
    return (len(scores) - np.searchsorted(ordered, scores, side="right")) / max(1, len(scores))


def locate_images(eval_set: EvalSet, keys: Sequence[str]) -> dict[str, Row]:
    """Find where images of a set lie.

    Args:
        eval_set: the set.
        keys: of the images.

    Returns:
        Key -> its row; none for images that the set does not have as files.
    """
    wanted, found = set(keys), {}
    fs, folder = locate(eval_set.folder)
    for path in sorted(fs.glob(f"{folder}/rows-*.parquet")):
        with fs.open(path, "rb") as file:
            table = pq.read_table(file, columns=["key", "uri", "offset", "nbytes", "reason", "detail"])
        for index in np.flatnonzero(np.isin(table["key"].to_numpy(zero_copy_only=False), list(wanted))):
            row = {name: table[name][int(index)].as_py() for name in table.column_names}
            if row["uri"] is not None and row["reason"] is None:
                found[row["key"]] = row
    return found
