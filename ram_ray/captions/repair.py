"""Corrections of a parser's parts of speech, where the grammar of a caption allows a single reading.

The shipped pipeline was trained on generated captions too; another pipeline may read "a man surfing" as a kind of
surfing. Two signs show an error: the lemma tables know the word only as another part of speech, or two components of
the pipeline disagree. The rules are few on purpose: an uncertain rule causes as many errors as it corrects.
"""

from __future__ import annotations

from ram_ray.captions.lemmas import Lemmatizer
from ram_ray.captions.relations import MODIFIERS, Word, next_word, previous_word
from ram_ray.captions.words import (
    ADJECTIVES,
    BEINGS,
    COLOURS,
    COMPOUNDS,
    CREATURES,
    ING_NOUNS,
    ING_THINGS,
    JOINED_PARTICIPLES,
    PLAIN_VERBS,
    PREPOSITIONS,
    PURPOSES,
)

_SINGULAR = frozenset(("a", "an", "one", "this", "another", "each"))
_FORMS_OF_BE = frozenset(("is", "are", "was", "were", "be", "been", "being", "'s", "'re"))
_FINITE = frozenset(("VB", "VBP", "VBZ", "VBD"))
TITLE_NOUN = "NN-TITLE"  # `Word.tag` of a noun that stays one, whatever it is spelled like
_CLAUSES = frozenset(("root", "conj", "acl", "advcl", "comp", "other"))


def repair(words: list[Word], lemmas: Lemmatizer) -> None:
    """Correct parts of speech in place.

    Args:
        words: of a caption; changed.
        lemmas: the known words of each part of speech.
    """
    for word in words:
        _repair_unknown(words, word, lemmas)
    for word in words:
        if word.text.endswith("ing") and len(word.text) > 4:
            _repair_ing(words, word, lemmas)
        elif (
            word.pos == "N"
            and word.text in COLOURS
            and f"{previous_word(words, word).text} {word.text}" not in COMPOUNDS
        ):
            _repair_colour(words, word)
        elif word.pos == "N" and lemmas.known(word.text, "verb"):
            _repair_verb(words, word, lemmas)


def _repair_verb(words: list[Word], word: Word, lemmas: Lemmatizer) -> None:
    """A noun for one component of the pipeline and a verb for another: "and smiles", "preparing to land"."""
    previous = previous_word(words, word)
    clause = word.tag in _FINITE and word.rel in _CLAUSES and previous.pos not in ("DET", "A", "ADP")
    if clause or (previous.text == "to" and previous.tag == "TO" and previous.pos == "PART"):
        word.pos = "V"
    elif previous.text in _SINGULAR and _plural_form(word, lemmas):
        word.pos, word.tag, word.rel = "V", "VBZ", "root"  # "as another rides by"
    elif previous.pos == "N" and next_word(words, word).pos != "N" and _disagrees(words, previous, word, lemmas):
        word.pos, word.tag, word.rel = "V", "VBZ", "root"


def _disagrees(words: list[Word], previous: Word, word: Word, lemmas: Lemmatizer) -> bool:
    """True for "a train passes": no noun in the plural can follow a singular article and a singular noun."""
    singular = lemmas(previous.text, "noun") == previous.text and _determiner(words, previous) in _SINGULAR
    return singular and _plural_form(word, lemmas)


def _plural_form(word: Word, lemmas: Lemmatizer) -> bool:
    """True for a word that is a noun's plural and a verb's third person."""
    inflected = word.text.endswith("s") and lemmas(word.text, "verb") != word.text
    return inflected and lemmas(word.text, "noun") != word.text


def _determiner(words: list[Word], word: Word) -> str:
    """Text of the determiner of the noun phrase of `word`, or ""."""
    for candidate in reversed(words[: word.index]):
        if candidate.pos == "DET" or candidate.text == "one":
            return candidate.text
        if candidate.pos not in ("N", "A", "ADV", "NUM") and candidate.rel != "amod":
            return ""
    return ""


def _repair_unknown(words: list[Word], word: Word, lemmas: Lemmatizer) -> None:
    """Correct a class under which the tables do not have the word, while they have it under another class."""
    text, previous, following = word.text, previous_word(words, word), next_word(words, word)
    begins = word.pos == "V" and word.tag in ("VB", "VBP", "VBD") and previous.pos in ("", "PUNCT")
    if begins and following.text == "of" and lemmas.known(text, "noun") and lemmas(text, "verb") == text:
        word.pos, word.tag = "N", "NN"  # "Dawn of the Dinosaurs"
    if text in ("sport", "sports", "spring") and word.pos == "V" and following.pos not in ("DET", "PRON", "NUM"):
        word.pos, word.tag = "N", "NN"
    if text in PREPOSITIONS and word.pos in ("N", "A", "V"):
        word.pos = "ADP"
    elif text in JOINED_PARTICIPLES and previous.pos in ("N", "A") and following.pos in ("N", "A"):
        word.text, word.pos, word.rel, previous.pos = f"{previous.text}-{text}", "A", "amod", "PART"
    elif f"{previous.text} {text}" in COMPOUNDS and (word.pos != "V" or previous.pos == "V"):
        word.pos = "N"  # "stop sign" as two commands
    elif word.pos == "N" and lemmas.known(text, "adj") and not lemmas.known(text, "noun"):
        word.pos = "A"
    elif word.pos == "A" and lemmas.known(text, "noun") and not _describing(text, lemmas):
        word.pos = "N"  # "a laptop computer"
    elif text == "striped":
        word.pos, word.rel = "A", "amod"
    elif word.pos == "V" and text in ADJECTIVES:
        word.pos = "A"  # "looks stunning"
    elif word.pos == "A" and previous.text == "to" and lemmas.known(text, "verb"):
        word.pos, word.tag = "V", "VB"
    elif (
        word.tag == "JJ"
        and word.pos == "N" == following.pos
        and not _known(following, lemmas)
        and lemmas.known(text, "adj")
    ):
        word.pos = "A"  # "a juvenile cornsnake"
    elif word.pos == "N" and _noun_describes(text, previous, following, lemmas):
        word.pos = "A"
    elif word.pos == "V" and following.pos in ("PUNCT", "A", "N", "CCONJ") and _is_adjective(text, lemmas):
        word.pos = "A" if previous.pos in ("DET", "A") else "V"
    elif word.pos == "V" and previous.text in ("has", "have", "having", "of", "with") and word.tag in ("VB", "VBP"):
        word.pos = "N" if lemmas.known(text, "noun") else "V"
    elif word.pos == "A" and previous.pos == "N" and text in PLAIN_VERBS and word.rel not in ("amod", "pred"):
        word.pos, word.tag = "V", "VBP"
    elif word.pos == "A" and following.pos not in ("N", "A", "CCONJ") and not _regular(text):
        if word.rel in ("subj", "obj", "obl") and lemmas.known(text, "noun") and text not in COLOURS:
            word.pos = "N"
    elif word.pos == "V" and not lemmas.known(text, "verb") and not _regular(text):
        known = lemmas.known(text, "noun"), lemmas.known(text, "adj")
        word.pos = "A" if known[1] and not known[0] else "N" if known[0] else "V"  # "is visible"
    elif word.pos == "N" and lemmas.known(text, "verb") and not lemmas.known(text, "noun") and not _regular(text):
        word.pos, word.tag = "V", "VBZ"
    elif word.pos == "A" and word.rel == "compound" and previous.text in COLOURS and lemmas.known(text, "noun"):
        word.pos = "A" if text in COLOURS else "N"  # "a red key falling"
    elif word.pos in ("INTJ", "X", "ADV") and following.pos not in ("N", "A") and lemmas.known(text, "noun"):
        word.pos = "N" if previous.pos == "DET" or previous.text in COLOURS else word.pos


def _noun_describes(text: str, previous: Word, following: Word, lemmas: Lemmatizer) -> bool:
    """True for "furry" in "a furry black dog", "vintage" in "vintage cars", tagged as nouns."""
    if previous.pos == "DET" and following.pos == "A" and _is_adjective(text, lemmas):
        return True
    if text.endswith(("ical", "ous", "ful")) and following.pos == "N" and lemmas.known(text, "adj"):
        return True  # "musical instruments"
    if text.endswith("-like"):
        return True  # "a crow-like bird"
    return following.pos in ("N", "A") and (text in ADJECTIVES or text.endswith(("less", "colored")))


def _known(word: Word, lemmas: Lemmatizer) -> bool:
    return "-" in word.text or lemmas.known_word(word.text)


def _describing(text: str, lemmas: Lemmatizer) -> bool:
    return lemmas.known(text, "adj") or text in COLOURS or text in ADJECTIVES or _regular(text) or "-" in text


def _is_adjective(text: str, lemmas: Lemmatizer) -> bool:
    return not _regular(text) and lemmas.known(text, "adj") and not text.endswith("en")


def _regular(text: str) -> bool:
    return text.endswith(("ing", "ed"))


def _repair_ing(words: list[Word], word: Word, lemmas: Lemmatizer) -> None:
    """Classify -ing words: "a man surfing", "is smiling" are verbs; "a building", "the railing" are nouns."""
    previous, following = previous_word(words, word), next_word(words, word)
    being = previous.pos == "N" and lemmas(previous.text, "noun") in BEINGS
    if word.tag == TITLE_NOUN or word.text in ING_NOUNS:
        return
    if word.text in ING_THINGS:
        follows = following.pos in ("N", "DET", "A", "NUM") or following.text in ING_THINGS
        if previous.pos in ("", "PUNCT") and following.text in ("of", "by"):
            word.pos = "N"  # "painting by an artist"
            return
        if previous.pos in ("", "PUNCT") and following.tag in ("VBG", "VBN", "VBZ"):
            word.pos, word.tag = "N", "NN"  # "painting showing a ship"
            return
        if word.pos == "V" and previous.pos in ("N", "A") and following.pos in ("", "PUNCT") and not being:
            word.pos, word.tag = "N", "NN"  # "large landscape painting"
            return
        builds = previous.text in _FORMS_OF_BE and follows and previous_word(words, previous).pos == "N"
        if word.pos == "N" and (builds or (being and following.pos == "DET")) and lemmas.known(word.text, "verb"):
            word.pos, word.tag = "V", "VBG"  # "a worker is building a wall"
        elif (
            word.pos in ("V", "A")
            and previous.pos in ("DET", "A", "NUM", "ADP", "SCONJ", "V")
            and following.pos != "DET"
        ):
            word.pos = "N"
        return
    is_thing = following.pos == "N" and lemmas(following.text, "noun") not in BEINGS | CREATURES
    if word.text in PURPOSES and word.pos == "V" and previous.pos in ("DET", "A") and is_thing:
        word.pos, word.tag, word.rel = "N", "NN", "compound"  # "a live batting session"
    if word.pos not in ("N", "A") or not lemmas.known(word.text, "verb"):
        return
    if word.text in PURPOSES and previous.pos in ("DET", "A", "NUM") and lemmas(following.text, "noun") in CREATURES:
        word.pos, word.tag, word.rel = "V", "VBG", "amod"  # "a swimming dog", but "a swimming pool"
        return
    in_colour = previous.text in COLOURS and previous_word(words, previous).text == "in"  # "a woman in black riding"
    free = word.rel not in MODIFIERS and word.rel not in ("obj", "obl", "subj")
    after_being = in_colour or (previous.pos == "N" and (being or free))
    acts = previous.text in _FORMS_OF_BE or (after_being and following.pos != "N")
    goes_on = previous.pos == "N" and following.pos in ("ADP", "DET", "ADV")
    if acts or goes_on or (being and not fixed_pair(words, word, following, lemmas)):
        word.pos, word.tag = "V", "VBG"


def _repair_colour(words: list[Word], word: Word) -> None:
    """A colour is an attribute, unless it names an object ("an orange")."""
    previous, following = previous_word(words, word), next_word(words, word)
    thing = word.text in ("orange", "gold", "silver", "cream", "lavender", "khaki") and previous.pos in ("DET", "NUM")
    if following.pos in ("N", "A") or (following.text == "and" and not thing) or not thing:
        word.pos = "A"


def fixed_pair(words: list[Word], left: Word, right: Word, lemmas: Lemmatizer) -> bool:
    """Whether two tokens are a known compound: "hot dog", "swimming pool".

    Args:
        words: of the caption.
        left: the first token.
        right: the token after it.
        lemmas: dictionary forms.

    Returns:
        True if they are.
    """
    if left.text in PURPOSES and right.pos == "N" and lemmas(right.text, "noun") not in BEINGS:
        previous = previous_word(words, left)
        free = previous.text in _FORMS_OF_BE or previous.pos in ("N", "PUNCT", "CCONJ")
        return left.rel in MODIFIERS and not free
    return f"{left.text} {lemmas(right.text, 'noun')}" in COMPOUNDS or f"{left.text} {right.text}" in COMPOUNDS
