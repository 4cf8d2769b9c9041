"""Contract: without a parse, a "no" or "not" negates the next words, to the end of its phrase."""

from __future__ import annotations

import pytest

from ram_ray.captions.lemmas import PART_OF_SPEECH
from ram_ray.captions.negation import negated_words
from ram_ray.records import KINDS


@pytest.mark.parametrize(
    ("caption", "negated"),
    [
        ("a dog without a red hat", "a red hat"),
        ("a street with no people and a dog", "people"),
        ("a man is n't wearing shoes", "wearing shoes"),
        ("a dog that doesn't run on grass", "run"),
        ("no a b c d e", "a b c d"),
        ("neither a dog nor a cat", ""),
        ("a dog on grass", ""),
    ],
)
def test_words_after_a_no_are_negated(caption: str, negated: str) -> None:
    words = caption.split()
    assert " ".join(word for word, is_negated in zip(words, negated_words(words), strict=True) if is_negated) == negated


def test_each_kind_of_tag_has_its_part_of_speech() -> None:
    assert set(PART_OF_SPEECH) == set(KINDS)
