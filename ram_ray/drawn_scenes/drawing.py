"""Draw a scene with Pillow: textures for backgrounds, pictographs of DejaVu Sans, small marks for actions.

The image is drawn at twice its size and halved, which smooths all edges. A pictograph is two masks, rendered once and
cached: its ink, and the area inside its outline, which is filled with a light tint, so that outlines look solid at
26 px. Lengths are in units of 1/64 of the image's side, so images of any size look the same.

`plain` is easy on purpose, so that a small Swin trained from scratch learns from it; `hard` is not (small, overlapping,
any colour on any colour).
"""

from __future__ import annotations

import math
import random
from functools import lru_cache
from pathlib import Path
from typing import Literal

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps

from ram_ray.drawn_scenes.marks import draw_marks
from ram_ray.drawn_scenes.scene import COLOURS, OBJECTS, Scene, Thing
from ram_ray.drawn_scenes.textures import NUM_VARIANTS, texture

Level = Literal["plain", "hard"]
UNITS = 64
_CANVAS = 1.25  # side of a mask over its glyph's longer side: room to turn by 12 degrees
_MAX_MASK = 336  # pixels; larger glyphs are enlarged from this size, so that the cache stays under 20 MB
_PLAIN = (28.0, 36.0)
_PLAIN_ACTING = (24.0, 26.0)  # with the marks of its action a thing fills its quarter as other things do
_HARD = (18.0, 42.0)
# Offset of a thing from the centre of its quarter, to leave room for the marks of its action.
_OFFSETS = {
    None: (0.0, 0.0),
    "jump": (0.0, -3.0),
    "fall": (0.0, 3.0),
    "spin": (0, 0),
    "shine": (0, 0),
    "sleep": (-2, 2),
}


def draw(scene: Scene, *, size: int, level: Level = "plain", seed: int) -> Image.Image:
    """Draw `scene` as an RGB image; the same seed gives the same pixels.

    Args:
        scene: the scene.
        size: pixels a side.
        level: difficulty, "plain" or "hard".
        seed: seed of positions, textures and shades.

    Returns:
        An RGB image of `size` x `size` pixels.

    Raises:
        ValueError: if `size` is under 16 or over 4,096, or the level is unknown.
    """
    if not 16 <= size <= 4096:
        raise ValueError(f"size {size} is out of range; use 16 to 4096 pixels")
    if level not in ("plain", "hard"):
        raise ValueError(f"level {level!r} is unknown; use 'plain' or 'hard'")
    rng = random.Random(seed)
    scale = 2 * size / UNITS
    canvas = _background(scene.background, 2 * size, level, rng)
    for thing in scene.things:
        _draw_thing(canvas, thing, scale, level, rng)
    return canvas.reduce(2)


def _background(name: str, side: int, level: Level, rng: random.Random) -> Image.Image:
    canvas = texture(name, side, rng.randrange(NUM_VARIANTS))
    canvas = ImageOps.mirror(canvas) if rng.random() < 0.5 else canvas.copy()
    if level == "plain":
        return canvas
    dark, light = (tuple(rng.randrange(256) for _ in range(3)) for _ in range(2))
    return ImageOps.colorize(ImageOps.autocontrast(canvas.convert("L")), black=dark, white=light)


def _draw_thing(canvas: Image.Image, thing: Thing, scale: float, level: Level, rng: random.Random) -> None:
    glyph, turn = _sample_size(thing, level, rng)
    filled, ink, half = _glyph_masks(thing.name, glyph, turn, scale)
    x, y = _centre(thing, glyph, level, rng)
    colour, tint = _sample_colours(thing.colour, level, rng)
    marks = ImageDraw.Draw(canvas)
    if thing.action:
        draw_marks(marks, thing.action, (x, y), half, scale, layer="under")
    left, top = round(x * scale - filled.width / 2), round(y * scale - filled.height / 2)
    shift = round(0.8 * scale)
    canvas.paste((60, 60, 70), (left + shift, top + shift), filled.point(_SHADE))
    canvas.paste(tint, (left, top), filled)
    canvas.paste(colour, (left, top), ink)
    if thing.action:
        draw_marks(marks, thing.action, (x, y), half, scale, layer="over")


_SHADE = [value // 4 for value in range(256)]  # of a soft shadow, which separates a thing from its background


def _sample_size(thing: Thing, level: Level, rng: random.Random) -> tuple[float, float]:
    """Longer side of the glyph in units, and its rotation in degrees."""
    if level == "hard":
        return rng.uniform(*_HARD), rng.uniform(-20, 20)
    return rng.uniform(*(_PLAIN_ACTING if thing.action else _PLAIN)), rng.uniform(-12, 12)


def _centre(thing: Thing, glyph: float, level: Level, rng: random.Random) -> tuple[float, float]:
    half = glyph / 2
    if level == "hard":
        return rng.uniform(half, UNITS - half), rng.uniform(half, UNITS - half)
    offset = _OFFSETS[thing.action]
    jitter = 0.5 if thing.action else 2.0
    middle = (UNITS / 4 + UNITS / 2 * (thing.quarter % 2), UNITS / 4 + UNITS / 2 * (thing.quarter // 2))
    x, y = (position + shift + rng.uniform(-jitter, jitter) for position, shift in zip(middle, offset, strict=True))
    return min(max(x, half), UNITS - half), min(max(y, half), UNITS - half)


def _sample_colours(name: str, level: Level, rng: random.Random) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Colour of the ink and of the enclosed area."""
    spread = 10 if level == "plain" else 24
    colour = tuple(min(max(value + rng.randint(-spread, spread), 0), 255) for value in COLOURS[name])
    return colour, tuple(255 - (255 - value) // 5 for value in colour)


def _glyph_masks(
    name: str, glyph: float, turn: float, scale: float
) -> tuple[Image.Image, Image.Image, tuple[float, float]]:
    """Masks of a glyph at its size and rotation; its half width and half height in units, before the rotation."""
    longest = min(round(_HARD[1] * scale), _MAX_MASK)
    masks, (width, height) = _glyph(name, longest)
    target = glyph * scale
    side = int(target * _CANVAS) + 2
    cos, sin = math.cos(math.radians(turn)) * longest / target, math.sin(math.radians(turn)) * longest / target
    middle, centre = side / 2, masks[0].width / 2
    matrix = (
        *(cos, sin, centre - cos * middle - sin * middle),
        *(-sin, cos, centre + sin * middle - cos * middle),
    )
    filled, ink = (
        mask.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR) for mask in masks
    )
    return filled, ink, (width * glyph / 2, height * glyph / 2)


@lru_cache(maxsize=256)
def _glyph(name: str, longest: int) -> tuple[tuple[Image.Image, Image.Image], tuple[float, float]]:
    """Two "L" masks of a glyph whose longer side is `longest` pixels, filled and ink; its width and height over it."""
    glyph = OBJECTS[name]
    em = longest
    ink = Image.new("L", (3 * em, 3 * em))
    stroke = round(glyph.stroke * em)
    ImageDraw.Draw(ink).text(
        (1.5 * em, 1.5 * em), chr(glyph.code), font=_font(em), fill=255, anchor="mm", stroke_width=stroke
    )
    if glyph.body_only:
        ink = ImageChops.multiply(ink, _body(ink))
    box = ink.getbbox()
    assert box is not None, f"the font has no glyph for {name}"
    ink = ink.crop(box)
    factor = longest / max(ink.size)
    width, height = max(round(ink.width * factor), 1), max(round(ink.height * factor), 1)
    side = int(longest * _CANVAS) + 2
    canvas = Image.new("L", (side, side))
    canvas.paste(ink.resize((width, height), Image.Resampling.LANCZOS), ((side - width) // 2, (side - height) // 2))
    # The flood stops inside a soft edge: there the ink's own edge is the silhouette's.
    return (ImageChops.lighter(_enclosed(canvas), canvas), canvas), (width / longest, height / longest)


def _enclosed(ink: Image.Image) -> Image.Image:
    """Mask of the ink and of all that it encloses."""
    outside = ink.point([255 if value > 96 else 0 for value in range(256)])
    ImageDraw.floodfill(outside, (0, 0), 128)
    return outside.point([0 if value == 128 else 255 for value in range(256)])


def _body(ink: Image.Image) -> Image.Image:
    """Mask of the connected part of the silhouette that is in the lower middle."""
    mask = _enclosed(ink)
    box = mask.getbbox()
    assert box is not None, "nothing was drawn"
    left, top, right, bottom = box
    ImageDraw.floodfill(mask, ((left + right) // 2, top + 3 * (bottom - top) // 4), 128)
    return mask.point([255 if value == 128 else 0 for value in range(256)]).filter(ImageFilter.MaxFilter(3))


@lru_cache(maxsize=8)
def _font(em: int) -> ImageFont.FreeTypeFont:
    import matplotlib  # only for the folder of its fonts; pyplot is never imported

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(path, em)
