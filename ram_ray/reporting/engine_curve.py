"""The precision-recall curve of what generation could add, and beside it that of adding the most frequent tags.

Generation writes it as `curve.json` (`data_engine.curve`). Precision alone says little: in a data set of people,
"man" added to every image is often right. So the baseline adds the same number of the most frequent tags, the best
choice without looking at the image. Where the truth is not known, the page shows only the calibrated estimate,
against the number of tags.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import fsspec

Point = tuple[float, float]  # recall (or number of tags), precision
_COLOURS = ("var(--a)", "var(--b)", "var(--soft)")


@dataclass(frozen=True)
class Curve:
    """Lines by name, over the same axis."""

    lines: Mapping[str, Sequence[Point]]
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


def _line(points: Sequence[Mapping[str, Any]], across: str, up: str) -> list[Point]:
    pairs = [(row.get(across), row.get(up)) for row in points]
    line = [(float(x), float(y)) for x, y in pairs if x is not None and y is not None]
    if not all(math.isfinite(x) and math.isfinite(y) for x, y in line):
        raise ValueError(f"{across} and {up} hold a number that is not finite")
    return line


def to_svg(curve: Curve) -> str:
    """The curve as inline SVG with its legend; precision begins at 0, the other axis where the lines begin.

    Args:
        curve: with at least one point.

    Returns:
        A `figcaption` and an `svg` element.
    """
    left, top, width, height = 44, 10, 520, 230
    points = [point for line in curve.lines.values() for point in line] + ([curve.selected] if curve.selected else [])
    xs, ys = zip(*points, strict=True)
    low, step = _ticks(min(xs), max(xs))
    _, rise = _ticks(0.0, max(ys))

    def to_pixels(point: Point) -> Point:
        return left + width * (point[0] - low) / (4 * step), top + height * (1 - point[1] / (4 * rise))

    marks = []
    for tick in range(5):
        x, y = left + width * tick / 4, top + height * (1 - tick / 4)
        across, up = low + tick * step, tick * rise
        marks.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{left + width}" y2="{y:.1f}"/>')
        marks.append(f'<text class="tick" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{up:.3g}</text>')
        name = f"{across:,.0f}" if step >= 1 else f"{across:.3g}"
        marks.append(f'<text class="tick" x="{x:.1f}" y="{top + height + 16}" text-anchor="middle">{name}</text>')
    for colour, line in zip(_COLOURS, curve.lines.values(), strict=False):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(to_pixels, line))
        marks.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>')
    if curve.selected:
        x, y = to_pixels(curve.selected)
        marks.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{_COLOURS[0]}"/>')
    size = f"0 0 {left + width + 14} {top + height + 36}"
    axis_title = (
        f'<text class="tick" x="{left + width}" y="{top + height + 32}" text-anchor="end">{escape(curve.axis)}</text>'
    )
    return (
        f'<figcaption>precision of what is added{_legend(curve)}</figcaption><svg viewBox="{size}" role="img" '
        f'aria-label="precision of what is added">{"".join(marks)}{axis_title}</svg>'
    )


def _legend(curve: Curve) -> str:
    names = zip(_COLOURS, curve.lines, strict=False)
    legend = "".join(f'<span><i style="background:{colour}"></i>{escape(name)}</span>' for colour, name in names)
    if curve.selected:
        recall, precision = curve.selected
        legend += f'<span><i class="dot"></i>added: precision {precision:.3f}, recall {recall:.3f}</span>'
    return f'<span class="keys">{legend}</span>'


def _ticks(first: float, last: float) -> tuple[float, float]:
    """Where an axis begins and its step, so that four round steps hold everything from `first` to `last`."""
    least = max((last - first) / 4, 0.0025)
    scale = 10.0 ** math.floor(math.log10(least))
    for factor in (1, 2, 2.5, 5, 10, 20):
        step = factor * scale
        low = math.floor(first / step + 1e-9) * step
        if low + 4 * step >= last - 1e-9:
            beyond = low + 4 * step > 1 >= last  # a share ends at 1
            return (1 - 4 * step if beyond else low), step
    raise AssertionError((first, last))
