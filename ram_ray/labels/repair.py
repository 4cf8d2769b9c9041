"""Repairs to a parser's parts of speech, where the grammar of a caption leaves one reading.

Captions are hard on parsers trained on the web: "a dog runs" is read as a compound of two nouns, "a man surfing"
as a kind of surfing. An article that does not agree with its noun, or a word that the lemma tables know as
something else, gives such a reading away.
"""

from __future__ import annotations

from ram_ray.labels.lemmas import Lemmatizer
from ram_ray.labels.relations import MODIFIERS, Word, word_after, word_before
from ram_ray.labels.words import (
    ADJECTIVES,
    BEINGS,
    COLOURS,
    COMPOUNDS,
    ING_THINGS,
    JOINED_PARTICIPLES,
    PLAIN_VERBS,
    PREPOSITIONS,
    PURPOSES,
)

_SINGULAR = frozenset(("a", "an", "one", "this", "that", "each", "another", "every"))
_FORMS_OF_BE = frozenset(("is", "are", "was", "were", "be", "been", "being", "'s", "'re"))


def repair(words: list[Word], lemmas: Lemmatizer) -> None:
    """Correct parts of speech in place where a caption's grammar leaves one reading."""
    for word in words:
        _repair_unknown(words, word, lemmas)
    for word in words:
        if word.text.endswith("ing") and len(word.text) > 4:
            _repair_ing(words, word, lemmas)
        elif word.pos == "N" and _reads_as_verb(words, word, lemmas):
            word.pos, word.tag, word.rel = "V", "VBZ", "root"
        elif word.pos == "V" and word.tag in ("VB", "VBP", "VBZ", "NN") and lemmas.known(word.text, "noun"):
            before = word_before(words, word)
            named = before.pos in ("DET", "A") and before.text not in ("that", "all", "both")
            if named or _reads_as_noun(words, word, lemmas):
                word.pos = "N"
        elif word.pos == "N" and word.text in COLOURS:
            _repair_colour(words, word)


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
    elif word.pos == "V" and not lemmas.known(text, "verb") and lemmas.known(text, "noun"):
        word.pos = "N"
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
    return after.pos in ("N", "A") and (text in ADJECTIVES or text.endswith(("less", "colored")))


def _describing(text: str, lemmas: Lemmatizer) -> bool:
    return lemmas.known(text, "adj") or text in COLOURS or text in ADJECTIVES or _regular(text) or "-" in text


def _is_adjective(text: str, lemmas: Lemmatizer) -> bool:
    return not _regular(text) and lemmas.known(text, "adj") and not text.endswith("en")


def _regular(text: str) -> bool:
    return text.endswith(("ing", "ed"))


def _repair_ing(words: list[Word], word: Word, lemmas: Lemmatizer) -> None:
    """ "a man surfing", "is smiling" are verbs; "a building", "the railing" are things."""
    before, after = word_before(words, word), word_after(words, word)
    if word.text in ING_THINGS:
        if word.pos in ("V", "A") and before.pos in ("DET", "A", "NUM", "ADP", "SCONJ", "V") and after.pos != "DET":
            word.pos = "N"
        if not (word.pos == "N" and lemmas(before.text, "noun") in BEINGS and before.pos == "N"):
            return
    if word.pos not in ("N", "A") or not lemmas.known(word.text, "verb"):
        return
    after_be = before.text in _FORMS_OF_BE
    in_colour = before.text in COLOURS and word_before(words, before).text == "in"  # "a woman in black riding"
    being = lemmas(before.text, "noun") in BEINGS
    after_being = in_colour or (before.pos == "N" and (being or word.rel not in MODIFIERS))
    if after_be or (after_being and after.pos != "N") or (before.pos == "N" and after.pos in ("ADP", "DET", "ADV")):
        word.pos, word.tag = "V", "VBG"
    elif before.pos in ("DET", "A") and after.pos == "N" and word.text not in PURPOSES and word.pos == "N":
        paired = fixed_pair(words, word, after, lemmas)
        word.pos, word.tag, word.rel = ("N", "NN", word.rel) if paired else ("V", "VBG", "amod")  # "a breaking wave"
    elif before.pos == "N" and lemmas(before.text, "noun") in BEINGS and not fixed_pair(words, word, after, lemmas):
        word.pos, word.tag = "V", "VBG"


def _reads_as_verb(words: list[Word], word: Word, lemmas: Lemmatizer) -> bool:
    """True for the verb in "a dog runs", "two men jump", "an umbrella and an anchor stand", tagged as a noun."""
    text, before = word.text, word_before(words, word)
    if before.pos != "N" or not lemmas.known(text, "verb") or before.text in COLOURS:
        return False
    subject = lemmas(before.text, "noun")
    plural_subject = subject != before.text or subject == "people"
    if before.tag == "NNS" and _determiner(words, before) not in _SINGULAR:
        plural_subject = True  # "four sheep graze"
    after = word_after(words, word)
    last_of_run = after.pos != "N"
    if after.pos == "DET" and text.endswith("s") != plural_subject:
        return True  # "a girl in a plaid shirt wears a mask"
    if text.endswith("s") and lemmas(text, "verb") != text:
        if plural_subject or lemmas(text, "noun") == text:
            return False
        return subject in BEINGS or (last_of_run and _determiner(words, before) in _SINGULAR)
    if lemmas(text, "verb") != text:
        return False
    if plural_subject:
        return subject in BEINGS
    joined = any(one.pos == "CCONJ" for one in words[: word.index])
    others = any(one.pos in ("V", "AUX") for one in words)
    if joined and subject in BEINGS and words[max(0, word.index - 2)].pos in ("CCONJ", "DET", "A"):
        opening = word.index - 2 if words[word.index - 2].pos == "CCONJ" else word.index - 3
        if opening >= 0 and words[opening].pos == "CCONJ" and not others:
            return True
    return joined and not others and text in PLAIN_VERBS and last_of_run


def _reads_as_noun(words: list[Word], word: Word, lemmas: Lemmatizer) -> bool:
    """True for "patch" in "a pumpkin patch": a verb of this form cannot follow a singular subject."""
    before = word_before(words, word)
    if word.tag not in ("VB", "VBP", "NN") or before.pos != "N" or lemmas(word.text, "verb") in PLAIN_VERBS:
        return False
    if lemmas(before.text, "noun") != before.text or before.text == "people" or not lemmas.known(word.text, "noun"):
        return False
    joined = any(one.pos == "CCONJ" for one in words[: word.index])
    return not joined and _determiner(words, before) in _SINGULAR


def _determiner(words: list[Word], word: Word) -> str:
    """Text of the determiner that opens the noun phrase in which `word` stands, or ""."""
    for one in reversed(words[: word.index]):
        if one.pos == "DET" or one.text == "one":
            return one.text
        between = one.pos == "CCONJ" and one.index and words[one.index - 1].pos == "A"  # "a black and red shirt"
        if not between and one.pos not in ("N", "A", "ADV", "NUM") and one.tag not in ("VBG", "VBN"):
            return ""
    return ""


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
