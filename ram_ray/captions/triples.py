"""Relations of a caption: actions with their subjects and objects, attributes with the nouns they describe.

An action's subject is its own ("a man rides"), the noun it modifies ("a man riding"), or the subject of the verb it is
joined to ("stands and waves", "tries to catch"). In a passive, the grammatical subject is the object of the action. An
object with a preposition keeps it: (woman, sit, bench, "on"). A noun that gives no tag ("a group", "the front of") is
replaced by the noun after its "of", so "in front of a wall" ends at the wall.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ram_ray.captions.relations import Word
from ram_ray.captions.words import BEINGS

_MAX_RELATIONS = 60  # relations of a caption; bounds the work on hostile text
_MAX_DEPTH = 12
_OBJECT_CONTROL_VERBS = frozenset(
    ("watch", "see", "help", "let", "make", "keep", "photograph", "teach", "observe", "film")
)
_INANIMATE_AGENT_VERBS = frozenset(
    ("surround", "cover", "light", "fill", "pull", "block", "power", "flank", "follow", "tow")
)


class Triple(NamedTuple):
    """An action with its subject and object by their tag names; "" where the caption names none."""

    subject: str
    action: str
    object: str
    preposition: str = ""


def find_triples(words: list[Word], things: dict[int, str], actions: dict[int, str]) -> list[Triple]:
    """Find the relations of a caption's actions.

    Args:
        words: of the caption.
        things: names of objects and scenes by the index of their head.
        actions: lemmas of verbs by index.

    Returns:
        Relations in the order of the text, each once.
    """
    finder = _Finder(words, _children(words), things, actions)
    triples = [triple for index in actions for triple in finder.triples(index)]
    return list(dict.fromkeys(triples))[:_MAX_RELATIONS]


def find_described(words: list[Word], things: dict[int, str], attributes: dict[int, str]) -> list[tuple[str, str]]:
    """Find the nouns that attributes describe.

    Args:
        words: of the caption.
        things: names of objects and scenes by the index of their head.
        attributes: names of attributes by index.

    Returns:
        Pairs of attribute and noun by tag names; the noun is "" where the caption names none.
    """
    finder = _Finder(words, _children(words), things, {})
    pairs = ((name, thing) for index, name in attributes.items() for thing in finder.described(index))
    return list(dict.fromkeys(pairs))[:_MAX_RELATIONS]


def _children(words: list[Word]) -> dict[int, list[Word]]:
    children: dict[int, list[Word]] = {}
    for word in words:
        if word.head != word.index:
            children.setdefault(word.head, []).append(word)
    return children


class _Finder:
    """The dependency tree of a caption with the names of its tags."""

    def __init__(
        self, words: list[Word], children: dict[int, list[Word]], things: dict[int, str], actions: dict[int, str]
    ) -> None:
        self._words, self._children, self._things, self._actions = words, children, things, actions

    def triples(self, index: int) -> Iterator[Triple]:
        """Relations of the action at `index`."""
        action, passive = self._actions[index], self._is_passive(index)
        subjects = list(self._subjects(index, 0)) or [""]
        objects = [(name, "") for child in self._related(index, "obj") for name in self._names(child.index, 0)]
        for child in self._related(index, "obl", "nmod", "agent"):
            preposition = self._preposition(child)
            if passive and preposition == "by" and self._is_agent(child, action):
                # The grammatical subject is the object of the action.
                objects = [(name, "") for name in subjects if name] + objects
                subjects = list(self._names(child.index, 0)) or [""]
                passive = False
            elif child.rel != "nmod" or child.index > index:
                objects += [(name, preposition) for name in self._names(child.index, 0)]
        for subject in subjects[:8]:
            for name, preposition in objects[:8] or [("", "")]:
                yield Triple(subject, action, name, preposition)

    def described(self, index: int) -> list[str]:
        """Names of the nouns of the attribute at `index`: "a red car", "the car is red", "red and shiny"."""
        for _ in range(_MAX_DEPTH):
            subjects = [name for child in self._related(index, "subj") for name in self._names(child.index, 0)]
            word = self._words[index]
            if subjects or word.head == index:
                return subjects or [""]
            if word.rel == "pred":  # in CLEAR "is" is the head of subject and predicate
                return [name for child in self._related(word.head, "subj") for name in self._names(child.index, 0)] or [
                    ""
                ]
            if word.head in self._things:
                return [self._things[word.head]]
            index = word.head
        return [""]

    def _related(self, index: int, *relations: str) -> list[Word]:
        return [child for child in self._children.get(index, ()) if child.rel in relations]

    def _is_passive(self, index: int) -> bool:
        helpers = {child.text for child in self._related(index, "aux")}
        perfect = bool(helpers & {"has", "have", "had", "having"}) and "been" not in helpers
        return self._words[index].tag == "VBN" and not perfect

    def _is_agent(self, word: Word, action: str) -> bool:
        """True if a noun after "by" is the agent: "held by a man", not "parked by a curb"."""
        return self._things.get(word.index, "").rpartition(" ")[2] in BEINGS or action in _INANIMATE_AGENT_VERBS

    def _subjects(self, index: int, depth: int) -> Iterator[str]:
        """Names of the grammatical subjects of the verb at `index`."""
        word = self._words[index]
        if depth > _MAX_DEPTH:
            return
        subjects = self._related(index, "subj")
        if subjects:
            for child in subjects:
                names = list(self._names(child.index, 0))
                # "a dog that runs": the pronoun refers to the noun that the clause describes.
                yield from names or (self._names(word.head, 0) if word.rel == "acl" else ())
        elif word.rel == "acl":
            yield from self._names(word.head, 0)
        elif word.rel in ("comp", "advcl", "conj") and word.head != index:
            head = self._words[word.head]
            seen = (
                self._related(word.head, "obj")
                if word.rel == "comp" and self._actions.get(word.head) in _OBJECT_CONTROL_VERBS
                else []
            )
            if seen:
                yield from self._names(seen[0].index, 0)
            elif head.pos == "N" and word.rel == "conj":
                yield from self._names(word.head, 0)
            else:
                yield from self._subjects(word.head, depth + 1)
        elif word.rel == "root":  # a verb that the parser took for a noun: its subject is its compound modifier
            yield from (name for child in self._related(index, "compound") for name in self._names(child.index, 0))

    def _names(self, index: int, depth: int) -> Iterator[str]:
        """Names of a noun and of its conjuncts; for a noun that gives no tag, names of the nouns after its "of"."""
        if depth > _MAX_DEPTH or self._words[index].pos not in ("N", "A", "NUM", "DET", "PRON"):
            return
        if index in self._things:
            yield self._things[index]
        else:
            for child in self._related(index, "nmod"):
                if self._case(child).endswith("of"):
                    yield from self._names(child.index, depth + 1)
        for child in self._related(index, "conj"):
            yield from self._names(child.index, depth + 1)

    def _case(self, word: Word) -> str:
        return " ".join(child.text for child in self._related(word.index, "case", "fixed") if child.index < word.index)

    def _preposition(self, word: Word) -> str:
        """The preposition before a noun: "on", "next to", and "in front of" where the noun gives no tag."""
        case = self._case(word)
        if word.index in self._things or not any(
            self._case(child) == "of" for child in self._related(word.index, "nmod")
        ):
            return case
        return f"{case} {word.text} of".strip()
