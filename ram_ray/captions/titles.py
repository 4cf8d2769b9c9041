"""Titles and listings: "Skechers Men Black Lifestyle Casual Shoes" is a noun phrase, whatever the parser makes of it.

The pipeline reads sentences. In a part of a caption that has no word of a sentence (an article, a pronoun, an
auxiliary) and whose words all begin with a capital, a finite verb is nearly always a noun or an adjective that is
spelled like it ("Drum Set", "Solid Blue Socks"). Whom a product is for is no tag: "Men's", "Women", "for Kids".
"""

from __future__ import annotations

from ram_ray.captions.lemmas import Lemmatizer
from ram_ray.captions.names import NAME, Capitals
from ram_ray.captions.relations import NO_WORD, Word, next_word, previous_word
from ram_ray.captions.repair import TITLE_NOUN
from ram_ray.captions.words import ADJECTIVES, BEINGS, BUYERS, COLOURS, COMPOUNDS, ING_NOUNS, PLURAL_BUYERS, PURPOSES

AUDIENCE = "AUDIENCE"  # `Word.pos` of a word for whom a product is meant
MODIFIER = "MODIFIER"  # `Word.pos` of a noun that is no head
_DESCRIBING = COLOURS | ADJECTIVES
_SENTENCE = frozenset(("PRON", "AUX"))
_PRODUCT = frozenset(("N", "A", NAME, "NUM", "PRON"))  # classes of the word after the buyer
_MAX_COMPOUND = 4  # words
_MAX_MAKER = 4  # words
_FINITE = frozenset(("VB", "VBP", "VBZ", "VBD", "VBN", "VBG"))


def read_titles(words: list[Word], capitals: Capitals, lemmas: Lemmatizer) -> None:
    """Correct the parts of speech of titles in place.

    Args:
        words: of a caption, names marked; changed.
        capitals: of the caption, as `names.read_capitals` returns.
        lemmas: the known words of each part of speech.
    """
    for word in words:
        if word.text in ING_NOUNS and word.pos in ("V", "A") and previous_word(words, word).pos != "AUX":
            word.pos, word.tag = "N", "NN"
    for part in _parts(words):
        if any(word.pos in _SENTENCE and word.text not in ("my", "your") for word in part):
            continue
        has_verb = any(word.pos == "V" for word in part)
        if capitals == "title":
            for word in part:
                _read_noun_phrase(words, word, lemmas)
        if capitals == "title" or not has_verb:
            for word in part:
                _mark_audience(words, word, loose=capitals == "title")
        if capitals == "title":
            for word in part:
                if word.pos == "N" and next_word(words, word).text == "'s":
                    word.pos = AUDIENCE  # an owner: "The Entrepreneur's Guide"
            _mark_makers(part)
            for word in reversed(part):
                _mark_modifier(words, word, lemmas)
            _mark_heap(part, lemmas)


def _parts(words: list[Word]) -> list[list[Word]]:
    """Words between marks of punctuation."""
    parts: list[list[Word]] = [[]]
    for word in words:
        if word.pos == "PUNCT" and word.text not in ("'", '"'):
            parts.append([])
        else:
            parts[-1].append(word)
    return [part for part in parts if part]


def _read_noun_phrase(words: list[Word], word: Word, lemmas: Lemmatizer) -> None:
    previous, following = previous_word(words, word), next_word(words, word)
    if word.pos == "A" and word.text in _DESCRIBING:
        return
    if f"{previous.text} {word.text}" in COMPOUNDS:
        word.pos = "N"
    elif word.pos in ("N", "X", "INTJ", "ADV", "ADP") and word.text in COLOURS:
        word.pos, word.rel = "A", "amod"
    elif word.pos in ("X", "INTJ") and word.text.isalpha() and lemmas.known(word.text, "noun"):
        word.pos = "N"
    elif word.pos == "V" and word.tag not in _FINITE:
        word.pos = "A" if word.tag == "JJ" and lemmas.known(word.text, "adj") else "N"
    elif word.pos == "N" and word.tag in _FINITE:  # two components of the pipeline disagree
        word.pos, word.tag = ("V", word.tag) if _acts(previous, word, following, lemmas) else ("N", TITLE_NOUN)
    elif word.pos == "V" and word.tag in _FINITE and not _acts(previous, word, following, lemmas):
        if lemmas.known(word.text, "adj") and following.pos in ("N", "A"):
            word.pos, word.rel = "A", "amod"
        elif word.text.endswith("ed") and following.pos in ("N", "A", NAME):
            word.tag, word.rel = "VBN", "amod"
            word.head = following.index
        elif lemmas.known(word.text, "noun") or word.text in PURPOSES:
            word.pos, word.tag = "N", TITLE_NOUN


def _acts(previous: Word, word: Word, following: Word, lemmas: Lemmatizer) -> bool:
    """True for a verb with a subject that can act: "Two Dogs Running On The Beach", "Dog Eats Cake"."""
    subject = lemmas(previous.text, "noun")
    if previous.text in PLURAL_BUYERS and (word.text.endswith("s") or following.pos in ("N", "A")):
        return False  # "Men Sports Shoes", "Women Running Shoes"
    if subject in BEINGS and word.text.endswith(("ing", "s")) and following is not NO_WORD:
        return True
    if word.tag == "VBZ" and subject == previous.text and following.pos in ("ADP", "DET", "PRON", "ADV"):
        return True
    of_name = previous.pos == "N" and following.pos == NAME  # "Ferry Approaching Doolin Pier"
    return word.text.endswith("ing") and (of_name or following.pos in ("ADP", "DET", "PRON", "CCONJ"))


def _mark_audience(words: list[Word], word: Word, *, loose: bool) -> None:
    """Set `pos` of "Men" in "Men Shoes", "Men's Shoes" and "Shoes for Men" to AUDIENCE."""
    if word.text not in (BUYERS if loose else PLURAL_BUYERS):
        return
    previous, following = previous_word(words, word), next_word(words, word)
    owns = following.text in ("'s", "'", "s")
    if owns:
        following = next_word(words, following)
    singular = word.text not in PLURAL_BUYERS
    for_buyers = loose and previous.text == "for" and following.pos in ("", "PUNCT")
    before_product = (owns or not singular) and (following.pos in _PRODUCT or following.tag == "VBN")
    if for_buyers or before_product:
        word.pos = AUDIENCE


def _mark_makers(part: list[Word]) -> None:
    """What stands before the buyer in a listing is the maker: "Arrow Men Black Socks", "Lotto Women Top"."""
    buyer = next((index for index, word in enumerate(part) if word.pos == AUDIENCE), 0)
    if buyer <= _MAX_MAKER and all(word.pos in ("N", "A", "V", "X", "NUM", "CCONJ", NAME) for word in part[:buyer]):
        for word in part[:buyer]:
            if word.text not in COLOURS and word.text not in ADJECTIVES:
                word.pos = NAME


def _mark_modifier(words: list[Word], word: Word, lemmas: Lemmatizer) -> None:
    """Set `pos` of a noun before the adjectives of another one to MODIFIER: "Lifestyle Casual Shoes"."""
    following = next_word(words, word)
    if word.pos == "N" and following.pos == MODIFIER and following.rel == MODIFIER:
        word.pos = word.rel = MODIFIER  # "Royal Diadem Red Earring"
    if word.pos != "N" or following.pos != "A" or lemmas(word.text, "noun") in BEINGS:
        return
    has_colour = False
    while following.pos == "A":
        has_colour |= following.text in COLOURS
        following = next_word(words, following)
    if following.pos == "N":
        word.pos = MODIFIER
        word.rel = MODIFIER if has_colour else word.rel


def _mark_heap(part: list[Word], lemmas: Lemmatizer) -> None:
    """Set `pos` to MODIFIER of all but the last four nouns of a heap, and of a noun before the name of a maker."""
    for index, word in enumerate(part[:-1]):
        run = next((length for length, other in enumerate(part[index:]) if other.pos != "N"), len(part) - index)
        if run > _MAX_COMPOUND and lemmas(word.text, "noun") not in BEINGS:
            word.pos = MODIFIER
    maker = next((index for index, word in enumerate(part) if word.pos == NAME), 0)
    first = part[:maker]
    names_maker = all(word.pos == "N" and not word.text.endswith("ing") for word in first)
    if names_maker and len(first) in (1, 2) and any(word.pos == "N" for word in part[maker:]):
        for word in first:
            word.pos = MODIFIER  # "Filament Santo Wool Rug", "Lotus Herbals Moistpetals Lipstick"
