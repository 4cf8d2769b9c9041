"""The small marks that show an action, as in a comic.

A shadow under a thing that jumps, lines above a thing that falls, arcs around a thing that spins, rays around a thing
that shines, Zs over a thing that sleeps. Each mark has a fixed colour and a size in units of 1/64 of the image's side,
so that it can be learned independently of the thing.
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
    canvas: ImageDraw.ImageDraw,
    action: str,
    centre: Point,
    half: Point,
    scale: float,
    *,
    layer: Literal["under", "over"],
) -> None:
    """Draw the marks of an action.

    Args:
        canvas: the canvas.
        action: action of the thing.
        centre: (x, y) of the thing's centre in units.
        half: half width and half height of the thing in units.
        scale: pixels a unit.
        layer: "under" before the thing is drawn, "over" afterwards; a mark is drawn in one of the two.
    """
    pen = _Pen(canvas, scale)
    x, y = centre
    half_width, half_height = half
    if action == "jump" and layer == "under":
        ground = y + half_height + 4.5
        pen.ellipse((x, ground), (max(half_width, 7) * 0.8, 1.7), (96, 98, 108))
        for side in (-1, 1):
            pen.line(
                [(x + side * half_width * 0.55, y + half_height + 0.5), (x + side * half_width * 0.55, ground - 2)],
                _DARK,
            )
    elif action == "fall" and layer == "under":
        for side, length in ((-1, 4.5), (0, 6.5), (1, 4.5)):
            at = x + side * max(half_width, 7) * 0.7
            pen.line([(at, y - half_height - 1.5 - length), (at, y - half_height - 1.5)], _DARK)
    elif action == "spin" and layer == "over":
        for turn in (0, 180):
            pen.arc_arrow((x, y), max(half_width, half_height) + 2.6, turn, _DARK)
    elif action == "shine" and layer == "over":
        for step in range(12):
            angle = math.radians(30 * step + 15)
            start, end = (
                (math.cos(angle) * (half_width + gap), math.sin(angle) * (half_height + gap)) for gap in (1.2, 4.6)
            )
            pen.line([(x + start[0], y + start[1]), (x + end[0], y + end[1])], _GOLD)
    elif action == "sleep" and layer == "over":
        pen.letter_z((x + half_width * 0.55, y - half_height + 0.5), 4.2)
        pen.letter_z((x + half_width * 0.55 + 5.2, y - half_height - 4), 5.4)


class _Pen:
    """Strokes in units on a canvas in pixels."""

    def __init__(self, canvas: ImageDraw.ImageDraw, scale: float) -> None:
        self.canvas = canvas
        self.scale = scale

    def _pixels(self, points: list[Point]) -> list[Point]:
        return [(x * self.scale, y * self.scale) for x, y in points]

    def line(self, points: list[Point], colour: tuple[int, int, int], width: float = 1.7) -> None:
        self.canvas.line(self._pixels(points), fill=colour, width=max(round(width * self.scale), 1), joint="curve")

    def ellipse(self, centre: Point, half: Point, colour: tuple[int, int, int]) -> None:
        (x, y), (half_width, half_height) = centre, half
        self.canvas.ellipse(
            self._pixels([(x - half_width, y - half_height), (x + half_width, y + half_height)]), fill=colour
        )

    def arc_arrow(self, centre: Point, radius: float, turn: float, colour: tuple[int, int, int]) -> None:
        """An arc of a quarter circle on one side, with an arrowhead at its end."""
        x, y = centre
        angles = [math.radians(turn + degrees) for degrees in range(-45, 46, 9)]
        self.line([(x + math.cos(angle) * radius, y + math.sin(angle) * radius) for angle in angles], colour)
        tip = math.radians(turn + 62)
        base = math.radians(turn + 40)
        head = [
            (x + math.cos(tip) * radius, y + math.sin(tip) * radius),
            (x + math.cos(base) * (radius + 2.4), y + math.sin(base) * (radius + 2.4)),
            (x + math.cos(base) * (radius - 2.4), y + math.sin(base) * (radius - 2.4)),
        ]
        self.canvas.polygon(self._pixels(head), fill=colour)

    def letter_z(self, centre: Point, side: float) -> None:
        x, y = centre
        half = side / 2
        path = [(x - half, y - half), (x + half, y - half), (x - half, y + half), (x + half, y + half)]
        self.line(path, (255, 255, 255), 3.4)
        self.line(path, _NIGHT, 1.5)
