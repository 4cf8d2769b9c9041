"""Dependency trees of generated captions, and word forms.

A node is a word with its class, its children on the left and on the right, and its relation to its head. Children are
in the order of the text, so every tree is projective, and an in-order walk gives the text. Word forms (plurals, -s,
-ing, participles) are derived from the dictionary forms in `words.txt`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from importlib import resources

_VOWELS = "aeiou"
# Exceptions: two syllables with a doubled last letter, and one syllable without.
_DOUBLES = frozenset(("begin", "outfit", "repel", "propel"))
_SINGLES = frozenset(("fix", "mix", "box", "tow", "row", "mow", "plow", "sew", "draw", "show", "throw", "chew", "blow",
                      "play", "stay", "pray", "spray", "buy", "lay", "relax", "bow"))  # fmt: skip


@dataclass(slots=True)
class Node:
    """A word of a tree; `rel` is its UD relation to its head."""

    text: str
    pos: str  # universal part of speech
    tag: str  # Penn tag
    morph: str = ""
    rel: str = "ROOT"
    left: list[Node] = field(default_factory=list)
    right: list[Node] = field(default_factory=list)

    def add_left(self, rel: str, *nodes: Node) -> Node:
        """Add children on the left, after the present ones.

        Args:
            rel: relation of the children.
            nodes: the children, in the order of the text.

        Returns:
            This node.
        """
        for node in nodes:
            node.rel = rel
            self.left.append(node)
        return self

    def add_right(self, rel: str, *nodes: Node) -> Node:
        """Add children on the right, after the present ones.

        Args:
            rel: relation of the children.
            nodes: the children, in the order of the text.

        Returns:
            This node.
        """
        for node in nodes:
            node.rel = rel
            self.right.append(node)
        return self

    def add_first(self, rel: str, node: Node) -> Node:
        """Add a child on the left, before the present ones: a preposition, an article.

        Args:
            rel: relation of the child.
            node: the child.

        Returns:
            This node.
        """
        node.rel = rel
        self.left.insert(0, node)
        return self


def flatten(root: Node) -> dict[str, list]:
    """Convert a tree to columns, as spaCy's Doc takes them.

    Args:
        root: of the tree.

    Returns:
        Lists of equal length: words, spaces, tags, pos, morphs, heads (a root is its own head) and deps.
    """
    order: list[tuple[Node, Node]] = []

    def walk(node: Node, head: Node) -> None:
        for child in node.left:
            walk(child, node)
        order.append((node, head))
        for child in node.right:
            walk(child, node)

    walk(root, root)
    index_of = {id(node): index for index, (node, _) in enumerate(order)}
    nodes = [node for node, _ in order]
    spaces = [True] * len(nodes)
    for index, node in enumerate(nodes[1:]):
        spaces[index] = node.text not in (",", ".", "'s", "n't")
    return {
        "words": [node.text for node in nodes],
        "spaces": spaces,
        "tags": [node.tag for node in nodes],
        "pos": [node.pos for node in nodes],
        "morphs": [node.morph for node in nodes],
        "heads": [index_of[id(head)] for _, head in order],
        "deps": [node.rel for node in nodes],
    }


class Lexicon:
    """The sections of `words.txt`; words that come first in a section are drawn more often."""

    def __init__(self) -> None:
        self.sections: dict[str, list[str]] = {}
        text = (resources.files("ram_ray.captions.training") / "words.txt").read_text(encoding="utf-8")
        for line in text.splitlines():
            if line.startswith("["):
                words = self.sections.setdefault(line[1:-1], [])
            elif line and not line.startswith("#"):
                words += [word.replace("_", " ") for word in line.split()]

    def pick(self, rng: random.Random, *sections: str) -> str:
        """Draw a word; half of the draws are from the first fifth of a section.

        Args:
            rng: source of randomness.
            sections: drawn from uniformly.

        Returns:
            An entry of `words.txt`.
        """
        words = self.sections[rng.choice(sections)]
        return words[int(len(words) * rng.random() ** 2.3)]


def plural(entry: str) -> str:
    """The plural of a noun.

    Args:
        entry: a dictionary form, with an irregular plural after a colon.

    Returns:
        The plural.
    """
    word, _, irregular = entry.partition(":")
    if irregular:
        return irregular
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2] not in _VOWELS:
        return word[:-1] + "ies"
    return word + "s"


def verb_form(entry: str, form: str) -> str:
    """Inflect a verb.

    Args:
        entry: a dictionary form, with irregular past forms after colons: "jump", "throw:threw:thrown".
        form: "VB", "VBZ", "VBG", "VBD" or "VBN".

    Returns:
        The form.
    """
    word, *irregular = entry.split(":")
    if form == "VB":
        return word
    if form == "VBZ":
        return plural(word)
    if form in ("VBD", "VBN") and irregular:
        return irregular[-1] if form == "VBN" else irregular[0]
    ending = "ing" if form == "VBG" else "ed"
    if form == "VBG" and word in ("lie", "tie", "die"):
        return word[:-2] + "ying"
    if form == "VBG" and word in ("be", "see", "ski"):
        return word + "ing"
    if word.endswith("e"):
        return word[:-1] + ending if not word.endswith("ee") else (word + "ing" if form == "VBG" else word + "d")
    if form != "VBG" and word.endswith("y") and word[-2] not in _VOWELS:
        return word[:-1] + "ied"
    return word + (word[-1] if _doubles(word) else "") + ending


def _doubles(word: str) -> bool:
    if word in _DOUBLES:
        return True
    vowels = sum(letter in _VOWELS for letter in word)
    closed = len(word) > 2 and word[-1] not in _VOWELS + "wxy" and word[-2] in _VOWELS and word[-3] not in _VOWELS
    return closed and vowels == 1 and word not in _SINGLES
