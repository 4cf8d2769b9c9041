"""Loss curves of training stages, from the `metrics.jsonl` that training writes into the folder of each model.

A line that is no metrics, such as the half line of a run that was killed, is skipped. A step that was trained twice,
because training went on from a checkpoint, counts as it was trained last. A curve of many steps is drawn by the means
of bins of steps.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import fsspec
from pydantic import ValidationError

from ram_ray.reporting.line_chart import LineChart, Point, draw_lines, round_axis
from ram_ray.training.metrics import METRICS, Metrics

MAX_POINTS = 200  # of a line of a chart
MAX_LOSSES = 8  # lines of a chart
_MAX_LINES = 100_000  # of a file that are read
_MAX_VALUE = 1e30  # of a loss
_COLOURS = ("var(--a)", "var(--b)", "var(--c)", "var(--d)", "var(--e)", "var(--f)", "var(--soft)", "var(--ink)")


@dataclass(frozen=True)
class LossCurves:
    """The losses of one training stage."""

    stage: str
    lines: Mapping[str, Sequence[Point]]  # by name of the loss: (step, loss), at most MAX_POINTS in the order of steps


def read_metrics(uri: str) -> list[Metrics]:
    """Read the metrics of a training stage.

    Args:
        uri: of a `metrics.jsonl`, at any fsspec URI.

    Returns:
        Metrics in the order of steps, one for each step; empty where there is no file or no line of metrics.
    """
    try:
        with fsspec.open(uri, "r", encoding="utf-8", errors="replace") as file:
            by_step = {metrics.step: metrics for metrics in _parse_lines(islice(file, _MAX_LINES))}
    except FileNotFoundError:
        return []
    return [by_step[step] for step in sorted(by_step)]


def read_loss_curves(folders: Mapping[str, str]) -> list[LossCurves]:
    """Read the loss curves of training stages.

    Args:
        folders: URI of the model's folder by the name of the stage, in the order of the run.

    Returns:
        The curves of each stage that has any.
    """
    curves = [to_curves(stage, read_metrics(f"{uri.rstrip('/')}/{METRICS}")) for stage, uri in folders.items()]
    return [curve for curve in curves if curve.lines]


def to_curves(stage: str, metrics: Sequence[Metrics]) -> LossCurves:
    """Turn metrics into a line for each loss.

    Args:
        stage: name of the training stage.
        metrics: in the order of steps.

    Returns:
        The first MAX_LOSSES losses; values that are not finite, or that no axis can hold, are left out.
    """
    names = list(dict.fromkeys(name for row in metrics for name in row.losses))[:MAX_LOSSES]
    points = {name: [(float(row.step), row.losses.get(name, math.nan)) for row in metrics] for name in names}
    lines = {name: _means([point for point in line if abs(point[1]) < _MAX_VALUE]) for name, line in points.items()}
    return LossCurves(stage, {name: line for name, line in lines.items() if line})


def to_chart(curves: LossCurves) -> LineChart:
    """Draw the losses of a stage over its steps; the upward axis begins at 0, or at the smallest loss below it.

    Args:
        curves: with at least one point.

    Returns:
        The chart, for the macro `line_chart` of the templates.
    """
    steps, losses = zip(*(point for line in curves.lines.values() for point in line), strict=True)
    return draw_lines(
        curves.lines,
        x_axis=round_axis(0.0, max(steps), min_step=1.0),
        y_axis=round_axis(min(*losses, 0.0), max(*losses, 0.0), min_step=1e-6),
        colours=_COLOURS,
        title=curves.stage,
        x_title="step",
        y_title="loss",
    )


def _parse_lines(lines: Iterable[str]) -> Iterator[Metrics]:
    for line in lines:
        with contextlib.suppress(ValidationError):
            yield Metrics.model_validate_json(line)


def _means(line: Sequence[Point]) -> list[Point]:
    """Means of bins of the same number of neighbouring points, so that at most MAX_POINTS are left."""
    size = max(1, math.ceil(len(line) / MAX_POINTS))
    bins = (line[start : start + size] for start in range(0, len(line), size))
    return [(sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)) for points in bins]
