"""A chart of lines over two axes: where each line, grid line and text is, for the macro `line_chart` of the templates.

Each axis has four steps of a round size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """Four steps of the same size.

    Args:
        first: value at the beginning.
        step: size of one of the four steps.
    """

    first: float
    step: float

    def share(self, value: float) -> float:
        """Where a value is: 0 at the axis' beginning, 1 at its end."""
        return (value - self.first) / (4 * self.step)

    @property
    def labels(self) -> list[tuple[float, str]]:
        """The five values that are written at the axis, each with its text."""
        values = [self.first + index * self.step for index in range(5)]
        return [(value, f"{value:,.0f}" if self.step.is_integer() else f"{value:.6g}") for value in values]


@dataclass(frozen=True)
class Tick:
    """A value of an axis, as text."""

    position: float  # in pixels
    text: str


@dataclass(frozen=True)
class Line:
    """A line and its entry in the legend."""

    name: str
    colour: str
    points: Sequence[Point]  # in pixels


@dataclass(frozen=True)
class Mark:
    """A point on the first line and its entry in the legend."""

    text: str
    colour: str
    position: Point  # in pixels


@dataclass(frozen=True)
class LineChart:
    """What the macro draws; lengths are in pixels of the drawing, whose origin is the upper left."""

    title: str
    x_title: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    lines: Sequence[Line]
    mark: Mark | None = None
    y_title: str = ""
    left: int = 44  # space for the numbers of the upward axis
    top: int = 10
    width: int = 520  # of the area of the lines
    height: int = 230


def round_axis(first: float, last: float, *, end: float = math.inf, min_step: float = 0.0025) -> Axis:
    """The axis with the smallest round steps that holds two values.

    Args:
        first: the smallest value, finite.
        last: the largest value, finite.
        end: where the axis ends at the latest, unless `last` is larger.
        min_step: the power of ten at or below it is the smallest step.

    Returns:
        The axis.
    """
    scale = 10.0 ** math.floor(math.log10(max((last - first) / 4, min_step)))
    for factor in (1, 2, 2.5, 5, 10, 20):
        step = factor * scale
        start = math.floor(first / step + 1e-9) * step
        if start + 4 * step >= last - 1e-9 * step:
            return Axis(end - 4 * step if start + 4 * step > end >= last else start, step)
    raise AssertionError((first, last))


def draw_lines(
    lines: Mapping[str, Sequence[Point]],
    *,
    x_axis: Axis,
    y_axis: Axis,
    colours: Iterable[str],
    title: str,
    x_title: str,
    y_title: str = "",
    mark: tuple[str, Point] | None = None,
    size: tuple[int, int] = (LineChart.width, LineChart.height),
) -> LineChart:
    """Place lines and texts.

    Args:
        lines: points by the name of the line.
        x_axis: of the points' first values.
        y_axis: of their second values.
        colours: of the lines, in their order; used again where there are more lines.
        title: above the drawing.
        x_title: below the axis.
        y_title: beside the upward axis.
        mark: a text for the legend and a point, drawn in the first colour.
        size: width and height of the area of the lines.

    Returns:
        The chart.
    """
    colours = list(colours)
    left, top = LineChart.left, LineChart.top
    width, height = size

    def to_pixels(point: Point) -> Point:
        return left + width * x_axis.share(point[0]), top + height * (1 - y_axis.share(point[1]))

    return LineChart(
        title=title,
        x_title=x_title,
        y_title=y_title,
        x_ticks=[Tick(left + width * x_axis.share(x), text) for x, text in x_axis.labels],
        y_ticks=[Tick(top + height * (1 - y_axis.share(y)), text) for y, text in y_axis.labels],
        lines=[
            Line(name, colour, [to_pixels(point) for point in points])
            for colour, (name, points) in zip(cycle(colours), lines.items(), strict=False)
        ],
        mark=Mark(mark[0], colours[0], to_pixels(mark[1])) if mark else None,
        width=width,
        height=height,
    )
