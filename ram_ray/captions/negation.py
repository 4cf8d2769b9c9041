"""Negated words of a caption: they give no tags, and neither do their modifiers.

    find_negated   with a parse: the head of a "no" or "not", and its modifiers
    negated_words  without a parse: the words after a "no" or "not", to the end of its phrase

Both use the same words, except "neither", "nor", "nobody" and "lacks", whose scope needs a parse.
"""

from __future__ import annotations

from collections.abc import Sequence

from ram_ray.captions.relations import Word

_NO = frozenset(("no", "without"))
_NEGATIVE_DETERMINERS = _NO | {"neither", "nor"}
_NOT = frozenset(("not", "n't", "never"))
_NOBODY = frozenset(("nobody", "none", "nothing"))
_LACKING = frozenset(("lack", "lacks", "lacking", "missing", "minus"))
# Words that end the scope of a "no" or "without".
_ENDS = frozenset(
    ("and", "but", "with", "while", "in", "on", "at", "by", "near", "next", "under", "over", "behind", "beside", "to",
     "from", "of", "for", "is", "are", "that", "who", "which", "as", ".", ",", ";", ":", "!", "?")
)  # fmt: skip
_MAX_WORDS = 4  # length of the scope of a "no"


def find_negated(words: list[Word]) -> list[bool]:
    """Find the negated words of a parsed caption.

    Args:
        words: of the caption.

    Returns:
        True for each negated word and each of its modifiers, in the order of `words`.
    """
    negated = [False] * len(words)
    for word in words:
        head = words[word.head]
        if word.text in _NEGATIVE_DETERMINERS and word.rel in ("det", "case", "mark", "neg", "other", "advmod", "cc"):
            negated[word.head] = True
        elif word.rel == "neg" or word.text in _NOT:
            denied = _denied(words, word)
            negated[denied.index] = denied.pos in ("V", "A", "N")
        elif word.rel == "obj" and head.text in _LACKING:
            negated[word.index] = negated[word.head] = True  # "a kitchen missing a sink"
        elif word.text in _NOBODY and word.rel == "subj":
            negated[word.index] = True
    for _ in range(4):  # a few passes reach the nested modifiers of captions
        if not any([_spread(words, word, negated) for word in words]):
            break
    return negated


def negated_words(words: Sequence[str]) -> list[bool]:
    """Find the negated words of a caption that is not parsed.

    Args:
        words: of a caption, in lower case, with its punctuation marks.

    Returns:
        True for each word after a "no" or "not", to the end of its phrase.
    """
    negated = [False] * len(words)
    for index, word in enumerate(words):
        if word in _NO or word in _NOT or word.endswith("n't"):
            for position in range(index + 1, min(index + 1 + _MAX_WORDS, len(words))):
                if words[position] in _ENDS:
                    break
                negated[position] = True
    return negated


def _denied(words: list[Word], word: Word) -> Word:
    """What "not" negates: the verb or adjective after it, whatever its head is, else its head."""
    position = word.index + 1
    while position < len(words) and words[position].pos == "ADV":
        position += 1
    if position < len(words) and words[position].pos in ("V", "A"):
        return words[position]
    return words[word.head]


def _spread(words: list[Word], word: Word, negated: list[bool]) -> bool:
    """Negate `word` if it modifies a negated word, or the verb of a negated subject; True if anything changed."""
    head = words[word.head]
    if negated[word.index] and word.rel == "subj" and head.pos == "V" and not negated[head.index]:
        negated[head.index] = True  # "no people are sitting"
        return True
    if negated[word.index]:
        return False
    alternative = _is_alternative(words, word, negated)
    if negated[word.head] and head is not word:
        alternative |= word.rel == "conj" and any(
            child.head == word.index and child.text in ("or", "nor") for child in words
        )
        alternative |= head.pos == "N" and word.rel in ("amod", "compound", "poss", "flat")
        alternative |= head.pos == "V" and word.rel == "obj"
    negated[word.index] = alternative
    return alternative


def _is_alternative(words: list[Word], word: Word, negated: list[bool]) -> bool:
    """True for "shoes" in "without a shirt or shoes", also where the parse has another head for it."""
    position = word.index - 1
    while position > 0 and words[position].pos in ("DET", "A", "NUM"):
        position -= 1
    return word.pos == "N" and position > 0 and words[position].text in ("or", "nor") and negated[position - 1]
