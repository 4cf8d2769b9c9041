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


def read_words(doc: Any) -> list[Word]:
    """Tokens of a spaCy Doc in the common relations.

    CLEAR hangs a noun under its preposition ("on" -> "beach"); here, as in UD, the noun hangs under what the
    preposition belongs to and the preposition under the noun.
    """
    words = []
    for token in doc:
        pos = _CLASSES.get(token.pos_, token.pos_)
        words.append(Word(token.i, token.lower_, pos, token.tag_, RELATIONS.get(token.dep_, "other"), token.head.i))
    for token in doc:
        if token.dep_ in ("pobj", "pcomp") and token.head.dep_ in ("prep", "agent", "dative"):
            noun, preposition = words[token.i], words[token.head.i]
            noun.head, preposition.head = preposition.head, token.i
            if token.head.dep_ == "agent":
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
