"""Is a caption English? Other languages are turned away with a reason instead of being parsed into garbage.

Captions are too short for character statistics ("un chien sur la plage" has 21 letters), but every language betrays
itself by its function words. spaCy ships them as stop words; a word that English has as well says nothing. Where no
function word decides, English is a caption half of whose words stand in the English lemma tables.
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

# Languages in Latin letters that web captions come in.
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
    """English function words, and those of other languages with the languages that have them."""
    english = frozenset(import_module("spacy.lang.en.stop_words").STOP_WORDS) | {"an", "near", "while", "its"}
    foreign: dict[str, tuple[str, ...]] = {}
    for language in _LANGUAGES:
        for word in import_module(f"spacy.lang.{language}.stop_words").STOP_WORDS:
            if len(word) > 1 and word not in SHORT_ENGLISH and word.isalpha():
                foreign[word] = (*foreign.get(word, ()), language)
    return english, foreign


def why_rejected(text: str, known: Callable[[str], bool]) -> str | None:
    """Why a cleaned caption cannot be read, one of `REASONS`, or None if it is English.

    `known` says whether a lower-case word stands in the English tables. Digits and signs alone are `no_words`.

    Args:
        text: a caption, cleaned.
        known: whether a lower-case word stands in the English tables.
    """
    if not text:
        return EMPTY
    words = _WORD.findall(text)[:60]
    english, foreign = _function_words()
    own = sum(word in english for word in words)
    if text.isascii() and own > 1 and 2 * own > len(words) - 3:
        return None  # the common case, quickly
    letters = sum(one.isalpha() for one in text)
    if not letters:
        return NO_WORDS
    if sum(one.isalpha() and ord(one) < 0x250 for one in text) < 0.5 * letters:
        return NOT_ENGLISH
    if len(words) < 2:
        return None if not words or words[0].isascii() else NOT_ENGLISH
    telling = [word for word in words if word in foreign and (len(word) < 4 or not known(word) or word in english)]
    languages = Counter(language for word in telling for language in foreign[word])
    alone = Counter(language for word in telling if word not in english for language in foreign[word])
    strange = sum(not known(word) and word not in english for word in words) / len(words)
    strange += sum(not word.isascii() for word in words) / len(words)
    for language, count in alone.items():
        if languages[language] > own and (count > 1 or strange >= 0.3):
            return NOT_ENGLISH
    if own == 0 and (strange >= 1 or (strange > 0.6 and (alone or len(words) > 3))):
        return NOT_ENGLISH
    return None
