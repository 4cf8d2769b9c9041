"""Score one system on one evaluation set, on Ray Data, into a folder of `score_files`.

    rows of the set -> read and decode (tasks, CPU) -> system (actor pool) -> write parts (tasks)

A finished folder is reused as long as the system and the set are the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ram_ray.data.pixels import with_pixels
from ram_ray.evaluation.score_files import (
    ScoreManifest,
    part_files,
    start_folder,
    to_score_blocks,
    write_manifest,
    write_part,
)
from ram_ray.evaluation.sets.prepare import ClassIndex, EvalSet
from ram_ray.evaluation.sets.rows import look_up_sizes
from ram_ray.evaluation.systems.system import Batch, Plan, System
from ram_ray.inference.tag_rules import read_pairs
from ram_ray.labels.lists import Entry
from ram_ray.runtime.actors import model_actors, predictor_options
from ram_ray.settings.runtime import Execution

if TYPE_CHECKING:
    from ray.data import Dataset

logger = logging.getLogger(__name__)


def score_set(
    system: System, eval_set: EvalSet, folder: str, *, batch_size: int, execution: Execution
) -> ScoreManifest:
    """Score a system on the images of a set.

    Args:
        system: a system that scores images.
        eval_set: the set.
        folder: for the scores, readable from every node.
        batch_size: images of a batch.
        execution: how the images are read and models run.

    Returns:
        The manifest of the folder.

    Raises:
        ValueError: if the set has no images, or the system answers for none of its classes.
    """
    from ram_ray.runtime.progress import progress

    plan = make_plan(system, eval_set)
    identity = {"set": eval_set.identity, "system": system.identity(), "plan": repr(plan)}
    digest, done = start_folder(folder, identity)
    if done:
        return done.model_copy(update={"system": system.name, "set_name": eval_set.name})
    if not eval_set.has_images:
        raise ValueError(
            f"--eval {eval_set.name} names no images, and {system.name} scores images; add images=FOLDER, or give a "
            "predictions file"
        )
    started, cpus = time.monotonic(), execution.task_cpus
    with progress(f"{eval_set.name}, {system.name}", total=eval_set.images) as add:
        images = set_images(
            eval_set, size=system.image_size, bounds=system.bounds, batch_size=batch_size, execution=execution
        )
        scores = images.map_batches(
            SystemActor,
            fn_constructor_args=(system, plan, eval_set.entries),
            fn_constructor_kwargs={**predictor_options(execution), "add": add},
            batch_format="numpy",
            batch_size=batch_size,
            **model_actors(execution.resources),
        )
        num_images = write_parts(scores, folder, cpus=cpus)
    assert part_files(folder) or not num_images
    return finish(folder, digest, system.name, eval_set, plan, num_images, seconds=time.monotonic() - started)


def set_images(
    eval_set: EvalSet, *, size: int, batch_size: int, execution: Execution, bounds: tuple[int, int] | None = None
) -> Dataset:
    """Read and decode the images of a set, in tasks.

    Args:
        eval_set: the set.
        size: pixels a side.
        batch_size: images of a task.
        execution: how the images are read.
        bounds: as of `data.pixels.add_pixels`.

    Returns:
        SET_ROW rows with the columns of `data.pixels.add_pixels`.
    """
    import ray.data

    rows = ray.data.read_parquet(f"{eval_set.folder}/", file_extensions=["parquet"])
    rows = rows.map_batches(look_up_sizes, batch_format="pyarrow", num_cpus=execution.task_cpus)
    rows = rows.repartition(target_num_rows_per_block=execution.rows_per_block)
    return with_pixels(rows, size=size, bounds=bounds, batch_size=batch_size, execution=execution)


def write_parts(scores: Dataset, folder: str, *, cpus: float) -> int:
    """Write scores as parts, a task for each block of the dataset.

    Args:
        scores: SCORE_BLOCK rows.
        folder: path or URI, readable from every node.
        cpus: of a task.

    Returns:
        The number of images.
    """

    def write(block: pa.Table) -> pa.Table:
        return pa.table({"images": [write_part(block, folder)]})

    parts = scores.map_batches(write, batch_format="pyarrow", batch_size=None, num_cpus=cpus)
    return sum(row["images"] for row in parts.iter_rows())


def make_plan(system: System, eval_set: EvalSet) -> Plan:
    """Plan how a system answers for the classes of a set.

    Args:
        system: the system.
        eval_set: the set, with its mapping file.

    Returns:
        The plan.

    Raises:
        ValueError: if it answers for no class.
    """
    plan = plan_classes(system, eval_set)
    if not plan.classes:
        raise ValueError(f"{system.name} answers for none of the {len(eval_set.classes)} classes of {eval_set.name}")
    return plan


def plan_classes(system: System, eval_set: EvalSet) -> Plan:
    """Plan as `make_plan` does, also for no class at all.

    Args:
        system: the system.
        eval_set: the set, with its mapping file.

    Returns:
        The plan.
    """
    mapping = read_pairs(eval_set.map) if eval_set.map else None
    return system.plan(eval_set.entries, mapping, exact=eval_set.exact)


def finish(
    folder: str,
    digest: str,
    name: str,
    eval_set: EvalSet,
    plan: Plan,
    num_images: int,
    *,
    seconds: float,
    notes: Sequence[str] = (),
) -> ScoreManifest:
    """Write the manifest of a folder whose parts are written.

    Args:
        folder: of the scores.
        digest: of all that they depend on.
        name: of the system.
        eval_set: the set.
        plan: how the system answers for its classes.
        num_images: that were scored.
        seconds: that it took.
        notes: what a reader has to know.

    Returns:
        The manifest.

    Raises:
        ValueError: if no image was scored.
    """
    if not num_images:
        raise ValueError(f"--eval {eval_set.name}: none of its {eval_set.images:,} images could be read")
    unread = eval_set.images - num_images
    manifest = ScoreManifest(
        set_name=eval_set.name,
        system=name,
        identity=digest,
        images=num_images,
        classes=[planned.name for planned in plan.classes],
        matched_by=[planned.matched_by for planned in plan.classes],
        unsupported=list(plan.unsupported),
        thresholds=plan.thresholds,
        notes=[*([f"{unread:,} images could not be read"] if unread else []), *notes],
        seconds=round(seconds, 1),
    )
    write_manifest(folder, manifest)
    return manifest


class SystemActor:
    """An actor: holds one system, and turns images with their truth into SCORE_BLOCK rows.

    Args:
        system: the system.
        plan: of the set.
        classes: of the set.
        device: as in `System.load`, as are precision and threads.
        precision: "fp32", "bf16" or "auto".
        threads: number of torch's threads.
        add: called with the number of images after each batch.
    """

    def __init__(
        self,
        system: System,
        plan: Plan,
        classes: Sequence[Entry],
        *,
        device: str = "cpu",
        precision: str = "fp32",
        threads: int | None = None,
        add: Callable[[int], None] | None = None,
    ) -> None:
        from ram_ray.models.number_format import choose_precision

        precision = choose_precision(precision, device)
        self._score = system.load(plan, device=device, precision=precision, threads=threads)
        self._columns = [planned.index for planned in plan.classes]
        self._index, self._num_classes, self._add = ClassIndex(classes), len(classes), add

    def __call__(self, batch: Batch) -> pa.Table:
        """Score a batch.

        Args:
            batch: SET_ROW rows as numpy columns, with those of `data.pixels.add_pixels`.

        Returns:
            SCORE_BLOCK rows of the images that could be read.
        """
        rows = [row for row, reason in enumerate(batch["reason"]) if not isinstance(reason, str)]
        targets = target_rows(
            *([batch[name][row] for row in rows] for name in ("truth", "ignored", "absent")),
            index=self._index,
            num_classes=self._num_classes,
        )[:, self._columns]
        scores = self._score(batch, rows) if rows else np.zeros(targets.shape, np.float32)
        if self._add:
            self._add(len(rows))
        return to_score_blocks([str(batch["key"][row]) for row in rows], scores, targets)


def target_rows(
    truth: Sequence[Sequence[str]],
    ignored: Sequence[Sequence[str] | None],
    absent: Sequence[Sequence[str] | float | None],
    *,
    index: ClassIndex,
    num_classes: int,
) -> np.ndarray:
    """Turn the classes of images into targets.

    Args:
        truth: names of the true classes of each image.
        ignored: names of those that do not count.
        absent: names of those that are known to be absent; None or NaN: all that are not true.
        index: finds a class by its name.
        num_classes: C.

    Returns:
        (N, C) int8: 1, 0 or -1.
    """
    targets = np.zeros((len(truth), num_classes), np.int8)
    for row, (true, left_out, known) in enumerate(zip(truth, ignored, absent, strict=True)):
        if known is not None and not isinstance(known, float):
            targets[row] = -1
            targets[row, _ids(known, index)] = 0
        targets[row, _ids(left_out if left_out is not None else (), index)] = -1
        targets[row, _ids(true, index)] = 1
    return targets


def _ids(names: Sequence[str], index: ClassIndex) -> list[int]:
    ids = (index.find(str(name)) for name in names)
    return [id for id in ids if id is not None]
