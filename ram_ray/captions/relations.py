"""A common set of relations for Universal Dependencies and CLEAR labels.

The shipped pipeline has UD labels, spaCy's own English pipelines have CLEAR labels. Both become `Word`s here; the other
modules do not depend on the scheme.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spacy.strings import StringStore
    from spacy.tokens import Doc

# The relation of each label of either scheme; a missing label is "other".
RELATIONS = {
    "nsubj": "subj", "nsubjpass": "subj", "nsubj:pass": "subj", "csubj": "subj",
    "obj": "obj", "dobj": "obj", "iobj": "obj", "dative": "obj",
    "obl": "obl", "pobj": "obl", "npadvmod": "obl", "obl:npmod": "obl", "obl:tmod": "obl", "obl:agent": "agent",
    "nmod": "nmod", "nmod:poss": "poss", "poss": "poss", "appos": "nmod",
    "amod": "amod", "compound": "compound", "flat": "flat", "conj": "conj", "cc": "cc", "preconj": "cc",
    "det": "det", "predet": "det", "nummod": "num", "quantmod": "num", "neg": "neg", "advmod": "advmod",
    "attr": "pred", "acomp": "pred", "oprd": "pred", "cop": "cop",
    "aux": "aux", "auxpass": "aux", "aux:pass": "aux",
    "case": "case", "prep": "case", "agent": "case", "mark": "mark", "prt": "particle", "compound:prt": "particle",
    "acl": "acl", "relcl": "acl", "acl:relcl": "acl", "advcl": "advcl", "xcomp": "comp", "ccomp": "comp",
    "pcomp": "comp", "ROOT": "root", "root": "root", "fixed": "fixed", "punct": "punct",
}  # fmt: skip
# Relations under which a noun can be part of a compound.
MODIFIERS = frozenset(("compound", "flat", "nmod", "amod", "other", "num"))
_ATTRIBUTES: list[int | str] = ["LOWER", "POS", "TAG", "DEP", "HEAD", "IDX"]
_SIGN_BIT = 1 << 63  # spaCy's array is unsigned; the offset of a head on the left is negative
_UNDER_PREPOSITIONS = frozenset(("pobj", "pcomp"))  # CLEAR labels
_PREPOSITIONS = frozenset(("prep", "agent", "dative"))
_CLASSES = {"NOUN": "N", "PROPN": "N", "VERB": "V", "ADJ": "A", "AUX": "AUX"}


@dataclass(slots=True)
class Word:
    """A token: lower-case text, class (N, V, A, or the universal part of speech), relation and head."""

    index: int
    text: str
    pos: str
    tag: str  # Penn tag
    rel: str  # a value of RELATIONS, or "other"
    head: int  # index of the head; its own for a root
    written: str = ""  # the text with the capitals of the caption


_strings: dict[
    int, str
] = {}  # strings by spaCy's hashes, which are the same in every pipeline; decoding them again is slow


def _string(key: int, strings: StringStore) -> str:
    if len(_strings) > 100_000:  # hostile text must not use unbounded memory
        _strings.clear()
    return _strings.setdefault(key, strings[key])


def read_words(doc: Doc, caption: str | None = None) -> list[Word]:
    """Convert a spaCy Doc to tokens with the common relations.

    In CLEAR the head of a noun is its preposition ("on" -> "beach"). Here, as in UD, the head of the noun is the word
    that the preposition modifies, and the head of the preposition is the noun.

    Args:
        doc: a parsed caption, in lower case.
        caption: the same with its capitals; None: it has none.

    Returns:
        Its tokens in order.
    """
    strings, known = doc.vocab.strings, _strings.get
    words, under_prepositions = [], []
    # An array of all tokens: reading each attribute of each token is slower than all the rules together.
    rows = doc.to_array(_ATTRIBUTES).tolist() if len(doc) else []
    for index, row in enumerate(rows):
        text, pos, tag, relation = [known(key) or _string(key, strings) for key in row[:4]]
        head = index + (row[4] if row[4] < _SIGN_BIT else row[4] - 2 * _SIGN_BIT)
        written = caption[row[5] : row[5] + len(text)] if caption else text
        words.append(Word(index, text, _CLASSES.get(pos, pos), tag, RELATIONS.get(relation, "other"), head, written))
        if relation in _UNDER_PREPOSITIONS:
            under_prepositions.append(index)
    for index in under_prepositions:
        noun, preposition = words[index], words[words[index].head]
        if doc[preposition.index].dep_ not in _PREPOSITIONS:
            continue
        noun.head, preposition.head = preposition.head, index
        if doc[preposition.index].dep_ == "agent":
            noun.rel = "agent"
        elif noun.rel == "obl" and words[noun.head].pos == "N":
            noun.rel = "nmod"
    return words


NO_WORD = Word(-1, "", "", "", "other", -1)


def previous_word(words: list[Word], word: Word) -> Word:
    """The token before `word`.

    Args:
        words: of the caption.
        word: an element of `words`.

    Returns:
        The token, or NO_WORD at the start.
    """
    return words[word.index - 1] if word.index > 0 else NO_WORD


def next_word(words: list[Word], word: Word) -> Word:
    """The token after `word`.

    Args:
        words: of the caption.
        word: an element of `words`.

    Returns:
        The token, or NO_WORD at the end.
    """
    return words[word.index + 1] if 0 <= word.index < len(words) - 1 else NO_WORD
