"""The small marks that show an action, as a comic does.

A shadow under what jumps, lines above what falls, arcs round what spins, rays round what shines, Zs over what sleeps.
They keep one colour each and their size in units of a 64th of the picture, so they can be learned apart from the
thing they belong to.
"""

from __future__ import annotations

import math
from typing import Literal

from PIL import ImageDraw

_DARK = (62, 64, 76)
_GOLD = (244, 140, 0)
_NIGHT = (34, 42, 140)

Point = tuple[float, float]


def draw_marks(
    on: ImageDraw.ImageDraw, action: str, centre: Point, half: Point, scale: float, *, layer: Literal["under", "over"]
) -> None:
    """Draw the marks of `action` for a thing at `centre` with half width and half height `half`, in units.

    `scale` is pixels a unit. The layer says whether the thing is yet to be drawn or already there.

    Args:
        on: the canvas.
        action: of the thing.
        centre: of the thing, in units.
        half: half width and half height, in units.
        scale: pixels a unit.
        layer: "under", before the thing is drawn, or "over".
    """
    pen = _Pen(on, scale)
    x, y = centre
    wide, high = half
    if action == "jump" and layer == "under":
        ground = y + high + 4.5
        pen.ellipse((x, ground), (max(wide, 7) * 0.8, 1.7), (96, 98, 108))
        for side in (-1, 1):
            pen.line([(x + side * wide * 0.55, y + high + 0.5), (x + side * wide * 0.55, ground - 2)], _DARK)
    elif action == "fall" and layer == "under":
        for side, length in ((-1, 4.5), (0, 6.5), (1, 4.5)):
            at = x + side * max(wide, 7) * 0.7
            pen.line([(at, y - high - 1.5 - length), (at, y - high - 1.5)], _DARK)
    elif action == "spin" and layer == "over":
        for turn in (0, 180):
            pen.arc_arrow((x, y), max(wide, high) + 2.6, turn, _DARK)
    elif action == "shine" and layer == "over":
        for step in range(12):
            angle = math.radians(30 * step + 15)
            start, end = ((math.cos(angle) * (wide + by), math.sin(angle) * (high + by)) for by in (1.2, 4.6))
            pen.line([(x + start[0], y + start[1]), (x + end[0], y + end[1])], _GOLD)
    elif action == "sleep" and layer == "over":
        pen.letter_z((x + wide * 0.55, y - high + 0.5), 4.2)
        pen.letter_z((x + wide * 0.55 + 5.2, y - high - 4), 5.4)


class _Pen:
    """Strokes in units on a canvas in pixels."""

    def __init__(self, on: ImageDraw.ImageDraw, scale: float) -> None:
        self.on = on
        self.scale = scale

    def _pixels(self, points: list[Point]) -> list[Point]:
        return [(x * self.scale, y * self.scale) for x, y in points]

    def line(self, points: list[Point], colour: tuple[int, int, int], width: float = 1.7) -> None:
        self.on.line(self._pixels(points), fill=colour, width=max(round(width * self.scale), 1), joint="curve")

    def ellipse(self, centre: Point, half: Point, colour: tuple[int, int, int]) -> None:
        (x, y), (wide, high) = centre, half
        self.on.ellipse(self._pixels([(x - wide, y - high), (x + wide, y + high)]), fill=colour)

    def arc_arrow(self, centre: Point, radius: float, turn: float, colour: tuple[int, int, int]) -> None:
        """An arc of a quarter circle on one side, with a head at its end."""
        x, y = centre
        angles = [math.radians(turn + degrees) for degrees in range(-45, 46, 9)]
        self.line([(x + math.cos(a) * radius, y + math.sin(a) * radius) for a in angles], colour)
        tip = math.radians(turn + 62)
        base = math.radians(turn + 40)
        head = [
            (x + math.cos(tip) * radius, y + math.sin(tip) * radius),
            (x + math.cos(base) * (radius + 2.4), y + math.sin(base) * (radius + 2.4)),
            (x + math.cos(base) * (radius - 2.4), y + math.sin(base) * (radius - 2.4)),
        ]
        self.on.polygon(self._pixels(head), fill=colour)

    def letter_z(self, centre: Point, side: float) -> None:
        x, y = centre
        half = side / 2
        path = [(x - half, y - half), (x + half, y - half), (x - half, y + half), (x + half, y + half)]
        self.line(path, (255, 255, 255), 3.4)
        self.line(path, _NIGHT, 1.5)
