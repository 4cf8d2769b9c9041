"""Contract: a label's names match by their words, the longest first; negated words and words with another meaning do
not match; and each id has its source."""

from __future__ import annotations

import pytest

from ram_ray.captions.tables import load_lemmas
from ram_ray.label_system import Label, LabelSystem
from ram_ray.labels.match import Matcher, TagFinder

LABELS = LabelSystem(
    Label(id, name, kind, synonyms=synonyms, ambiguous=ambiguous)
    for id, (name, kind, synonyms, ambiguous) in enumerate(
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


def _find_names(matcher: Matcher, text: str, parsed=()) -> list[str]:
    return [LABELS[match.id].name for match in matcher.find(text, parsed)]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Two DOGS eat hot-dogs", ["dog", "hot dog"]),
        ("a hot dog, a hound and a pair of scissors", ["hot dog", "dog", "pair of scissors"]),
        ("guys on motor bikes", ["man", "motorcycle"]),
        ("a red motor-bike", ["red", "motorcycle"]),
        ("he jogs and is running", ["run", "run"]),
        ("on top of the upper part", ["top"]),  # the single word is ambiguous, the synonym is not
        ("no people and a dog", ["dog"]),
        ("a man without a dog", ["man"]),
        ("a man not wearing a watch near a sign", ["man", "sign"]),
        ("they train a train", []),  # a label of two kinds: only the parse decides
        ("", []),
        ("\x00 \ud800 <b>dog</b> &amp; man", ["dog", "man"]),
    ],
)
def test_longest_names_by_their_words(matcher: Matcher, text: str, names: list[str]) -> None:
    assert _find_names(matcher, text) == names


def test_the_parse_excludes_words_of_compounds_and_other_parts_of_speech(matcher: Matcher) -> None:
    assert _find_names(matcher, "people watch", [("people", "object"), ("watch", "action")]) == ["people"]
    assert _find_names(matcher, "a dog house", [("dog house", "object")]) == [], "the head is house"
    assert _find_names(matcher, "a street sign", [("street sign", "object")]) == ["sign"], "the head is sign"
    assert _find_names(matcher, "a teddy bear", [("teddy bear", "object")]) == [], "a fixed compound, not a bear"
    assert _find_names(matcher, "three hot dogs", [("dog", "object")]) == ["hot dog"]


def test_ids_have_their_source(matcher: Matcher) -> None:
    find_tags = TagFinder(LABELS, matcher)
    parsed = [("dog", "object"), ("train", "action"), ("unicorn", "object")]
    assert find_tags("a hound trains with a guy", parsed) == ([0, 5, 2], ["both", "parsed", "matched"])
    assert TagFinder(LABELS, None)("a hound and a guy", parsed) == ([0, 5], ["parsed", "parsed"])


def test_ambiguous_words_match_on_request() -> None:
    matcher = Matcher(LABELS, load_lemmas(), include_ambiguous=True)
    assert _find_names(matcher, "on top") == ["top"] and _find_names(matcher, "a train") == ["train", "train"]


def test_a_long_caption_is_truncated_and_repeated_words_are_fast(matcher: Matcher) -> None:
    assert _find_names(matcher, "x " * 600 + "dog") == []
    assert _find_names(Matcher(LABELS, load_lemmas(), max_chars=5000), "x " * 600 + "dog") == ["dog"]
    assert _find_names(matcher, "no " * 100_000) == [] and _find_names(matcher, "hot " * 200 + "dog")[-1] == "hot dog"
