"""Systems on evaluation sets: each set is read once, each pair is scored once and measured, and pairs are compared.

    OUT/sets/SET/             rows and classes
    OUT/scores/SET/SYSTEM/    scores with their truth; reused as long as the system and the set are the same

The figures of systems that do not support the same classes are given twice: over all classes that a system supports,
and over those that every system does.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from ram_ray.config import RunConfig
from ram_ray.evaluation.comparison import compare_figures
from ram_ray.evaluation.measure_scores import Measured, Measuring, measure_scores, on_cluster
from ram_ray.evaluation.score_set import score_set
from ram_ray.evaluation.sets.prepare import EvalSet, SetReading, prepare_set
from ram_ray.evaluation.sets.spec import SetSpec
from ram_ray.evaluation.systems.predictions import PredictionsSystem
from ram_ray.evaluation.systems.system import System
from ram_ray.records import Json

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SetResult:
    """All systems on one set."""

    eval_set: EvalSet
    measured: dict[str, Measured]  # by system, in the order of the systems
    folders: dict[str, str]  # of their scores
    skipped: dict[str, str]  # system -> why it was not scored

    @property
    def common_classes(self) -> list[str]:
        """The classes that every system supports."""
        supported = [set(result.manifest.classes) for result in self.measured.values()]
        return [name for name in self.eval_set.classes if all(name in names for names in supported)]


def run_benchmark(
    systems: Sequence[System], specs: Sequence[SetSpec], out: str, *, config: RunConfig, measuring: Measuring
) -> list[SetResult]:
    """Score and measure every system on every set.

    Args:
        systems: with different names.
        specs: with different names, and absolute paths.
        out: folder or URI for sets and scores.
        config: of resources and data.
        measuring: how scores are measured.

    Returns:
        A result for each set.

    Raises:
        ValueError: if two systems or sets share a name, a set cannot be read, or no system can be scored on it.
    """
    for what, names in (("systems", [system.name for system in systems]), ("sets", [spec.name for spec in specs])):
        if len(set(names)) < len(names):
            raise ValueError(f"two {what} have one name ({', '.join(names)}); write NAME=... for each")
    run_tasks, reading = on_cluster(config.execution.task_cpus), SetReading.from_config(config)
    results = []
    for spec in specs:
        eval_set = prepare_set(spec, f"{out}/sets/{spec.name}", reading=reading, run_tasks=run_tasks)
        for line in describe_set(eval_set):
            logger.info("%s", line)
        measured, folders, skipped = {}, {}, {}
        for system in systems:
            folder = f"{out}/scores/{spec.name}/{system.name}"
            if isinstance(system, PredictionsSystem) and not system.covers(eval_set):
                skipped[system.name] = "its file has no line about an image of this set"
                continue
            if isinstance(system, PredictionsSystem):
                system.score(eval_set, folder)
            else:
                score_set(system, eval_set, folder, batch_size=config.evaluate.batch_size, execution=config.execution)
            measured[system.name] = measure_scores(folder, measuring, run_tasks=run_tasks)
            folders[system.name] = folder
            logger.info("%s", describe_result(eval_set, measured[system.name], measuring))
        if not measured:
            raise ValueError(f"no system could be scored on {spec.name}: {'; '.join(skipped.values())}")
        results.append(SetResult(eval_set, measured, folders, skipped))
    return results


def describe_set(eval_set: EvalSet) -> list[str]:
    """Describe a set and all that was left out of it.

    Args:
        eval_set: the set.

    Returns:
        Lines of text.
    """
    lines = [f"{eval_set.name}: {eval_set.images:,} images, {len(eval_set.classes):,} classes"]
    if eval_set.rejected:
        lines.append(f"{eval_set.name}: {eval_set.rejected:,} images cannot be used")
    if eval_set.left_out:
        reasons = (f"{name} ({why})" for name, why in eval_set.left_out.items())
        lines.append(f"{eval_set.name}: {len(eval_set.left_out)} classes left out: {'; '.join(reasons)}")
    if eval_set.unknown:
        some = ", ".join(list(eval_set.unknown)[:10])
        lines.append(f"{eval_set.name}: {len(eval_set.unknown):,} labels of images are no class: {some}")
    return lines


def describe_result(eval_set: EvalSet, measured: Measured, measuring: Measuring) -> str:
    """Describe the figures of one system on one set.

    Args:
        eval_set: the set.
        measured: its figures.
        measuring: how they were measured.

    Returns:
        A line of text.
    """
    summary, manifest = measured.summary(min_positives=measuring.min_positives), measured.manifest
    parts = [f"mAP {format_figure(summary['mAP'])}"]
    parts += [f"{name} {format_figure(summary[f'macro_{name}'])}" for name in ("precision", "recall", "f1")]
    if manifest.unsupported:
        parts.append(f"{len(manifest.unsupported)} of {len(eval_set.classes)} classes not supported")
    return f"{eval_set.name}, {manifest.system}: " + ", ".join([*parts, *manifest.notes])


def format_figure(figure: Json) -> str:
    """Format a figure with its interval.

    Args:
        figure: value and interval, 0 to 1.

    Returns:
        Percent: "86.5 (85.9-87.0)"; a dash where there is none.
    """
    if figure["value"] is None:
        return "–"
    interval = figure["interval"]
    bounds = f" ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})" if interval else ""
    return f"{100 * figure['value']:.1f}{bounds}"


def compare_pair(result: SetResult, first: str, second: str, *, min_positives: int) -> Json:
    """Compare two systems on a set.

    Args:
        result: of the set.
        first: name of a system.
        second: name of the system that is asked to be better.
        min_positives: fewest positives of a class that is compared.

    Returns:
        As of `comparison.compare_figures`, with the names.
    """
    figures = [result.measured[name].figures for name in (first, second)]
    return {"first": first, "second": second, **compare_figures(*figures, min_positives=min_positives)}
