"""The six backgrounds: light, so that every colour is visible, and each with a texture of its own.

A texture is drawn from a fixed seed for each (name, variant) and cached: to draw it takes longer than the rest of a
scene. A few variants, mirrored at random, are enough that a model does not memorise them.
"""

from __future__ import annotations

import random
from functools import lru_cache

from PIL import Image, ImageDraw

NUM_VARIANTS = 8
UNITS = 64
_MAX_SIDE = 512  # larger textures are enlarged from this size, so that the cache stays under 40 MB
Colour = tuple[int, int, int]


def texture(name: str, side: int, variant: int) -> Image.Image:
    """Draw a background, or take it from the cache: copy it before drawing on it.

    Args:
        name: name of the background.
        side: side in pixels.
        variant: number of the variant, 0 to `NUM_VARIANTS` - 1.

    Returns:
        An RGB image of `side` x `side` pixels.
    """
    if side <= _MAX_SIDE:
        return _drawn(name, side, variant)
    return _drawn(name, _MAX_SIDE, variant).resize((side, side), Image.Resampling.BICUBIC)


@lru_cache(maxsize=6 * NUM_VARIANTS)
def _drawn(name: str, side: int, variant: int) -> Image.Image:
    rng = random.Random(f"{name}/{variant}")
    image = Image.new("RGB", (side, side), (255, 255, 255))
    _DRAWERS[name](ImageDraw.Draw(image), side / UNITS, rng)
    return image


def _rows(canvas: ImageDraw.ImageDraw, scale: float, top: Colour, bottom: Colour) -> None:
    """Fill with a vertical gradient."""
    side = round(UNITS * scale)
    for y in range(side):
        share = y / max(side - 1, 1)
        colour = tuple(round(first + (last - first) * share) for first, last in zip(top, bottom, strict=True))
        canvas.line([(0, y), (side, y)], fill=colour)


def _dot(canvas: ImageDraw.ImageDraw, scale: float, x: float, y: float, radius: float, colour: Colour) -> None:
    canvas.ellipse(
        [(x - radius) * scale, (y - radius) * scale, (x + radius) * scale, (y + radius) * scale], fill=colour
    )


def _beach(canvas: ImageDraw.ImageDraw, scale: float, rng: random.Random) -> None:
    _rows(canvas, scale, (255, 244, 216), (250, 232, 190))
    for _ in range(150):
        colour = rng.choice([(238, 212, 160), (255, 250, 234), (230, 202, 150)])
        _dot(canvas, scale, rng.uniform(0, UNITS), rng.uniform(0, UNITS), rng.uniform(0.3, 0.7), colour)
    for _ in range(4):  # ripples
        x, y, length = rng.uniform(-6, 50), rng.uniform(3, 61), rng.uniform(12, 26)
        canvas.arc(
            [x * scale, y * scale, (x + length) * scale, (y + 5) * scale], 200, 340, (236, 210, 160), round(scale) or 1
        )


def _meadow(canvas: ImageDraw.ImageDraw, scale: float, rng: random.Random) -> None:
    _rows(canvas, scale, (218, 242, 190), (196, 230, 158))
    for _ in range(46):
        x, y, height = rng.uniform(0, UNITS), rng.uniform(2, UNITS), rng.uniform(2.5, 4.5)
        colour = rng.choice([(160, 208, 116), (176, 220, 132)])
        for offset in (-1.2, 0, 1.2):
            canvas.line(
                [x * scale, y * scale, (x + offset) * scale, (y - height) * scale], fill=colour, width=round(scale / 2)
            )
    for _ in range(7):  # daisies
        x, y = rng.uniform(0, UNITS), rng.uniform(0, UNITS)
        _dot(canvas, scale, x, y, 1.0, (255, 255, 250))
        _dot(canvas, scale, x, y, 0.4, (248, 220, 110))


def _snow(canvas: ImageDraw.ImageDraw, scale: float, rng: random.Random) -> None:
    _rows(canvas, scale, (232, 236, 246), (250, 251, 255))
    for _ in range(4):  # drifts
        x, y, length = rng.uniform(-20, 50), rng.uniform(8, 58), rng.uniform(24, 44)
        canvas.arc(
            [x * scale, y * scale, (x + length) * scale, (y + 14) * scale], 190, 350, (208, 216, 234), round(scale)
        )
    for _ in range(70):
        colour = rng.choice([(255, 255, 255), (212, 220, 238)])
        _dot(canvas, scale, rng.uniform(0, UNITS), rng.uniform(0, UNITS), rng.uniform(0.4, 1.1), colour)


def _lake(canvas: ImageDraw.ImageDraw, scale: float, rng: random.Random) -> None:
    _rows(canvas, scale, (186, 234, 232), (156, 218, 222))
    for row in range(10):
        shift = rng.uniform(0, 8)
        for column in range(-1, 9):
            x, y = column * 8 + shift, row * 6.6 + rng.uniform(0, 1.5)
            box = [x * scale, y * scale, (x + 7) * scale, (y + 4) * scale]
            colour = (222, 248, 246) if (row + column) % 3 == 0 else (126, 202, 208)
            canvas.arc(box, 20, 160, colour, max(round(0.8 * scale), 1))


def _wall(canvas: ImageDraw.ImageDraw, scale: float, rng: random.Random) -> None:
    _rows(canvas, scale, (252, 238, 230), (252, 238, 230))
    height, width = 6.4, 13.0
    start = rng.uniform(-width, 0)
    for row in range(-1, 11):
        for column in range(-1, 7):
            x = column * width + start + (row % 2) * width / 2
            y = row * height + start / 4
            shade = rng.randint(-7, 7)
            colour = (242 + shade, 208 + shade, 190 + shade)
            box = [x * scale, y * scale, (x + width - 1.1) * scale, (y + height - 1.1) * scale]
            canvas.rounded_rectangle(box, radius=0.6 * scale, fill=colour)


def _sky(canvas: ImageDraw.ImageDraw, scale: float, rng: random.Random) -> None:
    _rows(canvas, scale, (160, 202, 255), (222, 238, 255))
    for _ in range(7):  # wisps, thin enough not to be taken for the pictograph of a cloud
        x, y, length = rng.uniform(-8, 56), rng.uniform(2, 62), rng.uniform(10, 22)
        for part in range(3):
            left, width = x + rng.uniform(0, 4) + part, length - 2.5 * part
            box = [left * scale, (y + part * 1.1) * scale, (left + width) * scale, (y + part * 1.1 + 0.9) * scale]
            canvas.rounded_rectangle(box, radius=0.45 * scale, fill=(238, 246, 255))


_DRAWERS = {"beach": _beach, "meadow": _meadow, "snow": _snow, "lake": _lake, "wall": _wall, "sky": _sky}
