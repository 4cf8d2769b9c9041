"""Captions of drawn scenes, from a small grammar of plain English, with known faults.

Two steps. `mention` decides which tags are said: each true tag is left out at the rate `unsaid`, and objects
that are not there are added until the share `false` of the said tags is wrong. `say` puts exactly these tags
into words and uses no other noun, adjective or verb, so the words' tags can be scored one by one.

What is said hangs together as in people's captions: the colour and the action of an unsaid object mostly go
with it. Now and then they stay ("something red is jumping"), just so often that every tag on its own is
unsaid at the rate asked for. A caption must name an object, so when chance drops all of them one is put
back, and the chance is raised to make up for it; beyond an `unsaid` of 1 - 1/objects that cannot be done.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ram_ray.drawn_scenes.scene import ACTIONS, BACKGROUNDS, OBJECTS, Scene

_BESIDE = ("next to", "beside", "near", "with")
_SECOND_CAPTION = 0.5  # chance that a scene has two captions
_ORPHAN_COLOUR, _ORPHAN_ACTION = 0.25, 0.5  # of the rate at which tags are said, where the object is not


class Phrase(NamedTuple):
    """One thing as a caption speaks of it; without a name it is "something"."""

    name: str | None
    colour: str | None = None
    action: str | None = None


@dataclass(frozen=True)
class Mentions:
    """What a caption says: `true` phrases of things that are drawn, `false` ones of things that are not."""

    background: str | None
    true: tuple[Phrase, ...]
    false: tuple[Phrase, ...] = ()

    @property
    def tags(self) -> list[str]:
        """Every tag said, true or not, sorted."""
        said = {tag for phrase in (*self.true, *self.false) for tag in phrase if tag}
        return sorted(said | ({self.background} if self.background else set()))


def mention(scene: Scene, rng: random.Random, *, unsaid: float = 0.0, false: float = 0.0) -> Mentions:
    """Decide what is said of `scene`.

    `unsaid` is the share of the true tags left out, `false` the share of the said tags that is wrong, both as
    expectations over many scenes.

    Args:
        scene: to speak of.
        rng: of the draws.
        unsaid: share of the true tags that is left out, 0 to 1.
        false: share of the said tags that is wrong, 0 to 0.5.

    Raises:
        ValueError: if `unsaid` is not in [0, 1] or `false` not in [0, 0.5].
    """
    if not 0 <= unsaid <= 1:
        raise ValueError(f"unsaid is {unsaid}; use a share from 0 to 1")
    if not 0 <= false <= 0.5:
        raise ValueError(f"false is {false}; use a share from 0 to 0.5, or captions are mostly invention")
    said = 1 - unsaid
    count = len(scene.things)
    dropped = [rng.random() < _chance_to_drop(unsaid, count) for _ in range(count)]
    if all(dropped) and dropped:
        dropped[rng.randrange(count)] = False
    named = max(said, 1 / max(count, 1))  # chance that an object is named
    true = []
    for thing, gone in zip(scene.things, dropped, strict=True):
        colour = thing.colour if rng.random() < _chance_with(said, named, _ORPHAN_COLOUR, gone) else None
        action = thing.action if rng.random() < _chance_with(said, named, _ORPHAN_ACTION, gone) else None
        phrase = Phrase(None if gone else thing.name, colour, action)
        if any(phrase):
            true.append(phrase)
    background = scene.background if rng.random() < said or not scene.things else None
    num_true = len(Mentions(background, tuple(true)).tags)
    wanted = num_true * false / (1 - false)
    absent = [name for name in OBJECTS if name not in {thing.name for thing in scene.things}]
    invented = rng.sample(absent, int(wanted) + (rng.random() < wanted % 1))
    # A colour that is said anyway adds no tag, and false objects then read like true ones.
    colours = [phrase.colour for phrase in true if phrase.colour]
    lies = tuple(Phrase(name, rng.choice(colours) if colours and rng.random() < 0.6 else None) for name in invented)
    return Mentions(background, tuple(true), lies)


def caption(scene: Scene, rng: random.Random, *, unsaid: float = 0.0, false: float = 0.0) -> str:
    """One caption of `scene`; arguments and errors as for `mention`."""
    return say(mention(scene, rng, unsaid=unsaid, false=false), rng)


def captions(mentions: Mentions, rng: random.Random) -> list[str]:
    """One or two captions, each saying all of `mentions`."""
    return [say(mentions, rng) for _ in range(1 + (rng.random() < _SECOND_CAPTION))]


def say(mentions: Mentions, rng: random.Random) -> str:
    """Put `mentions` into one sentence or noun phrase; its tags are exactly `mentions.tags`."""
    phrases = [*mentions.true, *mentions.false]
    rng.shuffle(phrases)
    still = [_noun_phrase(phrase) for phrase in phrases if not phrase.action]
    acting = [(_noun_phrase(phrase), phrase.action) for phrase in phrases if phrase.action]
    where = BACKGROUNDS[mentions.background] if mentions.background else ""
    if not phrases:
        text = f"the {mentions.background}" if mentions.background else "nothing"
    elif acting:
        text = _tell(acting, still, where, rng)
    else:
        text = rng.choice(_STILL_FORMS)(still, where, rng)
    text = " ".join(text.split())
    return f"{text[0].upper()}{text[1:]}." if rng.random() < 0.5 else text


def _chance_to_drop(unsaid: float, count: int) -> float:
    """Chance q to drop each of `count` objects so that each is unsaid at the rate asked for.

    One of them is put back when all are dropped: unsaid = q - q**count / count, solved by bisection.
    """
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if middle - middle ** max(count, 1) / max(count, 1) < unsaid else (low, middle)
    return high if unsaid > 0 else 0.0


def _chance_with(said: float, named: float, orphan: float, gone: bool) -> float:
    """Chance that an attribute is said, given its object; over both cases it is `said`."""
    return orphan * said if gone else (said - (1 - named) * orphan * said) / named


def _noun_phrase(phrase: Phrase) -> str:
    if phrase.name is None:
        return f"something {phrase.colour or ''}".strip()
    words = f"{phrase.colour} {phrase.name}" if phrase.colour else phrase.name
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _list(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _tell(acting: list[tuple[str, str]], still: list[str], where: str, rng: random.Random) -> str:
    """Sentences with a verb: "a red cat is sleeping next to a cup on the beach"."""
    form = rng.choice(("is", "s", "ing")) if len(acting) == 1 else rng.choice(("is", "s"))
    clauses = []
    for subject, action in acting:
        participle, third = ACTIONS[action]
        clauses.append(f"{subject} {third if form == 's' else participle if form == 'ing' else 'is ' + participle}")
    link = " while " if len(clauses) == 2 and rng.random() < 0.5 else " and "
    text = link.join(clauses)
    if still:
        text += f" {rng.choice(_BESIDE[:3])} {_list(still)}"
    return f"{where} {text}" if where and form != "ing" and rng.random() < 0.2 else f"{text} {where}"


def _plain(still: list[str], where: str, rng: random.Random) -> str:
    return f"{_list(still)} {where}"


def _beside(still: list[str], where: str, rng: random.Random) -> str:
    if len(still) == 1:
        return _plain(still, where, rng)
    return f"{still[0]} {rng.choice(_BESIDE)} {_list(still[1:])} {where}"


def _there_is(still: list[str], where: str, rng: random.Random) -> str:
    if where and rng.random() < 0.4:
        return f"{where} there is {_list(still)}"
    return f"there is {_beside(still, where, rng)}"


def _are(still: list[str], where: str, rng: random.Random) -> str:
    if not where:
        return _plain(still, where, rng)
    return f"{_list(still)} {'is' if len(still) == 1 else 'are'} {where}"


_STILL_FORMS: tuple[Callable[[list[str], str, random.Random], str], ...] = (_plain, _beside, _there_is, _are)
