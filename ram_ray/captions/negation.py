"""What a caption says is not there: it gives no tag, and neither does what describes it."""

from __future__ import annotations

from ram_ray.captions.relations import Word

_NO = frozenset(("no", "without", "neither", "nor"))
_NOBODY = frozenset(("nobody", "none", "nothing"))
_LACKING = frozenset(("lack", "lacks", "lacking", "missing", "minus"))


def negated(words: list[Word]) -> list[bool]:
    """True for a word that the caption says is not there, and for what modifies it."""
    hidden = [False] * len(words)
    for word in words:
        head = words[word.head]
        if word.text in _NO and word.rel in ("det", "case", "mark", "neg", "other", "advmod", "cc"):
            hidden[word.head] = True
        elif word.rel == "neg" or word.text in ("not", "n't", "never"):
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
