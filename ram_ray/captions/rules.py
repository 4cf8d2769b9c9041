"""Tags read off a repaired dependency parse; `triples` then says who does what to what.

Part of speech says what a word can be, relations say what belongs together. An object is a noun with its
compounds, an attribute an adjective or a participle before its noun, an action any other verb; what a caption
says is not there gives nothing.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from ram_ray.captions.lemmas import Lemmatizer
from ram_ray.captions.negation import negated
from ram_ray.captions.relations import MODIFIERS, NOTHING, Word, read_words, word_after, word_before
from ram_ray.captions.repair import fixed_pair, repair
from ram_ray.captions.triples import Triple, find_described, find_triples
from ram_ray.captions.words import (
    BEINGS,
    COLOURS,
    COMPOUNDS,
    DRINKS,
    KIND_WORDS,
    MEASURES,
    NEVER_DESCRIBING,
    NOT_ACTIONS,
    NOT_ATTRIBUTES,
    NOT_OBJECTS,
    PICTURES,
    SCENES,
    STATES,
)


class Tag(NamedTuple):
    """A tag read in a caption: lower-case lemmas joined by one space, and its kind (`records.KINDS`)."""

    name: str
    kind: str


class Reading(NamedTuple):
    """What a caption says.

    Tags are in the order of the text, each once; actions have who and what, attributes have what they describe.
    """

    tags: list[Tag]
    relations: list[Triple]
    described: list[tuple[str, str]]


def find_tags(doc: Any, lemmas: Lemmatizer) -> list[Tag]:
    """Tags of a parsed caption, in the order of the text, each once.

    Args:
        doc: spaCy's, of one caption.
        lemmas: dictionary forms.
    """
    words = read_words(doc)
    return list(dict.fromkeys(tag for _, tag in _find(words, lemmas)))


def read_caption(doc: Any, lemmas: Lemmatizer) -> Reading:
    """Tags of a parsed caption, and who does what to what.

    Args:
        doc: spaCy's, of one caption.
        lemmas: dictionary forms.
    """
    words = read_words(doc)
    found = _find(words, lemmas)
    things = {place: tag.name for place, tag in found if tag.kind in ("object", "scene")}
    actions = {place: tag.name for place, tag in found if tag.kind == "action"}
    attributes = {place: tag.name for place, tag in found if tag.kind == "attribute"}
    return Reading(
        list(dict.fromkeys(tag for _, tag in found)),
        find_triples(words, things, actions),
        find_described(words, things, attributes),
    )


def _find(words: list[Word], lemmas: Lemmatizer) -> list[tuple[int, Tag]]:
    """Tags with their places (of a compound, that of its head), in the order of the text; repairs the words."""
    repair(words, lemmas)
    hidden = negated(words)
    found: list[tuple[int, Tag]] = []
    phrases, inside = _noun_phrases(words, lemmas)
    for last, parts in phrases:
        if not hidden[last]:
            found += [(last, tag) for tag in _objects(words, last, parts, lemmas)]
    for word in words:
        if hidden[word.index] or word.index in inside:
            continue
        if word.pos == "A" or (word.pos == "V" and _describes(words, word)):
            name = _attribute(words, word, lemmas)
            if name:
                found.append((word.index, Tag(name, "attribute")))
        elif word.pos == "V" and (name := _action(words, word, lemmas)):
            found.append((word.index, Tag(name, "action")))
    return [(place, tag) for place, tag in sorted(found, key=lambda one: one[0]) if _is_name(tag.name)]


def _noun_phrases(words: list[Word], lemmas: Lemmatizer) -> tuple[list[tuple[int, list[int]]], set[int]]:
    """Heads with the indices of their compounds, and all indices that compounds used up."""
    phrases, inside = [], set()
    for word in reversed(words):
        if word.pos != "N" or word.index in inside:
            continue
        parts: list[int] = []
        first = word.index
        while first > 0 and _joins(words, words[first - 1], words[first], lemmas, len(parts)):
            first -= 1
            parts.insert(0, first)
        inside.update(parts)
        phrases.append((word.index, parts))
    return phrases, inside


def _joins(words: list[Word], left: Word, right: Word, lemmas: Lemmatizer, length: int) -> bool:
    """True if `left` is a compound's part before `right`."""
    if fixed_pair(words, left, right, lemmas):
        return True
    if left.pos != "N" or length >= 2 or lemmas(left.text, "noun") in NOT_OBJECTS - KIND_WORDS:
        return False
    if right.text in ("rock", "bungee", "kite", "wind", "wake", "paddle") and word_after(words, right).pos == "V":
        return False  # "a man rock climbing"
    if right.rel == "flat" and right.head <= left.index:
        return True
    if left.rel in MODIFIERS and words[left.head].pos == "N" and left.head != left.index:
        return True
    # Two nouns side by side are one thing, whatever the parse says, unless the first can be told apart.
    name = lemmas(left.text, "noun")
    return name == left.text and name not in BEINGS and name not in SCENES


def _objects(words: list[Word], last: int, parts: list[int], lemmas: Lemmatizer) -> list[Tag]:
    """The object or scene of a noun phrase, or nothing for measures, places and times."""
    head = lemmas(words[last].text, "noun")
    names = [lemmas(words[part].text, "noun") for part in parts]
    if head == "glasses" and (set(names) & DRINKS or word_after(words, words[last]).text == "of"):
        head = "glass"
    after = word_after(words, words[last])
    if head in MEASURES and (after.text == "of" or after.pos == "N"):
        return []
    if head in PICTURES and names[-1:] == ["stock"]:  # "a red car on a beach stock photo": the end is an agency's
        if len(names) == 1:
            return []
        head, names = names[-2], names[:-2]
    if head in ("picture", "photo", "photograph") and any(one.head == last and one.text == "in" for one in words):
        return []
    name = " ".join([*names, head])
    worn = head == "top" and _worn(words, words[last])
    if head in NOT_OBJECTS and name not in SCENES and name not in COMPOUNDS and not worn:
        name = " ".join(one for one in names if one not in NOT_OBJECTS)
    if not name:
        return []
    return [Tag(name, "scene" if name in SCENES or (head in SCENES and names) else "object")]


def _worn(words: list[Word], word: Word) -> bool:
    """True for the "top" that somebody wears: "in a white top", "wearing a top"."""
    if word_after(words, word).text == "of":
        return False
    cased = [one.text for one in words if one.head == word.index and one.rel == "case"]
    return cased == ["in"] or (not cased and word.rel in ("obj", "conj", "root"))


def _describes(words: list[Word], word: Word) -> bool:
    """True for a participle before its noun: "a parked car", "two smiling children"."""
    if word.tag not in ("VBG", "VBN", "JJ", "VBD"):
        return False
    if word.text in STATES and word.tag == "VBN" and word_before(words, word).text in ("is", "are", "was", "were"):
        return word_after(words, word).text != "by"
    after = word_after(words, word)
    if word_before(words, word).text in ("while", "when", "by") or word.text in NEVER_DESCRIBING:
        return False
    if word_before(words, word).pos in ("PUNCT", "CCONJ") and word_before(words, word_before(words, word)).pos == "V":
        return False  # "laughing, drinking water"
    if word.tag == "VBN" and word_before(words, word).text.endswith("ly") and after.pos in ("N", "A"):
        return word_before(words, word_before(words, word)).pos not in ("AUX", "N")  # "newly built houses"
    if word.rel in ("amod", "compound") and word.head > word.index:
        return word.tag != "VBG" or word_before(words, word).pos != "N"  # "an officer directing traffic"
    if word.tag == "VBN" and word_before(words, word).pos in ("A", "NUM") and after.pos == "N":
        return True
    return word_before(words, word).pos == "DET" and after.pos in ("N", "A") and word_before(words, word).text != "that"


def _attribute(words: list[Word], word: Word, lemmas: Lemmatizer) -> str:
    """Name of the attribute, or "" if the word counts, compares, or describes the picture itself."""
    if word.rel in ("det", "case", "mark", "fixed", "cc", "aux", "num", "advmod") and word.text not in COLOURS:
        return ""
    name = lemmas(word.text, "adj") if word.pos == "A" else word.text
    if {name, word.text} & NOT_ATTRIBUTES or fixed_pair(words, word, word_after(words, word), lemmas):
        return ""
    first = word  # of a list of attributes: "a black and white photo of"
    while first.rel == "conj" and words[first.head].pos == "A" and first.head < first.index:
        first = words[first.head]
    head = words[first.head]
    measured = head.pos == "N" and lemmas(head.text, "noun") in PICTURES and word_after(words, head).text == "of"
    return "" if measured and first.rel == "amod" else name


def _action(words: list[Word], word: Word, lemmas: Lemmatizer) -> str:
    """Lemma of the verb, or "" for auxiliaries, light verbs, and verbs used as prepositions ("including")."""
    if word.rel in ("aux", "case", "mark", "fixed", "cc"):
        return ""
    name = lemmas(word.text, "verb")
    if name == "go" and word_after(words, word).text == "to":
        follower = words[word.index + 2] if word.index + 2 < len(words) else NOTHING
        return "" if follower.pos == "V" else name
    return "" if name in NOT_ACTIONS else name


@lru_cache(maxsize=1 << 16)
def _is_name(name: str) -> bool:
    """Letters, with hyphens and apostrophes inside: no numbers, no symbols, no other scripts."""
    plain = name.replace("-", "").replace("'", "").replace(" ", "")
    return (
        len(plain) > 1
        and name[0].isalpha()
        and name[-1].isalpha()
        and len(name) <= 60
        and plain.isalpha()
        and all(ord(one) < 0x250 for one in plain)
    )
