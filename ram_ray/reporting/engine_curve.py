"""The precision-recall curve of what generation could add, and beside it that of adding the most frequent tags.

Generation writes it as `curve.json` (`data_engine.addition_curve`). Precision alone says little: in a data set of
people, "man" added to every image is often right. So the baseline adds the same number of the most frequent tags, the
best choice without looking at the image. Where the truth is not known, the page shows only the calibrated estimate,
against the number of tags.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import fsspec

from ram_ray.reporting.line_chart import LineChart, Point, draw_lines, round_axis

_COLOURS = ("var(--a)", "var(--b)", "var(--soft)")


@dataclass(frozen=True)
class Curve:
    """Lines by name, over the same axis."""

    lines: Mapping[str, Sequence[Point]]  # each point: recall (or number of tags), precision
    axis: str = "recall of the tags"
    selected: Point | None = None  # where generation stopped


def read_curve(uri: str) -> Curve | None:
    """Read the curve of a run.

    Args:
        uri: of a `curve.json`, at any fsspec URI.

    Returns:
        The curve; None where there is no file, or no tag could be added.

    Raises:
        ValueError: if the file holds something else.
    """
    try:
        with fsspec.open(uri, "r") as file:
            text = file.read()
    except FileNotFoundError:
        return None
    try:
        points = json.loads(text)["points"]
        if any(row.get("precision") is not None for row in points):
            names = {
                "the model": ("recall", "precision"),
                "as many of the most frequent tags": ("baseline_recall", "baseline_precision"),
                "the model, as calibrated": ("recall", "estimated"),
            }
            lines = {name: _line(points, *columns) for name, columns in names.items()}
            return Curve({name: line for name, line in lines.items() if line})
        line = _line(points, "added", "estimated")
        return Curve({"the model, as calibrated": line}, axis="tags added") if line else None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{uri} is no curve ({error!r}): remove it, and run generate again") from None


def _line(points: Sequence[Mapping[str, float | None]], across: str, up: str) -> list[Point]:
    pairs = [(row.get(across), row.get(up)) for row in points]
    line = [(float(x), float(y)) for x, y in pairs if x is not None and y is not None]
    if not all(math.isfinite(x) and math.isfinite(y) for x, y in line):
        raise ValueError(f"{across} and {up} hold a number that is not finite")
    return line


def to_chart(curve: Curve) -> LineChart:
    """Draw the curve: precision begins at 0, the other axis where the lines begin.

    Args:
        curve: with at least one point.

    Returns:
        The chart, for the macro `line_chart` of the templates.
    """
    points = [point for line in curve.lines.values() for point in line] + ([curve.selected] if curve.selected else [])
    xs, ys = zip(*points, strict=True)
    mark = None
    if curve.selected:
        recall, precision = curve.selected
        mark = (f"added: precision {precision:.3f}, recall {recall:.3f}", curve.selected)
    return draw_lines(
        curve.lines,
        x_axis=round_axis(min(xs), max(xs), end=1.0 if max(xs) <= 1 else math.inf),
        y_axis=round_axis(0.0, max(ys)),
        colours=_COLOURS,
        title="precision of what is added",
        x_title=curve.axis,
        mark=mark,
    )
