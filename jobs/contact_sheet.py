"""Draw a contact sheet of scenes with their captions: python jobs/contact_sheet.py --out FILE.png [--level hard].

The first rows show every pictograph by name, then every action, then random scenes with a faulty web caption,
so that a person can check the training images.
"""

from __future__ import annotations

import argparse
import random
import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone that is not installed

from PIL import Image, ImageDraw

from ram_ray.drawn_scenes import ACTIONS, BACKGROUNDS, COLOURS, OBJECTS, Scene, Thing, draw, draw_caption, sample_scene

_GAP = 10  # pixels
_TEXT_HEIGHT = 58  # pixels under an image: four lines


def main() -> None:
    """Write the sheet that the options of the command line ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="the PNG to write")
    parser.add_argument("--level", choices=("plain", "hard"), default="plain")
    parser.add_argument("--size", type=int, default=64, help="pixels a scene")
    parser.add_argument("--zoom", type=int, default=2, help="each pixel is shown this many times larger")
    parser.add_argument("--scenes", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    cells = [*_vocabulary(rng), *_actions(rng)]
    for _ in range(options.scenes):
        scene = sample_scene(rng)
        cells.append((scene, draw_caption(scene, rng, unmentioned=0.35, false=0.1)))
    images = [
        (draw(scene, size=options.size, level=options.level, seed=rng.getrandbits(32)), text) for scene, text in cells
    ]
    sheet = _lay_out(images, options.size * options.zoom)
    sheet.save(options.out)
    print(f"{options.out}: {sheet.width} x {sheet.height} pixels, {len(cells)} scenes, level {options.level}")


def _vocabulary(rng: random.Random) -> list[tuple[Scene, str]]:
    """Every object, four a scene, each background and each colour in turn."""
    names, colours, backgrounds = list(OBJECTS), list(COLOURS), list(BACKGROUNDS)
    cells = []
    for start in range(0, len(names), 4):
        group = names[start : start + 4]
        things = tuple(
            Thing(name, colours[(start + quadrant) % len(colours)], None, quadrant)
            for quadrant, name in enumerate(group)
        )
        background = backgrounds[start // 4 % len(backgrounds)]
        cells.append((Scene(background, things), f"{', '.join(group)} ({background})"))
    return cells


def _actions(rng: random.Random) -> list[tuple[Scene, str]]:
    """Every action, on four things each."""
    cells = []
    for action in ACTIONS:
        names, colours = rng.sample(list(OBJECTS), 4), rng.sample(list(COLOURS), 4)
        things = tuple(Thing(name, colours[quadrant], action, quadrant) for quadrant, name in enumerate(names))
        cells.append((Scene(rng.choice(list(BACKGROUNDS)), things), f"{action}: {', '.join(names)}"))
    return cells


def _lay_out(images: list[tuple[Image.Image, str]], side: int, columns: int = 8) -> Image.Image:
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (side + _GAP) + _GAP, rows * (side + _TEXT_HEIGHT + _GAP) + _GAP), "white")
    canvas = ImageDraw.Draw(sheet)
    for index, (image, text) in enumerate(images):
        x = _GAP + index % columns * (side + _GAP)
        y = _GAP + index // columns * (side + _TEXT_HEIGHT + _GAP)
        sheet.paste(image.resize((side, side), Image.Resampling.NEAREST), (x, y))
        canvas.multiline_text((x, y + side + 3), textwrap.fill(text, side // 6), fill="black", spacing=2)
    return sheet


if __name__ == "__main__":
    main()
