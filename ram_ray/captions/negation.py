"""What a caption says is not there: it gives no tag, and neither does what describes it.

    negated        of a parsed caption: what a "no" or "not" belongs to, and what modifies that
    negated_words  of words without a parse: those after a "no" or "not", to the end of its phrase

Both know the same words, but for "neither", "nor", "nobody" and "lacks": what these are about, a parse alone tells.
"""

from __future__ import annotations

from collections.abc import Sequence

from ram_ray.captions.relations import Word

_NO = frozenset(("no", "without"))
_NO_OR_NOR = _NO | {"neither", "nor"}
_NOT = frozenset(("not", "n't", "never"))
_NOBODY = frozenset(("nobody", "none", "nothing"))
_LACKING = frozenset(("lack", "lacks", "lacking", "missing", "minus"))
# Words that end what a "no" or "without" is about.
_ENDS = frozenset(
    ("and", "but", "with", "while", "in", "on", "at", "by", "near", "next", "under", "over", "behind", "beside", "to",
     "from", "of", "for", "is", "are", "that", "who", "which", "as", ".", ",", ";", ":", "!", "?")
)  # fmt: skip
_REACH = 4  # words after a "no" that it may be about


def negated(words: list[Word]) -> list[bool]:
    """True for a word that the caption says is not there, and for what modifies it."""
    hidden = [False] * len(words)
    for word in words:
        head = words[word.head]
        if word.text in _NO_OR_NOR and word.rel in ("det", "case", "mark", "neg", "other", "advmod", "cc"):
            hidden[word.head] = True
        elif word.rel == "neg" or word.text in _NOT:
            denied = _denied(words, word)
            hidden[denied.index] = denied.pos in ("V", "A", "N")
        elif word.rel == "obj" and head.text in _LACKING:
            hidden[word.index] = hidden[word.head] = True  # "a kitchen missing a sink"
        elif word.text in _NOBODY and word.rel == "subj":
            hidden[word.index] = True
    for _ in range(4):  # a few passes reach every modifier that a caption stacks up
        if not any([_spreads(words, word, hidden) for word in words]):
            break
    return hidden


def negated_words(words: Sequence[str]) -> list[bool]:
    """True for a word that the caption says is not there: those after a "no", to the end of its phrase.

    Args:
        words: of a caption, in lower case, with its punctuation marks.
    """
    hidden = [False] * len(words)
    for index, word in enumerate(words):
        if word in _NO or word in _NOT or word.endswith("n't"):
            for after in range(index + 1, min(index + 1 + _REACH, len(words))):
                if words[after] in _ENDS:
                    break
                hidden[after] = True
    return hidden


def _denied(words: list[Word], word: Word) -> Word:
    """What "not" denies: the verb or adjective behind it, whatever the parse says, or its head."""
    after = word.index + 1
    while after < len(words) and words[after].pos == "ADV":
        after += 1
    if after < len(words) and words[after].pos in ("V", "A"):
        return words[after]
    return words[word.head]


def _spreads(words: list[Word], word: Word, hidden: list[bool]) -> bool:
    """Hide what a hidden word takes with it; True if that changed anything."""
    head = words[word.head]
    if hidden[word.index] and word.rel == "subj" and head.pos == "V" and not hidden[head.index]:
        hidden[head.index] = True  # "no people are sitting"
        return True
    if hidden[word.index]:
        return False
    alternative = _after_or(words, word, hidden)
    if hidden[word.head] and head is not word:
        alternative |= word.rel == "conj" and any(one.head == word.index and one.text in ("or", "nor") for one in words)
        alternative |= head.pos == "N" and word.rel in ("amod", "compound", "poss", "flat")
        alternative |= head.pos == "V" and word.rel == "obj"
    hidden[word.index] = alternative
    return alternative


def _after_or(words: list[Word], word: Word, hidden: list[bool]) -> bool:
    """True for "shoes" in "without a shirt or shoes", also where the parse hangs them elsewhere."""
    place = word.index - 1
    while place > 0 and words[place].pos in ("DET", "A", "NUM"):
        place -= 1
    return word.pos == "N" and place > 0 and words[place].text in ("or", "nor") and hidden[place - 1]
