"""The precision-recall curve of what generation could add, and beside it that of adding the most frequent tags.

Generation leaves it as `curve.json` beside its rows. Precision alone says little: adding "man" to every photo of a set
of people is right often. So the curve stands against the tags by their frequency, the best that can be done without
looking at a picture.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import fsspec

Point = tuple[float, float]  # recall, precision


@dataclass(frozen=True)
class Curve:
    """Lines of (recall, precision), by what they are, and where generation stopped."""

    lines: Mapping[str, Sequence[Point]]  # the first is the model's
    chosen: Point | None = None


def read_curve(uri: str) -> Curve | None:
    """The curve at `uri`: {"lines": {name: [[recall, precision], ...]}, "chosen": [recall, precision]}; None: none is.

    Raises:
        ValueError: if there is something else.
    """
    try:
        with fsspec.open(uri, "r") as file:
            text = file.read()
    except FileNotFoundError:
        return None
    try:
        tree = json.loads(text)
        lines = {str(name): [_point(one) for one in points] for name, points in tree["lines"].items()}
        chosen = tree.get("chosen")
        return Curve(lines, _point(chosen) if chosen else None)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{uri} is no curve ({error!r}): remove it, and run generate again") from None


def _point(value: Any) -> Point:
    recall, precision = value
    if not (math.isfinite(recall) and math.isfinite(precision)):
        raise ValueError(f"{value} is no point")
    return float(recall), float(precision)


_COLOURS = ("var(--a)", "var(--soft)", "var(--b)", "var(--c)")


def to_svg(curve: Curve) -> str:
    """The curve as inline SVG; both axes begin at 0 and end where the curves do."""
    left, top, width, height = 48, 12, 520, 240
    points = [point for line in curve.lines.values() for point in line] + ([curve.chosen] if curve.chosen else [])
    across = _ceiling(max((point[0] for point in points), default=1.0))
    up = _ceiling(max((point[1] for point in points), default=1.0))

    def place(point: Point) -> tuple[float, float]:
        return left + width * min(point[0] / across, 1), top + height * (1 - min(point[1] / up, 1))

    marks = []
    for tick in range(5):
        share = tick / 4
        x, y = left + width * share, top + height * (1 - share)
        marks.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{left + width}" y2="{y:.1f}"/>')
        marks.append(f'<text class="tick" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{up * share:.3g}</text>')
        below = top + height + 16
        marks.append(f'<text class="tick" x="{x:.1f}" y="{below}" text-anchor="middle">{across * share:.3g}</text>')
    for colour, line in zip(_COLOURS, curve.lines.values(), strict=False):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, line))
        marks.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>')
    if curve.chosen:
        x, y = place(curve.chosen)
        marks.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{_COLOURS[0]}"/>')
    marks.append(f'<text class="tick" x="{left + width}" y="{top + height + 32}" text-anchor="end">recovered</text>')
    names = zip(_COLOURS, curve.lines, strict=False)
    key = "".join(f'<span><i style="background:{colour}"></i>{escape(name)}</span>' for colour, name in names)
    if curve.chosen:
        recall, precision = curve.chosen
        key += f'<span><i class="dot"></i>added: precision {precision:.3f}, recovered {recall:.3f}</span>'
    return (
        f'<figcaption>precision<span class="keys">{key}</span></figcaption><svg viewBox="0 0 {left + width + 12} '
        f'{top + height + 38}" role="img" aria-label="precision against recovered">{"".join(marks)}</svg>'
    )


def _ceiling(value: float) -> float:
    """A round number that is at least `value`, and at most 1."""
    steps = (0.01, 0.02, 0.04, 0.08, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
    return next((step for step in steps if value <= step), 1.0)
