"""Contract: English captions are accepted, also very short ones; other languages and scripts, digits and empty texts
are rejected, each with its reason."""

from __future__ import annotations

import pytest

from ram_ray.captions.language import EMPTY, NO_WORDS, NOT_ENGLISH, why_rejected
from ram_ray.captions.lemmas import Lemmatizer
from ram_ray.captions.parser import shipped_folder

ENGLISH = """a dog on the beach; red car; sunset; tan cat; male cat; man in a hat; golden retriever puppy; a café in
paris; vintage car stock photo; a dog 犬; wooden table top; people at a concert in la; stop sign; two men"""
FOREIGN = """un chien court sur la plage; ein hund am strand; un perro corriendo en la playa;
cane che corre sulla spiaggia; een hond rent op het strand; um cachorro na praia; en hund springer på stranden;
pies biegnie po plaży; kumsalda koşan bir köpek; koira juoksee rannalla;
seekor anjing di pantai; 犬が走る; собака на пляже; deux hommes;
zwei männer mit hüten; schöne blumen im garten; mädchen"""


@pytest.fixture(scope="module")
def lemmas() -> Lemmatizer:
    return Lemmatizer(shipped_folder() / "lemmatizer" / "lookups")


@pytest.mark.parametrize("text", [text.strip() for text in ENGLISH.split(";")])
def test_english(lemmas: Lemmatizer, text: str) -> None:
    assert why_rejected(text, lemmas.known_word) is None


@pytest.mark.parametrize("text", [text.strip() for text in FOREIGN.split(";")])
def test_other_languages(lemmas: Lemmatizer, text: str) -> None:
    assert why_rejected(text, lemmas.known_word) == NOT_ENGLISH


def test_no_language(lemmas: Lemmatizer) -> None:
    assert why_rejected("", lemmas.known_word) == EMPTY
    assert why_rejected("12 3 !", lemmas.known_word) == NO_WORDS
