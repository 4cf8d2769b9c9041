"""One set of relations above Universal Dependencies and CLEAR labels.

The shipped pipeline speaks UD, spaCy's own English pipelines speak CLEAR. Both become `Word`s here, and nothing
after this module knows which it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Labels of either scheme to the relations that the rules know; whatever is missing here means "other".
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
_ATTRIBUTES = ["LOWER", "POS", "TAG", "DEP", "HEAD"]
_SIGN = 1 << 63  # spaCy's array is unsigned; a head on the left is a negative offset
_UNDER_PREPOSITIONS = frozenset(("pobj", "pcomp"))  # CLEAR labels
_PREPOSITIONS = frozenset(("prep", "agent", "dative"))
_CLASSES = {"NOUN": "N", "PROPN": "N", "VERB": "V", "ADJ": "A", "AUX": "AUX"}


@dataclass(slots=True)
class Word:
    """One token: lower-case text, class (N, V, A, or the universal part of speech), relation and head."""

    index: int
    text: str
    pos: str
    tag: str  # Penn tag
    rel: str  # a value of RELATIONS, or "other"
    head: int  # index of the head; its own for a root


_names: dict[int, str] = {}  # strings by spaCy's hashes, which are the same everywhere; decoding them anew is slow


def _name(key: int, strings: Any) -> str:
    if len(_names) > 100_000:  # hostile text must not grow memory without end
        _names.clear()
    return _names.setdefault(key, strings[key])


def read_words(doc: Any) -> list[Word]:
    """Tokens of a spaCy Doc in the common relations.

    CLEAR hangs a noun under its preposition ("on" -> "beach"); here, as in UD, the noun hangs under what the
    preposition belongs to and the preposition under the noun.
    """
    strings, known = doc.vocab.strings, _names.get
    words, clear = [], []
    # One array for all tokens: asking each token for each attribute costs more than all the rules together.
    rows = doc.to_array(_ATTRIBUTES).tolist() if len(doc) else []
    for index, row in enumerate(rows):
        text, pos, tag, relation = [known(key) or _name(key, strings) for key in row[:4]]
        head = index + (row[4] if row[4] < _SIGN else row[4] - 2 * _SIGN)
        words.append(Word(index, text, _CLASSES.get(pos, pos), tag, RELATIONS.get(relation, "other"), head))
        if relation in _UNDER_PREPOSITIONS:
            clear.append(index)
    for index in clear:
        noun, preposition = words[index], words[words[index].head]
        if doc[preposition.index].dep_ not in _PREPOSITIONS:
            continue
        noun.head, preposition.head = preposition.head, index
        if doc[preposition.index].dep_ == "agent":
            noun.rel = "agent"
        elif noun.rel == "obl" and words[noun.head].pos == "N":
            noun.rel = "nmod"
    return words


NOTHING = Word(-1, "", "", "", "other", -1)


def word_before(words: list[Word], word: Word) -> Word:
    """The token on the left, or NOTHING."""
    return words[word.index - 1] if word.index > 0 else NOTHING


def word_after(words: list[Word], word: Word) -> Word:
    """The token on the right, or NOTHING."""
    return words[word.index + 1] if 0 <= word.index < len(words) - 1 else NOTHING
