"""Whether a caption is English. Captions in other languages are rejected with a reason.

Captions are too short for character statistics ("un chien sur la plage" has 21 letters), but function words identify a
language. They come from spaCy's stop words, without those that English shares. Where no function word decides, a
caption is English if half of its words are in the English lemma tables.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from importlib import import_module

from ram_ray.captions.words import SHORT_ENGLISH

EMPTY = "empty"
NO_WORDS = "no_words"
NOT_ENGLISH = "not_english"
REASONS = (EMPTY, NO_WORDS, NOT_ENGLISH)

# Languages in Latin script that web captions are written in.
_LANGUAGES = (
    "es",
    "fr",
    "de",
    "it",
    "pt",
    "nl",
    "sv",
    "da",
    "nb",
    "fi",
    "pl",
    "tr",
    "ro",
    "hu",
    "cs",
    "id",
    "ca",
    "hr",
)
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")


@cache
def _function_words() -> tuple[frozenset[str], dict[str, tuple[str, ...]]]:
    """English function words, and the languages of each function word that is not English."""
    english = frozenset(import_module("spacy.lang.en.stop_words").STOP_WORDS) | {"an", "near", "while", "its"}
    foreign: dict[str, tuple[str, ...]] = {}
    for language in _LANGUAGES:
        for word in import_module(f"spacy.lang.{language}.stop_words").STOP_WORDS:
            if len(word) > 1 and word not in SHORT_ENGLISH and word.isalpha():
                foreign[word] = (*foreign.get(word, ()), language)
    return english, foreign


def why_rejected(text: str, known: Callable[[str], bool]) -> str | None:
    """The reason to reject a caption, if there is a reason.

    Args:
        text: a caption, cleaned.
        known: whether a lower-case word is in the English tables.

    Returns:
        An entry of `REASONS` (`no_words` for digits and signs alone); None if the caption is English.
    """
    if not text:
        return EMPTY
    words = _WORD.findall(text)[:60]
    english, foreign = _function_words()
    num_english = sum(word in english for word in words)
    if text.isascii() and num_english > 1 and 2 * num_english > len(words) - 3:
        return None  # the common case, without the other tables
    num_letters = sum(char.isalpha() for char in text)
    if not num_letters:
        return NO_WORDS
    if sum(char.isalpha() and ord(char) < 0x250 for char in text) < 0.5 * num_letters:
        return NOT_ENGLISH
    if len(words) < 2:
        return None if not words or words[0].isascii() else NOT_ENGLISH
    function_words = [
        word for word in words if word in foreign and (len(word) < 4 or not known(word) or word in english)
    ]
    languages = Counter(language for word in function_words for language in foreign[word])
    foreign_only = Counter(language for word in function_words if word not in english for language in foreign[word])
    unknown = sum(not known(word) and word not in english for word in words) / len(words)
    unknown += sum(not word.isascii() for word in words) / len(words)
    for language, count in foreign_only.items():
        if languages[language] > num_english and (count > 1 or unknown >= 0.3):
            return NOT_ENGLISH
    if num_english == 0 and (unknown >= 1 or (unknown > 0.6 and (foreign_only or len(words) > 3))):
        return NOT_ENGLISH
    return None
