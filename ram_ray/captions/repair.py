"""Repairs to a parser's parts of speech, where the grammar of a caption leaves one reading.

The shipped pipeline has seen captions (made ones) in its training; a pipeline that has not reads "a man surfing" as a
kind of surfing. A word that the lemma tables know only as something else, or two parts of a pipeline that do not agree,
give a wrong reading away. What is left to repair is little on purpose: a repair that guesses costs as much as it saves.
"""

from __future__ import annotations

from ram_ray.captions.lemmas import Lemmatizer
from ram_ray.captions.relations import MODIFIERS, Word, word_after, word_before
from ram_ray.captions.words import (
    ADJECTIVES,
    BEINGS,
    COLOURS,
    COMPOUNDS,
    CREATURES,
    ING_THINGS,
    JOINED_PARTICIPLES,
    PLAIN_VERBS,
    PREPOSITIONS,
    PURPOSES,
)

_SINGULAR = frozenset(("a", "an", "one", "this", "another", "each"))
_FORMS_OF_BE = frozenset(("is", "are", "was", "were", "be", "been", "being", "'s", "'re"))
_FINITE = frozenset(("VB", "VBP", "VBZ", "VBD"))
_CLAUSES = frozenset(("root", "conj", "acl", "advcl", "comp", "other"))


def repair(words: list[Word], lemmas: Lemmatizer) -> None:
    """Correct parts of speech in place where a caption's grammar leaves one reading.

    Args:
        words: of one caption; changed.
        lemmas: the words that each part of speech has.
    """
    for word in words:
        _repair_unknown(words, word, lemmas)
    for word in words:
        if word.text.endswith("ing") and len(word.text) > 4:
            _repair_ing(words, word, lemmas)
        elif word.pos == "N" and word.text in COLOURS:
            _repair_colour(words, word)
        elif word.pos == "N" and lemmas.known(word.text, "verb"):
            _repair_verb(words, word, lemmas)


def _repair_verb(words: list[Word], word: Word, lemmas: Lemmatizer) -> None:
    """A noun to one part of the pipeline and a verb to the rest: "and smiles", "preparing to land"."""
    before = word_before(words, word)
    clause = word.tag in _FINITE and word.rel in _CLAUSES and before.pos not in ("DET", "A", "ADP")
    if clause or (before.text == "to" and before.tag == "TO" and before.pos == "PART"):
        word.pos = "V"
    elif before.text in _SINGULAR and _plural_form(word, lemmas):
        word.pos, word.tag, word.rel = "V", "VBZ", "root"  # "as another rides by"
    elif before.pos == "N" and word_after(words, word).pos != "N" and _disagrees(words, before, word, lemmas):
        word.pos, word.tag, word.rel = "V", "VBZ", "root"


def _disagrees(words: list[Word], before: Word, word: Word, lemmas: Lemmatizer) -> bool:
    """True for "a train passes": no noun in the plural can follow a singular article and a singular noun."""
    singular = lemmas(before.text, "noun") == before.text and _determiner(words, before) in _SINGULAR
    return singular and _plural_form(word, lemmas)


def _plural_form(word: Word, lemmas: Lemmatizer) -> bool:
    """True for a word that is a noun's plural and a verb's third person."""
    inflected = word.text.endswith("s") and lemmas(word.text, "verb") != word.text
    return inflected and lemmas(word.text, "noun") != word.text


def _determiner(words: list[Word], word: Word) -> str:
    """Text of the determiner that opens the noun phrase in which `word` stands, or ""."""
    for one in reversed(words[: word.index]):
        if one.pos == "DET" or one.text == "one":
            return one.text
        if one.pos not in ("N", "A", "ADV", "NUM") and one.rel != "amod":
            return ""
    return ""


def _repair_unknown(words: list[Word], word: Word, lemmas: Lemmatizer) -> None:
    """A class under which the tables do not know the word, while they know it under another."""
    text, before, after = word.text, word_before(words, word), word_after(words, word)
    if text in PREPOSITIONS and word.pos in ("N", "A", "V"):
        word.pos = "ADP"
    elif text in JOINED_PARTICIPLES and before.pos in ("N", "A") and after.pos in ("N", "A"):
        word.text, word.pos, word.rel, before.pos = f"{before.text}-{text}", "A", "amod", "PART"
    elif f"{before.text} {text}" in COMPOUNDS and (word.pos != "V" or before.pos == "V"):
        word.pos = "N"  # "stop sign" as two commands
    elif word.pos == "N" and lemmas.known(text, "adj") and not lemmas.known(text, "noun"):
        word.pos = "A"
    elif word.pos == "A" and lemmas.known(text, "noun") and not _describing(text, lemmas):
        word.pos = "N"  # "a laptop computer"
    elif text == "striped":
        word.pos, word.rel = "A", "amod"
    elif word.pos == "V" and text in ADJECTIVES:
        word.pos = "A"  # "looks stunning"
    elif word.pos == "A" and before.text == "to" and lemmas.known(text, "verb"):
        word.pos, word.tag = "V", "VB"
    elif word.pos == "N" and _noun_describes(text, before, after, lemmas):
        word.pos = "A"
    elif word.pos == "V" and after.pos in ("PUNCT", "A", "N", "CCONJ") and _is_adjective(text, lemmas):
        word.pos = "A" if before.pos in ("DET", "A") else "V"
    elif word.pos == "V" and before.text in ("has", "have", "having", "of", "with") and word.tag in ("VB", "VBP"):
        word.pos = "N" if lemmas.known(text, "noun") else "V"
    elif word.pos == "A" and before.pos == "N" and text in PLAIN_VERBS and word.rel not in ("amod", "pred"):
        word.pos, word.tag = "V", "VBP"
    elif word.pos == "A" and after.pos not in ("N", "A", "CCONJ") and not _regular(text):
        if word.rel in ("subj", "obj", "obl") and lemmas.known(text, "noun") and text not in COLOURS:
            word.pos = "N"
    elif word.pos == "V" and not lemmas.known(text, "verb") and not _regular(text):
        known = lemmas.known(text, "noun"), lemmas.known(text, "adj")
        word.pos = "A" if known[1] and not known[0] else "N" if known[0] else "V"  # "is visible"
    elif word.pos == "N" and lemmas.known(text, "verb") and not lemmas.known(text, "noun") and not _regular(text):
        word.pos, word.tag = "V", "VBZ"
    elif word.pos == "A" and word.rel == "compound" and before.text in COLOURS and lemmas.known(text, "noun"):
        word.pos = "A" if text in COLOURS else "N"  # "a red key falling"
    elif word.pos in ("INTJ", "X", "ADV") and after.pos not in ("N", "A") and lemmas.known(text, "noun"):
        word.pos = "N" if before.pos == "DET" or before.text in COLOURS else word.pos


def _noun_describes(text: str, before: Word, after: Word, lemmas: Lemmatizer) -> bool:
    """True for "furry" in "a furry black dog", "vintage" in "vintage cars", tagged as nouns."""
    if before.pos == "DET" and after.pos == "A" and _is_adjective(text, lemmas):
        return True
    if text.endswith(("ical", "ous", "ful")) and after.pos == "N" and lemmas.known(text, "adj"):
        return True  # "musical instruments"
    return after.pos in ("N", "A") and (text in ADJECTIVES or text.endswith(("less", "colored")))


def _describing(text: str, lemmas: Lemmatizer) -> bool:
    return lemmas.known(text, "adj") or text in COLOURS or text in ADJECTIVES or _regular(text) or "-" in text


def _is_adjective(text: str, lemmas: Lemmatizer) -> bool:
    return not _regular(text) and lemmas.known(text, "adj") and not text.endswith("en")


def _regular(text: str) -> bool:
    return text.endswith(("ing", "ed"))


def _repair_ing(words: list[Word], word: Word, lemmas: Lemmatizer) -> None:
    """Tell the -ing words apart: "a man surfing", "is smiling" are verbs; "a building", "the railing" are things."""
    before, after = word_before(words, word), word_after(words, word)
    being = before.pos == "N" and lemmas(before.text, "noun") in BEINGS
    if word.text in ING_THINGS:
        follows = after.pos in ("N", "DET", "A", "NUM") or after.text in ING_THINGS
        builds = before.text in _FORMS_OF_BE and follows and word_before(words, before).pos == "N"
        if word.pos == "N" and (builds or (being and after.pos == "DET")) and lemmas.known(word.text, "verb"):
            word.pos, word.tag = "V", "VBG"  # "a worker is building a wall"
        elif word.pos in ("V", "A") and before.pos in ("DET", "A", "NUM", "ADP", "SCONJ", "V") and after.pos != "DET":
            word.pos = "N"
        return
    if word.pos not in ("N", "A") or not lemmas.known(word.text, "verb"):
        return
    if word.text in PURPOSES and before.pos in ("DET", "A", "NUM") and lemmas(after.text, "noun") in CREATURES:
        word.pos, word.tag, word.rel = "V", "VBG", "amod"  # "a swimming dog", but "a swimming pool"
        return
    in_colour = before.text in COLOURS and word_before(words, before).text == "in"  # "a woman in black riding"
    free = word.rel not in MODIFIERS and word.rel not in ("obj", "obl", "subj")
    after_being = in_colour or (before.pos == "N" and (being or free))
    acts = before.text in _FORMS_OF_BE or (after_being and after.pos != "N")
    goes_on = before.pos == "N" and after.pos in ("ADP", "DET", "ADV")
    if acts or goes_on or (being and not fixed_pair(words, word, after, lemmas)):
        word.pos, word.tag = "V", "VBG"


def _repair_colour(words: list[Word], word: Word) -> None:
    """A colour before a noun, after "in", or that is no thing by itself, is an attribute."""
    before, after = word_before(words, word), word_after(words, word)
    thing = word.text in ("orange", "gold", "silver", "cream", "lavender", "khaki") and before.pos in ("DET", "NUM")
    if after.pos in ("N", "A") or (after.text == "and" and not thing) or not thing:
        word.pos = "A"


def fixed_pair(words: list[Word], left: Word, right: Word, lemmas: Lemmatizer) -> bool:
    """True for two tokens known to be one thing: "hot dog", "swimming pool"."""
    if left.text in PURPOSES and right.pos == "N" and lemmas(right.text, "noun") not in BEINGS:
        before = word_before(words, left)
        free = before.text in _FORMS_OF_BE or before.pos in ("N", "PUNCT", "CCONJ")
        return left.rel in MODIFIERS and not free
    return f"{left.text} {lemmas(right.text, 'noun')}" in COMPOUNDS or f"{left.text} {right.text}" in COMPOUNDS
