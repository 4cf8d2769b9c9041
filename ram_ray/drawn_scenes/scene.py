"""What a drawn scene holds: two to four coloured pictographs, one a quarter of the picture, on a background.

Every name is a lemma, so that a caption parser that does its work gives back exactly these words. Within a
scene no two things share an object, a colour or an action: a tag then belongs to one thing, and what a
caption leaves out can be counted tag by tag. Pictographs were chosen by eye at 26 px: nothing that looks
like its neighbour (one of sword and hammer, one of wheel and gear), nothing that is a black-and-white twin.
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
    body_only: bool = False  # leave out what lies around the middle part (the flakes about the snowman)


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

# Background -> the phrase that puts things there.
BACKGROUNDS: dict[str, str] = {
    "beach": "on the beach",
    "meadow": "in the meadow",
    "snow": "in the snow",
    "lake": "on the lake",
    "wall": "on the wall",
    "sky": "in the sky",
}

# Background -> where an object is mostly found, each object once: pictures of the world hang together like this.
HOMES: dict[str, tuple[str, ...]] = {
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
_AT_HOME = 0.8  # chance that a thing is drawn from its background's own; otherwise from all
_NUM_ACTIONS = ((0, 1, 2), (0.35, 0.45, 0.2))


@dataclass(frozen=True)
class Thing:
    """One pictograph: its object, its colour, what it does, and its quarter (0..3, row by row)."""

    name: str
    colour: str
    action: str | None = None
    place: int = 0


@dataclass(frozen=True)
class Scene:
    """A background and the things on it.

    Raises:
        ValueError: if a name is not in the vocabulary, or two things share a quarter.
    """

    background: str
    things: tuple[Thing, ...] = ()

    def __post_init__(self) -> None:
        _known(self.background, BACKGROUNDS, "background")
        for thing in self.things:
            _known(thing.name, OBJECTS, "object")
            _known(thing.colour, COLOURS, "colour")
            if thing.action is not None:
                _known(thing.action, ACTIONS, "action")
        places = [thing.place for thing in self.things]
        if len(set(places)) != len(places) or not set(places) <= set(range(MAX_THINGS)):
            raise ValueError(f"places {places} must be different numbers from 0 to {MAX_THINGS - 1}")

    @property
    def truth(self) -> list[str]:
        """Every tag of the scene, sorted: objects, colours, actions and the background, as lemmas."""
        tags = {self.background}
        for thing in self.things:
            tags |= {thing.name, thing.colour} | ({thing.action} if thing.action else set())
        return sorted(tags)


def sample_scene(rng: random.Random) -> Scene:
    """Draw a scene at random: two to four things, mostly at home there, at most two of which do something."""
    background = rng.choice(list(BACKGROUNDS))
    count = rng.choices(*_NUM_THINGS)[0]
    names: list[str] = []
    while len(names) < count:
        name = rng.choice(HOMES[background] if rng.random() < _AT_HOME else list(OBJECTS))
        if name not in names:
            names.append(name)
    acting: list[str | None] = list(rng.sample(list(ACTIONS), rng.choices(*_NUM_ACTIONS)[0]))
    actions = acting + [None] * (count - len(acting))
    rng.shuffle(actions)
    columns = (
        names,
        rng.sample(list(COLOURS), count),
        actions,
        rng.sample(range(MAX_THINGS), count),
    )
    things = tuple(Thing(name, colour, action, place) for name, colour, action, place in zip(*columns, strict=True))
    return Scene(background, things)


def scene_of(
    things: Iterable[tuple[str | None, str | None, str | None]],
    *,
    background: str | None = None,
    rng: random.Random,
) -> Scene:
    """Make a scene of (object, colour, action) triples; what is None, and every place, is drawn from `rng`.

    Of more than four things, four are drawn. Colours that are not said differ from those that are.

    Args:
        things: (object, colour, action) of each; None: drawn.
        background: None: drawn.
        rng: of the draws.

    Raises:
        ValueError: if a name is not in the vocabulary.
    """
    wanted = list(things)
    if len(wanted) > MAX_THINGS:
        wanted = rng.sample(wanted, MAX_THINGS)
    names, colours = {name for name, _, _ in wanted}, {colour for _, colour, _ in wanted}
    spare_names = _shuffled([name for name in OBJECTS if name not in names], rng)
    spare_colours = _shuffled([colour for colour in COLOURS if colour not in colours], rng)
    places = rng.sample(range(MAX_THINGS), len(wanted))
    made = tuple(
        Thing(name or spare_names.pop(), colour or spare_colours.pop(), action, place)
        for (name, colour, action), place in zip(wanted, places, strict=True)
    )
    return Scene(background or rng.choice(list(BACKGROUNDS)), made)


def _shuffled(names: Sequence[str], rng: random.Random) -> list[str]:
    return rng.sample(names, len(names))


def _known(name: str, vocabulary: Iterable[str], what: str) -> None:
    if name not in vocabulary:
        raise ValueError(f"{what} {name!r} is not drawn here; use one of {', '.join(vocabulary)}")
