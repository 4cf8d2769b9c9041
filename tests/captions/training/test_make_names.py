"""Contract: a word is a name by the share of its capitals; the shipped list is what the script makes of its sources."""

from __future__ import annotations

import math
from importlib import resources

import pytest

from ram_ray.captions.sections import read_sections
from ram_ray.captions.training.make_names import sections, shares

WORDS = {
    "Paris": 93,
    "paris": 7,
    "dog": 95,
    "Dog": 5,
    "McCoy": 9,
    "mccoy": 1,
    "Lily": 8,
    "lily": 2,
    "puma": 3,
    "Puma": 7,
}


def test_sections() -> None:
    of_word = shares({word: math.log(count * 1e-5) for word, count in WORDS.items()})
    assert of_word["paris"] == pytest.approx((0.93, 100e-5)) and of_word["mccoy"][0] == pytest.approx(0.9)
    made = sections(of_word, {"lily", "ann"}, {"mccoy", "dog"}, {"lily"})
    assert made == {"name": ["mccoy", "paris"], "likely": ["puma"], "given": ["ann"], "surname": ["dog"]}


def test_the_shipped_list() -> None:
    text = (resources.files("ram_ray.captions") / "names.txt").read_text(encoding="utf-8")
    names = read_sections(text)
    assert {"paris", "nike", "december"} <= names["name"] and not {"dog", "lily", "asian"} & names["name"]
    assert "asian" in names["adjectives"] and "christmas" in names["holidays"]


def test_word_lists_have_sections_comments_and_phrases() -> None:
    assert read_sections("# x\n[a]  # why\none two_words\n[b]\nthree # four") == {
        "a": frozenset(["one", "two words"]),
        "b": frozenset(["three"]),
    }
