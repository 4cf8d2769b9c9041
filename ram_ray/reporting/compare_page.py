"""The page of a comparison of two systems: the means, the classes that got worse and better, and what is behind them.

Of each class that differs, and of some more with the largest differences where few do: the images that got better and
worse, and the curves of both systems in one chart.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from ram_ray.evaluation.benchmark import SetResult
from ram_ray.evaluation.changed_images import ChangedClass, ChangedImage, look_at_classes
from ram_ray.evaluation.measure_scores import on_cluster
from ram_ray.records import Json
from ram_ray.reporting.class_sections import curve_chart, reliability_chart
from ram_ray.reporting.engine_images import Bounds
from ram_ray.reporting.line_chart import LineChart
from ram_ray.reporting.rendering import render
from ram_ray.reporting.thumbnails import cut_thumbnails, read_locations
from ram_ray.settings.runtime import Execution

BOUNDS = Bounds(side=160)  # of a thumbnail
MAX_CLASSES = 40  # of a set that are shown
MIN_CLASSES = 6  # where so many do not differ, others are shown too
SHOWN_LINES = 200  # of the table of classes, from each end


@dataclass(frozen=True)
class ShownImage:
    """An image of a class."""

    image: ChangedImage
    jpeg: str | None  # base64; None: it cannot be read


@dataclass(frozen=True)
class ShownClass:
    """A class with its curves and images."""

    line: Json  # of the table
    differs: bool  # by the test
    curves: LineChart
    reliability: LineChart | None  # None: the scores of one are no probabilities
    strips: Sequence[tuple[str, Sequence[ShownImage]]]  # those that have images, with their titles


@dataclass(frozen=True)
class ComparedSet:
    """The comparison on one set."""

    name: str
    num_images: int
    comparison: Json
    lines: Sequence[Json]  # of the table
    shown: Sequence[ShownClass]
    links: dict[str, str]  # class -> id of what is shown of it


@dataclass(frozen=True)
class Page:
    """What the template fills in."""

    title: str
    first: str
    second: str
    sets: Sequence[ComparedSet]
    alpha: float


def compare_page(results: Sequence[SetResult], comparisons: Sequence[Json], *, execution: Execution) -> str:
    """Make the page.

    Args:
        results: of each set.
        comparisons: of the same two systems on each set, as of `benchmark.compare_pair`.
        execution: how images are read.

    Returns:
        HTML.
    """
    first, second = comparisons[0]["first"], comparisons[0]["second"]
    sets = [
        _compared(number, result, comparison, execution)
        for number, (result, comparison) in enumerate(zip(results, comparisons, strict=True))
    ]
    page = Page(f"{first} and {second}", first, second, sets, comparisons[0]["alpha"])
    return render("compare.html.j2", page)


def choose_classes(comparison: Json) -> list[str]:
    """Choose the classes that are shown: those that differ, then the largest differences.

    Args:
        comparison: as of `benchmark.compare_pair`.

    Returns:
        At most `MAX_CLASSES` names, the worse ones first.
    """
    named = [*comparison["worse"], *comparison["better"]][:MAX_CLASSES]
    others = [line for line in comparison["per_class"] if line["difference"] and line["class"] not in set(named)]
    others.sort(key=lambda line: -abs(line["difference"]))
    return [*named, *(line["class"] for line in others[: max(0, MIN_CLASSES - len(named))])]


def _compared(number: int, result: SetResult, comparison: Json, execution: Execution) -> ComparedSet:
    lines = comparison["per_class"]
    rows = lines if len(lines) <= 2 * SHOWN_LINES else [*lines[:SHOWN_LINES], *lines[-SHOWN_LINES:]]
    names = [comparison["first"], comparison["second"]]
    classes = look_at_classes(
        [result.folders[name] for name in names],
        choose_classes(comparison),
        run_tasks=on_cluster(execution.task_cpus),
    )
    jpegs = {}
    if result.eval_set.has_images:
        keys = {image.key for changed in classes for image in (*changed.better, *changed.worse)}
        locations = read_locations(result.eval_set.folder, execution=execution, partitioned=False)
        jpegs = cut_thumbnails(locations, sorted(keys), execution=execution, bounds=BOUNDS)
    by_name = {line["class"]: line for line in lines}
    differing = {*comparison["worse"], *comparison["better"]}
    shown = [
        _shown(changed, by_name[changed.name], names, jpegs if result.eval_set.has_images else None, differing)
        for changed in classes
    ]
    num_images = max(measured.manifest.images for measured in result.measured.values())
    links = {changed.name: f"set-{number}-{index}" for index, changed in enumerate(classes)}
    return ComparedSet(result.eval_set.name, num_images, comparison, rows, shown, links)


def _shown(
    changed: ChangedClass, line: Json, names: Sequence[str], jpegs: dict[str, bytes] | None, differing: set[str]
) -> ShownClass:
    strips = []
    if jpegs is not None:
        for title, images in (("Got worse", changed.worse), ("Got better", changed.better)):
            shown = [
                ShownImage(image, base64.b64encode(jpegs[image.key]).decode() if image.key in jpegs else None)
                for image in images
            ]
            strips += [(title, shown)] if shown else []
    reliabilities = {name: of for name, of in zip(names, changed.reliabilities, strict=True) if of is not None}
    return ShownClass(
        line,
        changed.name in differing,
        curve_chart(dict(zip(names, changed.curves, strict=True))),
        reliability_chart(reliabilities) if len(reliabilities) == len(names) else None,
        strips,
    )
