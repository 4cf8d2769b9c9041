"""Files of the stage `removals`: rows of regions are moved to groups of labels (`data_engine.regions_by_label`)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ram_ray.data_engine.regions_by_label import BATCH_BYTES, BATCH_FILES, plan_groups, plan_sets
from ram_ray.data_engine.removal_bins import count_bins


@dataclass(frozen=True)
class Regrouping:
    """Files of the stage `removals`: what it moves, decides and leaves."""

    batches: int
    groups: int
    sets: int
    moved_files: float
    removal_files: float
    bins: int


def count_regrouping(
    *, crops: float, nbytes: float, num_files: int, labels: int, partitions: int, removed: float
) -> Regrouping:
    """Count what `removals` writes, with labels as frequent as 1 / rank.

    Args:
        crops: rows of tags.
        nbytes: of the files of `regions`.
        num_files: files of `regions`.
        labels: number of labels that are cleaned.
        partitions: `resources.shuffle_partitions`.
        removed: number of removed tags.

    Returns:
        The counts.
    """
    harmonic = sum(1 / rank for rank in range(1, labels + 1))
    counts = {tag: max(1, int(crops / harmonic / (tag + 1))) for tag in range(labels)}
    groups = plan_groups(counts, groups=partitions)
    sets = plan_sets(groups)
    batches = max(math.ceil(num_files / BATCH_FILES), math.ceil(nbytes / BATCH_BYTES), 1)
    moved = float(batches * len(groups))
    if sets:
        second = sum(max(1.0, batches / BATCH_FILES, nbytes / len(sets) / BATCH_BYTES) for _ in sets)
        moved = batches * len(sets) + second / len(sets) * len(groups)
    return Regrouping(batches, len(groups), len(sets), moved, 3.0 * len(groups), count_bins(round(removed)))
