"""Contract: a label's names are found by their words, the longest first, whatever the parse did; not what is negated,
not words that mean something else here; and each id says which reader found it."""

from __future__ import annotations

import pytest

from ram_ray.captions.tables import load_lemmas
from ram_ray.label_system import Label, LabelSystem
from ram_ray.labels.match import Matcher, TagFinder

LABELS = LabelSystem(
    Label(place, name, kind, synonyms=synonyms, ambiguous=ambiguous)
    for place, (name, kind, synonyms, ambiguous) in enumerate(
        [
            ("dog", "object", ("hound",), ()),
            ("hot dog", "object", (), ()),
            ("man", "object", ("guy",), ()),
            ("pair of scissors", "object", (), ()),
            ("train", "object", (), ()),
            ("train", "action", (), ()),
            ("run", "action", ("jog",), ()),
            ("red", "attribute", (), ()),
            ("motorcycle", "object", ("motor bike", "motor-bike"), ()),
            ("top", "object", ("upper part",), ("top",)),
            ("sign", "object", (), ()),
            ("people", "object", (), ()),
            ("watch", "object", (), ()),
            ("bear", "object", (), ()),
        ]
    )
)


@pytest.fixture(scope="module")
def matcher() -> Matcher:
    return Matcher(LABELS, load_lemmas())


def _found(matcher: Matcher, text: str, parsed=()) -> list[str]:
    return [LABELS[match.id].name for match in matcher.find(text, parsed)]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Two DOGS eat hot-dogs", ["dog", "hot dog"]),
        ("a hot dog, a hound and a pair of scissors", ["hot dog", "dog", "pair of scissors"]),
        ("guys on motor bikes", ["man", "motorcycle"]),
        ("a red motor-bike", ["red", "motorcycle"]),
        ("he jogs and is running", ["run", "run"]),
        ("on top of the upper part", ["top"]),  # the word alone is ambiguous, the synonym is not
        ("no people and a dog", ["dog"]),
        ("a man without a dog", ["man"]),
        ("a man not wearing a watch near a sign", ["man", "sign"]),
        ("they train a train", []),  # two kinds: the parse decides
        ("", []),
        ("\x00 \ud800 <b>dog</b> &amp; man", ["dog", "man"]),
    ],
)
def test_longest_names_by_their_words(matcher: Matcher, text: str, names: list[str]) -> None:
    assert _found(matcher, text) == names


def test_the_parse_has_its_say(matcher: Matcher) -> None:
    assert _found(matcher, "people watch", [("people", "object"), ("watch", "action")]) == ["people"]
    assert _found(matcher, "a dog house", [("dog house", "object")]) == [], "a kind of house"
    assert _found(matcher, "a street sign", [("street sign", "object")]) == ["sign"], "a kind of sign"
    assert _found(matcher, "a teddy bear", [("teddy bear", "object")]) == [], "no bear"
    assert _found(matcher, "three hot dogs", [("dog", "object")]) == ["hot dog"]


def test_ids_say_who_found_them(matcher: Matcher) -> None:
    find = TagFinder(LABELS, matcher)
    parsed = [("dog", "object"), ("train", "action"), ("unicorn", "object")]
    assert find("a hound trains with a guy", parsed) == ([0, 5, 2], ["both", "parsed", "matched"])
    assert TagFinder(LABELS, None)("a hound and a guy", parsed) == ([0, 5], ["parsed", "parsed"])


def test_to_measure_ambiguity_all_words_are_given() -> None:
    trusting = Matcher(LABELS, load_lemmas(), trusting=True)
    assert _found(trusting, "on top") == ["top"] and _found(trusting, "a train") == ["train", "train"]


def test_a_long_caption_is_cut_and_hostile_ones_cost_little(matcher: Matcher) -> None:
    assert _found(matcher, "x " * 600 + "dog") == []
    assert _found(Matcher(LABELS, load_lemmas(), max_chars=5000), "x " * 600 + "dog") == ["dog"]
    assert _found(matcher, "no " * 100_000) == [] and _found(matcher, "hot " * 200 + "dog")[-1] == "hot dog"
