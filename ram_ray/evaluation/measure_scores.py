"""Measure folders of scores, block by block: as tasks of a cluster, or in this process.

The threshold of a system is chosen first, on candidates from a few parts; then each block of classes is measured once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import pyarrow.parquet as pq

from ram_ray.evaluation.bootstrap import Resampling
from ram_ray.evaluation.measures import (
    ClassFigures,
    Tuning,
    candidate_thresholds,
    choose_common_threshold,
    count_at,
    measure_block,
    summarise_figures,
)
from ram_ray.evaluation.score_files import (
    ClassBlock,
    ScoreManifest,
    num_blocks,
    part_files,
    read_block,
    read_manifest,
)
from ram_ray.evaluation.sets.prepare import RunTasks, in_this_process
from ram_ray.records import Json
from ram_ray.runtime.location import locate
from ram_ray.runtime.tasks import Task

logger = logging.getLogger(__name__)

NUM_SAMPLED_PARTS = 8  # that the candidates of a threshold are taken from
Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Measuring:
    """How scores are measured."""

    tuning: Tuning = Tuning()
    resampling: Resampling = Resampling()
    min_positives: int = 1


@dataclass(frozen=True)
class Measured:
    """One system on one set."""

    manifest: ScoreManifest
    threshold: float  # the one threshold of the system
    figures: dict[str, ClassFigures]  # by class, at that threshold
    own_figures: dict[str, ClassFigures] | None  # at the system's own thresholds; no AP

    def summary(self, *, min_positives: int, classes: Sequence[str] | None = None) -> Json:
        """Average the figures.

        Args:
            min_positives: fewest positives of a class that is averaged.
            classes: those that are averaged; None: all that the system scores.

        Returns:
            As of `measures.summarise_figures`, and `threshold`; `own`: the same at the system's own thresholds.
        """
        names, wanted = self.manifest.classes, set(self.manifest.classes if classes is None else classes)

        def average(figures: dict[str, ClassFigures]) -> Json:
            rows = [figure for name, figure in figures.items() if name in wanted]
            return summarise_figures(rows, names=names, min_positives=min_positives)

        own = None
        if self.own_figures is not None:
            own = {
                name: value for name, value in average(self.own_figures).items() if "_" in name and name != "per_class"
            }
        return {**average(self.figures), "threshold": self.threshold, "own": own}


def on_cluster(cpus: float) -> RunTasks:
    """Run functions as tasks of the cluster.

    Args:
        cpus: of a task.

    Returns:
        A function of a function and items that yields the results in order.
    """
    import ray

    from ram_ray.runtime.worker_log import send_to_driver

    def run_tasks(function: Callable[[Item], Value], items: Sequence[Item]) -> Iterator[Value]:
        if len(items) == 1:  # another process would start for nothing
            yield function(items[0])
            return

        def run(item: Item) -> Value:
            send_to_driver()
            return function(item)

        task = Task(run, num_cpus=cpus)
        for reference in [task.start(item) for item in items]:
            yield ray.get(reference)

    return run_tasks


def measure_scores(folder: str, measuring: Measuring, *, run_tasks: RunTasks = in_this_process) -> Measured:
    """Measure a folder of scores.

    Args:
        folder: path or URI, with its manifest.
        measuring: how.
        run_tasks: runs the work on blocks of classes.

    Returns:
        The figures.

    Raises:
        ValueError: if the folder holds no finished scores.
    """
    manifest = read_manifest(folder)
    num_classes = len(manifest.classes)
    blocks = range(num_blocks(num_classes))
    candidates = candidate_thresholds(list(_sample(folder, num_classes)))
    counts = list(run_tasks(partial(_count, folder=folder, num_classes=num_classes, candidates=candidates), blocks))
    tp, fp, positives = (np.concatenate([part[index] for part in counts]) for index in range(3))
    threshold = choose_common_threshold(
        candidates, tp, fp, positives, measuring.tuning, min_positives=measuring.min_positives
    )
    sets = [np.full(num_classes, threshold, np.float32)]
    if manifest.thresholds is not None:
        sets.append(np.array(manifest.thresholds, np.float32))
    measure = partial(
        _measure, folder=folder, num_classes=num_classes, thresholds=sets, resampling=measuring.resampling
    )
    results = list(run_tasks(measure, blocks))
    by_name = [
        {manifest.classes[figure.index]: figure for block in results for figure in block[index]}
        for index in range(len(sets))
    ]
    return Measured(manifest, threshold, by_name[0], by_name[1] if len(sets) > 1 else None)


def _count(block: int, *, folder: str, num_classes: int, candidates: np.ndarray) -> tuple[np.ndarray, ...]:
    return count_at(read_block(folder, block, num_classes=num_classes), candidates)


def _measure(
    block: int, *, folder: str, num_classes: int, thresholds: Sequence[np.ndarray], resampling: Resampling
) -> list[list[ClassFigures]]:
    content = read_block(folder, block, num_classes=num_classes)
    return [
        measure_block(content, thresholds=values, resampling=resampling, with_ap=not number)
        for number, values in enumerate(thresholds)
    ]


def _sample(folder: str, num_classes: int) -> Iterator[ClassBlock]:
    """All blocks of a few parts that lie evenly among all."""
    paths = part_files(folder)
    for number in np.unique(np.linspace(0, len(paths) - 1, NUM_SAMPLED_PARTS).astype(int)):
        fs, path = locate(paths[number])
        with fs.open(path, "rb") as file:
            for row in pq.read_table(file, columns=["block", "scores", "targets"]).to_batches():
                for scores, targets in zip(row["scores"], row["targets"], strict=True):
                    values = [part.values.to_numpy(zero_copy_only=False)[None] for part in (scores, targets)]
                    yield ClassBlock(0, [], values[0], values[1])
