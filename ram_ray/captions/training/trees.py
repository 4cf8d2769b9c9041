"""Trees of words for made captions: what `grammar` builds its sentences from.

A node is a word with its class, what stands left and right of it, and its relation to what it hangs under. Since
children are kept in the order of the text, every tree is projective and its text is read off by walking it. Word
forms (plurals, -s, -ing, participles) are made here from the dictionary forms in `words.txt`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from importlib import resources

_VOWELS = "aeiou"
# Two syllables, and the last letter is doubled all the same, or one syllable and it is not.
_DOUBLES = frozenset(("begin", "outfit", "repel", "propel"))
_SINGLES = frozenset(("fix", "mix", "box", "tow", "row", "mow", "plow", "sew", "draw", "show", "throw", "chew", "blow",
                      "play", "stay", "pray", "spray", "buy", "lay", "relax", "bow"))  # fmt: skip


@dataclass(slots=True)
class Node:
    """A word of a tree; `rel` is its UD relation to the node under which it hangs."""

    text: str
    pos: str  # universal part of speech
    tag: str  # Penn tag
    morph: str = ""
    rel: str = "ROOT"
    left: list[Node] = field(default_factory=list)
    right: list[Node] = field(default_factory=list)

    def before(self, rel: str, *nodes: Node) -> Node:
        """Hang nodes on the left, after those that are there; returns this node."""
        for node in nodes:
            node.rel = rel
            self.left.append(node)
        return self

    def after(self, rel: str, *nodes: Node) -> Node:
        """Hang nodes on the right, after those that are there; returns this node."""
        for node in nodes:
            node.rel = rel
            self.right.append(node)
        return self

    def first(self, rel: str, node: Node) -> Node:
        """Hang a node on the left, before everything else there (a preposition, an article); returns this node."""
        node.rel = rel
        self.left.insert(0, node)
        return self


def flatten(root: Node) -> dict[str, list]:
    """The tree as columns: words, spaces, tags, pos, morphs, heads (a root is its own head) and deps."""
    order: list[tuple[Node, Node]] = []

    def walk(node: Node, head: Node) -> None:
        for child in node.left:
            walk(child, node)
        order.append((node, head))
        for child in node.right:
            walk(child, node)

    walk(root, root)
    place = {id(node): index for index, (node, _) in enumerate(order)}
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
        "heads": [place[id(head)] for _, head in order],
        "deps": [node.rel for node in nodes],
    }


class Lexicon:
    """The sections of `words.txt`; `pick` draws a word, earlier ones more often."""

    def __init__(self) -> None:
        self.sections: dict[str, list[str]] = {}
        text = (resources.files("ram_ray.captions.training") / "words.txt").read_text(encoding="utf-8")
        for line in text.splitlines():
            if line.startswith("["):
                words = self.sections.setdefault(line[1:-1], [])
            elif line and not line.startswith("#"):
                words += [word.replace("_", " ") for word in line.split()]

    def pick(self, rng: random.Random, *sections: str) -> str:
        """A word of one of the sections; half of the draws go to the first fifth of them."""
        words = self.sections[rng.choice(sections)]
        return words[int(len(words) * rng.random() ** 2.3)]


def plural(entry: str) -> str:
    """Plural of a dictionary form, or the one written behind the colon."""
    word, _, irregular = entry.partition(":")
    if irregular:
        return irregular
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2] not in _VOWELS:
        return word[:-1] + "ies"
    return word + "s"


def verb_form(entry: str, form: str) -> str:
    """A verb's form: "VB", "VBZ", "VBG", "VBD" or "VBN"; entries are "jump" or "throw:threw:thrown"."""
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
