"""What a caption says is not there: it gives no tag, and neither does what describes it."""

from __future__ import annotations

from ram_ray.labels.relations import Word

_NO = frozenset(("no", "without", "neither", "nor"))
_LACKING = frozenset(("lack", "lacks", "lacking", "missing", "minus"))


def negated(words: list[Word]) -> list[bool]:
    """True for a word that the caption says is not there, and for what modifies it."""
    hidden = [False] * len(words)
    for word in words:
        if word.text in _NO and word.rel in ("det", "case", "mark", "neg", "other", "advmod", "cc"):
            hidden[word.head] = True
        elif word.rel == "neg" or word.text in ("not", "n't", "never"):
            denied = words[word.head]
            after = word.index + 1
            while after < len(words) and words[after].pos == "ADV":
                after += 1
            if after < len(words) and words[after].pos in ("V", "A"):
                denied = words[after]  # "a dog not wearing a collar runs", whatever the parse says
            hidden[denied.index] = denied.pos in ("V", "A", "N")
        elif word.rel == "obj" and words[word.head].text in _LACKING:
            hidden[word.index] = hidden[word.head] = True  # "a kitchen missing a sink"
    for _ in range(4):  # a few passes reach every modifier that a caption stacks up
        changed = False
        for word in words:
            head = words[word.head]
            if hidden[word.index] or not hidden[word.head] or head is word:
                continue
            alternative = word.rel == "conj" and any(one.head == word.index and one.text == "or" for one in words)
            of_noun = head.pos == "N" and word.rel in ("amod", "compound", "poss", "flat")
            of_verb = head.pos == "V" and word.rel == "obj"
            if alternative or of_noun or of_verb:
                hidden[word.index] = changed = True
        if not changed:
            break
    return hidden
