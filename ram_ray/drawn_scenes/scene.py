"""A drawn scene: two to four coloured pictographs on a background, each in its own quarter of the image.

Every name is a lemma, so that a correct caption parser returns exactly these words. Within a scene no two things share
an object, a colour or an action: a tag belongs to one thing, and the tags that a caption omits can be counted. The
pictographs are distinct at 26 px: of two similar pictographs (sword and hammer, wheel and gear) only one is used.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Glyph(NamedTuple):
    """A character of DejaVu Sans."""

    code: int
    stroke: float = 0.0  # how much thin lines are thickened, as a share of the font size
    body_only: bool = False  # whether only the connected middle part is drawn (the snowman without its flakes)


OBJECTS: dict[str, Glyph] = {
    "airplane": Glyph(0x2708),
    "anchor": Glyph(0x2693, 0.02),
    "bolt": Glyph(0x26A1, 0.04),
    "castle": Glyph(0x265C),
    "cat": Glyph(0x1F431, 0.02),
    "cloud": Glyph(0x2601),
    "clover": Glyph(0x2618),
    "cow": Glyph(0x1F42E, 0.02),
    "crown": Glyph(0x265B),
    "cup": Glyph(0x2615, 0.02),
    "diamond": Glyph(0x2666),
    "domino": Glyph(0x1F059, 0.02),
    "drum": Glyph(0x26C1, 0.03),
    "envelope": Glyph(0x2709, 0.02),
    "face": Glyph(0x263A, 0.03),
    "flag": Glyph(0x2691, 0.01),
    "flower": Glyph(0x273F),
    "gear": Glyph(0x2699, 0.01),
    "hammer": Glyph(0x2692, 0.02),
    "heart": Glyph(0x2665),
    "horse": Glyph(0x265E),
    "house": Glyph(0x2302, 0.02),
    "key": Glyph(0x26B7, 0.03),
    "keyboard": Glyph(0x2328),
    "monkey": Glyph(0x1F435, 0.015),
    "moon": Glyph(0x263E, 0.03),
    "note": Glyph(0x266B, 0.02),
    "pencil": Glyph(0x270E, 0.015),
    "scale": Glyph(0x2696, 0.02),
    "sign": Glyph(0x26A0, 0.02),
    "skull": Glyph(0x2620, 0.01),
    "snowflake": Glyph(0x2744, 0.02),
    "snowman": Glyph(0x2603, 0.012, body_only=True),
    "star": Glyph(0x2605),
    "sun": Glyph(0x2600, 0.01),
    "target": Glyph(0x25CE, 0.05),
    "telephone": Glyph(0x260E),
    "umbrella": Glyph(0x2602, 0.015),
    "wheelchair": Glyph(0x267F, 0.01),
    "window": Glyph(0x229E, 0.025),
}

# Dark or saturated, so that each stands out from every (light) background.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (208, 28, 34),
    "orange": (240, 108, 0),
    "yellow": (216, 164, 0),
    "green": (18, 134, 46),
    "blue": (28, 76, 214),
    "purple": (122, 34, 168),
    "pink": (236, 62, 150),
    "brown": (116, 66, 24),
    "black": (22, 22, 26),
    "gray": (116, 120, 126),
}

# Background -> its phrase in a caption.
BACKGROUNDS: dict[str, str] = {
    "beach": "on the beach",
    "meadow": "in the meadow",
    "snow": "in the snow",
    "lake": "on the lake",
    "wall": "on the wall",
    "sky": "in the sky",
}

# Background -> objects that are mostly drawn on it, each object once: in photos objects and places are correlated too.
TYPICAL_OBJECTS: dict[str, tuple[str, ...]] = {
    "beach": ("umbrella", "wheelchair", "telephone", "face", "heart", "domino"),
    "meadow": ("cow", "horse", "cat", "monkey", "clover", "flower", "drum"),
    "snow": ("snowflake", "snowman", "house", "cup", "castle", "skull"),
    "lake": ("anchor", "flag", "key", "crown", "diamond", "gear", "hammer"),
    "wall": ("window", "target", "note", "pencil", "keyboard", "envelope", "scale", "sign"),
    "sky": ("airplane", "bolt", "cloud", "moon", "star", "sun"),
}

# Lemma -> (present participle, third person).
ACTIONS: dict[str, tuple[str, str]] = {
    "jump": ("jumping", "jumps"),
    "fall": ("falling", "falls"),
    "spin": ("spinning", "spins"),
    "shine": ("shining", "shines"),
    "sleep": ("sleeping", "sleeps"),
}

MAX_THINGS = 4
_NUM_THINGS = ((2, 3, 4), (0.1, 0.4, 0.5))  # counts and their weights
_TYPICAL_SHARE = 0.8  # probability that an object is drawn from those typical of the background; otherwise from all
_NUM_ACTIONS = ((0, 1, 2), (0.35, 0.45, 0.2))


@dataclass(frozen=True)
class Thing:
    """A pictograph: its object, its colour, its action, and its quarter (0..3, row by row)."""

    name: str
    colour: str
    action: str | None = None
    quarter: int = 0


@dataclass(frozen=True)
class Scene:
    """A background and the things on it.

    Raises:
        ValueError: if a name is not in the vocabulary, or two things share a quarter.
    """

    background: str
    things: tuple[Thing, ...] = ()

    def __post_init__(self) -> None:
        _check_name(self.background, BACKGROUNDS, "background")
        for thing in self.things:
            _check_name(thing.name, OBJECTS, "object")
            _check_name(thing.colour, COLOURS, "colour")
            if thing.action is not None:
                _check_name(thing.action, ACTIONS, "action")
        quarters = [thing.quarter for thing in self.things]
        if len(set(quarters)) != len(quarters) or not set(quarters) <= set(range(MAX_THINGS)):
            raise ValueError(f"quarters {quarters} must be different numbers from 0 to {MAX_THINGS - 1}")

    @property
    def truth(self) -> list[str]:
        """All tags of the scene, sorted: objects, colours, actions and the background, as lemmas."""
        tags = {self.background}
        for thing in self.things:
            tags |= {thing.name, thing.colour} | ({thing.action} if thing.action else set())
        return sorted(tags)


def sample_scene(rng: random.Random) -> Scene:
    """Sample a scene: two to four things, mostly typical of the background, at most two of them with an action.

    Args:
        rng: random generator of the draws.

    Returns:
        The scene.
    """
    background = rng.choice(list(BACKGROUNDS))
    count = rng.choices(*_NUM_THINGS)[0]
    names: list[str] = []
    while len(names) < count:
        name = rng.choice(TYPICAL_OBJECTS[background] if rng.random() < _TYPICAL_SHARE else list(OBJECTS))
        if name not in names:
            names.append(name)
    drawn_actions: list[str | None] = list(rng.sample(list(ACTIONS), rng.choices(*_NUM_ACTIONS)[0]))
    actions = drawn_actions + [None] * (count - len(drawn_actions))
    rng.shuffle(actions)
    columns = (
        names,
        rng.sample(list(COLOURS), count),
        actions,
        rng.sample(range(MAX_THINGS), count),
    )
    things = tuple(Thing(name, colour, action, quarter) for name, colour, action, quarter in zip(*columns, strict=True))
    return Scene(background, things)


def scene_of(
    things: Iterable[tuple[str | None, str | None, str | None]],
    *,
    background: str | None = None,
    rng: random.Random,
) -> Scene:
    """Make a scene of (object, colour, action) triples; missing names and all quarters are drawn at random.

    Of more than four things, four are drawn at random. A colour that is drawn differs from all other colours.

    Args:
        things: (object, colour, action) of each thing; an object or colour of None is drawn.
        background: name of the background; None: drawn.
        rng: random generator of the draws.

    Returns:
        The scene.

    Raises:
        ValueError: if a name is not in the vocabulary.
    """
    selected = list(things)
    if len(selected) > MAX_THINGS:
        selected = rng.sample(selected, MAX_THINGS)
    names, colours = {name for name, _, _ in selected}, {colour for _, colour, _ in selected}
    spare_names = _shuffled([name for name in OBJECTS if name not in names], rng)
    spare_colours = _shuffled([colour for colour in COLOURS if colour not in colours], rng)
    quarters = rng.sample(range(MAX_THINGS), len(selected))
    complete = tuple(
        Thing(name or spare_names.pop(), colour or spare_colours.pop(), action, quarter)
        for (name, colour, action), quarter in zip(selected, quarters, strict=True)
    )
    return Scene(background or rng.choice(list(BACKGROUNDS)), complete)


def _shuffled(names: Sequence[str], rng: random.Random) -> list[str]:
    return rng.sample(names, len(names))


def _check_name(name: str, vocabulary: Iterable[str], kind: str) -> None:
    if name not in vocabulary:
        raise ValueError(f"{kind} {name!r} is not drawn here; use one of {', '.join(vocabulary)}")
