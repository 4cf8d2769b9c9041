"""Captions of drawn scenes, from a small grammar of plain English, with known errors.

`draw_mentions` draws which tags a caption mentions: each true tag is omitted at the rate `unmentioned`, and objects
that are not in the scene are added until the share `false` of the mentioned tags is wrong. `write_caption` puts exactly
these tags into words and uses no other noun, adjective or verb, so that every tag of the text can be scored.

As in people's captions, the colour and the action of an omitted object are mostly omitted too. Sometimes they are
mentioned ("something red is jumping"), so often that every tag is omitted at the rate `unmentioned`. A caption must
name an object: if all are omitted, one is restored, and the rate is raised to compensate, which is possible up to an
`unmentioned` of 1 - 1/objects.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ram_ray.drawn_scenes.scene import ACTIONS, BACKGROUNDS, OBJECTS, Scene

_BESIDE = ("next to", "beside", "near", "with")
_SECOND_CAPTION = 0.5  # probability that a scene has two captions
# Rate at which colour and action of an unnamed object are mentioned, as a share of the rate of all tags.
_UNNAMED_COLOUR, _UNNAMED_ACTION = 0.25, 0.5


class Phrase(NamedTuple):
    """A thing as a caption mentions it; without a name it is "something"."""

    name: str | None
    colour: str | None = None
    action: str | None = None


@dataclass(frozen=True)
class Mentions:
    """What a caption mentions: `true` phrases of things that are drawn, `false` phrases of things that are not."""

    background: str | None
    true: tuple[Phrase, ...]
    false: tuple[Phrase, ...] = ()

    @property
    def tags(self) -> list[str]:
        """All tags that are mentioned, true or false, sorted."""
        mentioned = {tag for phrase in (*self.true, *self.false) for tag in phrase if tag}
        return sorted(mentioned | ({self.background} if self.background else set()))


def draw_mentions(scene: Scene, rng: random.Random, *, unmentioned: float = 0.0, false: float = 0.0) -> Mentions:
    """Draw which tags a caption of `scene` mentions; the shares are expectations over many scenes.

    Args:
        scene: the scene.
        rng: random generator of the draws.
        unmentioned: share of the true tags that is not mentioned, 0 to 1.
        false: share of the mentioned tags that is false, 0 to 0.5.

    Returns:
        What the caption mentions.

    Raises:
        ValueError: if `unmentioned` is not in [0, 1] or `false` not in [0, 0.5].
    """
    if not 0 <= unmentioned <= 1:
        raise ValueError(f"unmentioned is {unmentioned}; use a share from 0 to 1")
    if not 0 <= false <= 0.5:
        raise ValueError(f"false is {false}; use a share from 0 to 0.5, or captions are mostly invention")
    mentioned_share = 1 - unmentioned
    count = len(scene.things)
    dropped = [rng.random() < _drop_probability(unmentioned, count) for _ in range(count)]
    if all(dropped) and dropped:
        dropped[rng.randrange(count)] = False
    named_share = max(mentioned_share, 1 / max(count, 1))  # probability that an object is named
    true = []
    for thing, is_unnamed in zip(scene.things, dropped, strict=True):
        shares = (mentioned_share, named_share)
        colour = thing.colour if rng.random() < _attribute_rate(*shares, _UNNAMED_COLOUR, is_unnamed) else None
        action = thing.action if rng.random() < _attribute_rate(*shares, _UNNAMED_ACTION, is_unnamed) else None
        phrase = Phrase(None if is_unnamed else thing.name, colour, action)
        if any(phrase):
            true.append(phrase)
    background = scene.background if rng.random() < mentioned_share or not scene.things else None
    num_true = len(Mentions(background, tuple(true)).tags)
    num_false = num_true * false / (1 - false)
    other_objects = [name for name in OBJECTS if name not in {thing.name for thing in scene.things}]
    false_names = rng.sample(other_objects, int(num_false) + (rng.random() < num_false % 1))
    # A colour that is mentioned already adds no tag, and false objects are then phrased like true objects.
    colours = [phrase.colour for phrase in true if phrase.colour]
    false_phrases = tuple(
        Phrase(name, rng.choice(colours) if colours and rng.random() < 0.6 else None) for name in false_names
    )
    return Mentions(background, tuple(true), false_phrases)


def draw_caption(scene: Scene, rng: random.Random, *, unmentioned: float = 0.0, false: float = 0.0) -> str:
    """Write a caption of `scene`; arguments and errors are those of `mention`.

    Args:
        scene: the scene.
        rng: random generator of the draws.
        unmentioned: share of the true tags that is not mentioned, 0 to 1.
        false: share of the mentioned tags that is false, 0 to 0.5.

    Returns:
        The caption.
    """
    return write_caption(draw_mentions(scene, rng, unmentioned=unmentioned, false=false), rng)


def write_captions(mentions: Mentions, rng: random.Random) -> list[str]:
    """Write one or two captions, each with all tags of `mentions`."""
    return [write_caption(mentions, rng) for _ in range(1 + (rng.random() < _SECOND_CAPTION))]


def write_caption(mentions: Mentions, rng: random.Random) -> str:
    """Write a sentence or noun phrase whose tags are exactly `mentions.tags`."""
    phrases = [*mentions.true, *mentions.false]
    rng.shuffle(phrases)
    others = [_noun_phrase(phrase) for phrase in phrases if not phrase.action]
    actors = [(_noun_phrase(phrase), phrase.action) for phrase in phrases if phrase.action]
    background_phrase = BACKGROUNDS[mentions.background] if mentions.background else ""
    if not phrases:
        text = f"the {mentions.background}" if mentions.background else "nothing"
    elif actors:
        text = _action_sentence(actors, others, background_phrase, rng)
    else:
        text = rng.choice(_FORMS_WITHOUT_ACTION)(others, background_phrase, rng)
    text = " ".join(text.split())
    return f"{text[0].upper()}{text[1:]}." if rng.random() < 0.5 else text


def _drop_probability(unmentioned: float, count: int) -> float:
    """Probability q to drop each of `count` objects, so that each is unnamed at the rate `unmentioned`.

    If all are dropped, one is restored: unmentioned = q - q**count / count, solved by bisection.
    """
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if middle - middle ** max(count, 1) / max(count, 1) < unmentioned else (low, middle)
    return high if unmentioned > 0 else 0.0


def _attribute_rate(mentioned_share: float, named_share: float, unnamed_share: float, is_unnamed: bool) -> float:
    """Probability that an attribute is mentioned, given its object; over both cases it is `mentioned_share`."""
    if is_unnamed:
        return unnamed_share * mentioned_share
    return (mentioned_share - (1 - named_share) * unnamed_share * mentioned_share) / named_share


def _noun_phrase(phrase: Phrase) -> str:
    if phrase.name is None:
        return f"something {phrase.colour or ''}".strip()
    words = f"{phrase.colour} {phrase.name}" if phrase.colour else phrase.name
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _action_sentence(
    actors: list[tuple[str, str]], others: list[str], background_phrase: str, rng: random.Random
) -> str:
    """Sentences with a verb: "a red cat is sleeping next to a cup on the beach"."""
    form = rng.choice(("is", "s", "ing")) if len(actors) == 1 else rng.choice(("is", "s"))
    clauses = []
    for subject, action in actors:
        participle, third = ACTIONS[action]
        clauses.append(f"{subject} {third if form == 's' else participle if form == 'ing' else 'is ' + participle}")
    link = " while " if len(clauses) == 2 and rng.random() < 0.5 else " and "
    text = link.join(clauses)
    if others:
        text += f" {rng.choice(_BESIDE[:3])} {_join(others)}"
    if background_phrase and form != "ing" and rng.random() < 0.2:
        return f"{background_phrase} {text}"
    return f"{text} {background_phrase}"


def _plain(others: list[str], background_phrase: str, rng: random.Random) -> str:
    return f"{_join(others)} {background_phrase}"


def _beside(others: list[str], background_phrase: str, rng: random.Random) -> str:
    if len(others) == 1:
        return _plain(others, background_phrase, rng)
    return f"{others[0]} {rng.choice(_BESIDE)} {_join(others[1:])} {background_phrase}"


def _there_is(others: list[str], background_phrase: str, rng: random.Random) -> str:
    if background_phrase and rng.random() < 0.4:
        return f"{background_phrase} there is {_join(others)}"
    return f"there is {_beside(others, background_phrase, rng)}"


def _are(others: list[str], background_phrase: str, rng: random.Random) -> str:
    if not background_phrase:
        return _plain(others, background_phrase, rng)
    return f"{_join(others)} {'is' if len(others) == 1 else 'are'} {background_phrase}"


_FORMS_WITHOUT_ACTION: tuple[Callable[[list[str], str, random.Random], str], ...] = (_plain, _beside, _there_is, _are)
