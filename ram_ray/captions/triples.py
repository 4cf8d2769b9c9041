"""Who does what to what: the relations of a caption's actions.

An action's subject may be its own ("a man rides"), the noun it describes ("a man riding"), or that of the verb it is
joined to ("stands and waves", "tries to catch"). In a passive the grammar's subject is what the action is done to.
What an action needs a preposition for keeps it: (woman, sit, bench, "on"). Nouns that name nothing ("a group", "the
front of") are looked through to what they belong to, so "in front of a wall" ends at the wall.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ram_ray.captions.relations import Word
from ram_ray.captions.words import BEINGS

_MAX = 60  # relations of one caption; hostile text must not make more
_MAX_DEPTH = 12
_SEEING = frozenset(("watch", "see", "help", "let", "make", "keep", "photograph", "teach", "observe", "film"))
_BY_THINGS = frozenset(("surround", "cover", "light", "fill", "pull", "block", "power", "flank", "follow", "tow"))


class Triple(NamedTuple):
    """An action with its subject and object by their tag names; "" where the caption names none."""

    subject: str
    action: str
    object: str
    preposition: str = ""


def find_triples(words: list[Word], things: dict[int, str], actions: dict[int, str]) -> list[Triple]:
    """Relations in the order of the text, each once.

    `things` are names of objects and scenes by the place of their head, `actions` verbs' lemmas by place.

    Args:
        words: of the caption.
        things: names of objects and scenes by the place of their head.
        actions: verbs' lemmas by place.
    """
    finder = _Finder(words, _children(words), things, actions)
    found = [triple for place in actions for triple in finder.triples(place)]
    return list(dict.fromkeys(found))[:_MAX]


def find_described(words: list[Word], things: dict[int, str], attributes: dict[int, str]) -> list[tuple[str, str]]:
    """Attributes with what they describe, by tag names; "" where the caption does not say what.

    Args:
        words: of the caption.
        things: names of objects and scenes by the place of their head.
        attributes: names of attributes by place.
    """
    finder = _Finder(words, _children(words), things, {})
    found = ((name, thing) for place, name in attributes.items() for thing in finder.described(place))
    return list(dict.fromkeys(found))[:_MAX]


def _children(words: list[Word]) -> dict[int, list[Word]]:
    children: dict[int, list[Word]] = {}
    for word in words:
        if word.head != word.index:
            children.setdefault(word.head, []).append(word)
    return children


class _Finder:
    """The tree of one caption with its names."""

    def __init__(
        self, words: list[Word], children: dict[int, list[Word]], things: dict[int, str], actions: dict[int, str]
    ) -> None:
        self._words, self._children, self._things, self._actions = words, children, things, actions

    def triples(self, place: int) -> Iterator[Triple]:
        """Relations of the action at `place`."""
        action, passive = self._actions[place], self._passive(place)
        subjects = list(self._subjects(place, 0)) or [""]
        objects = [(name, "") for child in self._of(place, "obj") for name in self._names(child.index, 0)]
        for child in self._of(place, "obl", "nmod", "agent"):
            preposition = self._preposition(child)
            if passive and preposition == "by" and self._acts(child, action):
                # What the grammar calls the subject is what it is done to.
                objects = [(name, "") for name in subjects if name] + objects
                subjects = list(self._names(child.index, 0)) or [""]
                passive = False
            elif child.rel != "nmod" or child.index > place:
                objects += [(name, preposition) for name in self._names(child.index, 0)]
        for subject in subjects[:8]:
            for name, preposition in objects[:8] or [("", "")]:
                yield Triple(subject, action, name, preposition)

    def described(self, place: int) -> list[str]:
        """Names of what the attribute at `place` describes: "a red car", "the car is red", "red and shiny"."""
        for _ in range(_MAX_DEPTH):
            own = [name for child in self._of(place, "subj") for name in self._names(child.index, 0)]
            word = self._words[place]
            if own or word.head == place:
                return own or [""]
            if word.rel == "pred":  # CLEAR hangs subject and predicate under "is"
                return [name for child in self._of(word.head, "subj") for name in self._names(child.index, 0)] or [""]
            if word.head in self._things:
                return [self._things[word.head]]
            place = word.head
        return [""]

    def _of(self, place: int, *relations: str) -> list[Word]:
        return [child for child in self._children.get(place, ()) if child.rel in relations]

    def _passive(self, place: int) -> bool:
        helpers = {child.text for child in self._of(place, "aux")}
        perfect = bool(helpers & {"has", "have", "had", "having"}) and "been" not in helpers
        return self._words[place].tag == "VBN" and not perfect

    def _acts(self, word: Word, action: str) -> bool:
        """True if a noun after "by" does it: "held by a man", not "parked by a curb"."""
        return self._things.get(word.index, "").rpartition(" ")[2] in BEINGS or action in _BY_THINGS

    def _subjects(self, place: int, depth: int) -> Iterator[str]:
        """Names of who does it (or, in a passive, to whom it is done)."""
        word = self._words[place]
        if depth > _MAX_DEPTH:
            return
        own = self._of(place, "subj")
        if own:
            for child in own:
                named = list(self._names(child.index, 0))
                # "a dog that runs": the pronoun stands for the noun that the clause describes.
                yield from named or (self._names(word.head, 0) if word.rel == "acl" else ())
        elif word.rel == "acl":
            yield from self._names(word.head, 0)
        elif word.rel in ("comp", "advcl", "conj") and word.head != place:
            head = self._words[word.head]
            seen = self._of(word.head, "obj") if word.rel == "comp" and self._actions.get(word.head) in _SEEING else []
            if seen:
                yield from self._names(seen[0].index, 0)
            elif head.pos == "N" and word.rel == "conj":
                yield from self._names(word.head, 0)
            else:
                yield from self._subjects(word.head, depth + 1)
        elif word.rel == "root":  # a verb that the parser took for a noun: its subject stands before it
            yield from (name for one in self._of(place, "compound") for name in self._names(one.index, 0))

    def _names(self, place: int, depth: int) -> Iterator[str]:
        """Names of a noun and of those joined to it; through nouns that name nothing to what they are of."""
        if depth > _MAX_DEPTH or self._words[place].pos not in ("N", "A", "NUM", "DET", "PRON"):
            return
        if place in self._things:
            yield self._things[place]
        else:
            for child in self._of(place, "nmod"):
                if self._case(child).endswith("of"):
                    yield from self._names(child.index, depth + 1)
        for child in self._of(place, "conj"):
            yield from self._names(child.index, depth + 1)

    def _case(self, word: Word) -> str:
        return " ".join(child.text for child in self._of(word.index, "case", "fixed") if child.index < word.index)

    def _preposition(self, word: Word) -> str:
        """The preposition before a noun: "on", "next to", and "in front of" where the noun names nothing."""
        case = self._case(word)
        if word.index in self._things or not any(self._case(child) == "of" for child in self._of(word.index, "nmod")):
            return case
        return f"{case} {word.text} of".strip()
