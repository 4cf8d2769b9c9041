"""Noun phrases and places of made captions, with their trees: the lower half of `grammar`.

Adjectives, participles, compounds and measures are drawn independently of each other, so that a tagger cannot learn
that one stands for another; what a phrase means does not matter, only what its words are.
"""

from __future__ import annotations

import random

from ram_ray.captions.training.trees import Lexicon, Node, plural

SINGULAR, PLURAL = "Number=Sing", "Number=Plur"
_PREPOSITIONS = (
    "in", "on", "at", "near", "by", "through", "over", "along", "across", "under", "behind", "beside", "past", "around",
    "into", "against", "above", "outside", "inside", "from", "towards", "down", "up", "onto", "off", "between",
    "beneath", "underneath", "among", "toward", "within", "amongst",
)  # fmt: skip
PERSONS = ("person", "person", "person", "person", "people.group", "animal", "compound.person")
THINGS = ("thing", "thing", "vehicle", "food", "compound.thing", "compound.vehicle", "structure", "more.noun", "seat")
PLACES = ("place", "place", "structure", "compound.place", "seat", "vehicle", "more.compound")


def word(text: str, pos: str, tag: str, morph: str = "") -> Node:
    """A word that nothing hangs under yet."""
    return Node(text, pos, tag, morph)


def adp(text: str) -> Node:
    """A preposition."""
    return word(text, "ADP", "IN")


def comma() -> Node:
    """A comma."""
    return word(",", "PUNCT", ",")


def conjunction(text: str = "and") -> Node:
    """A conjunction that joins equals."""
    return word(text, "CCONJ", "CC")


_MANY = ("two", "two", "two", "two", "three", "three", "four", "five", "six", "2", "3", "some", "some", "the", "the",
         "several", "many", "all")  # fmt: skip
_ONE = ("a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "the", "the", "the", "the", "one", "another", "his",
        "her", "its", "their", "this")  # fmt: skip
_ENDINGS = ("covered", "filled", "lined", "shaped", "colored", "topped", "themed", "sized")


class Phrases:
    """Draws noun phrases and places; the same seed gives the same ones."""

    def __init__(self, *, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.lexicon = Lexicon()
        self.bare = False  # this caption has no articles: "man riding bike on beach"

    def _chance(self, share: float) -> bool:
        return self.rng.random() < share

    def _pick(self, *sections: str) -> str:
        return self.lexicon.pick(self.rng, *sections)

    # Noun phrases

    def noun(self, sections: tuple[str, ...], *, many: bool) -> Node:
        """A noun, with the nouns that make a compound of it."""
        section = self.rng.choice(sections)
        if section == "people.group":
            section, many = "person", True
        entry = self._pick(section)
        if section == "pairs":
            many = True
        head_entry = entry.rpartition(" ")[2]
        text = head_entry.split(":")[0]
        if many and section not in ("pairs", "mass", "game"):
            text = plural(head_entry)
        if section in ("mass", "game"):
            many = text.endswith("s") and not text.endswith(("ss", "tennis"))
        node = word(text, "NOUN", "NNS" if many else "NN", PLURAL if many else SINGULAR)
        for part in entry.split(" ")[:-1]:
            node.before("compound", word(part, "NOUN", "NN", SINGULAR))
        if " " not in entry and section in ("clothing", "structure", "thing", "place") and self._chance(0.12):
            node.before("compound", word(self._pick("material"), "NOUN", "NN", SINGULAR))
        return node

    def phrase(self, *sections: str, many: bool | None = None, plain: bool = False) -> Node:
        """A noun phrase: determiner, adjectives, noun; now and then "of" after a measure."""
        many = self._chance(0.35) if many is None else many
        people = bool({"person", "animal", "people.group"} & set(sections))
        node = self.noun(sections, many=many)
        many = node.tag == "NNS"
        if not plain and self._chance(0.4):
            self._adjectives(node, people=people)
        mass = set(sections) <= {"mass", "game", "food"} and self._chance(0.6)
        if not plain and self._chance(0.06):
            return self._measured(node if many or mass else self.noun(sections, many=True))
        if not plain and self._chance(0.025):
            return self._owned(node)
        self._determiner(node, many=many, none=mass or (self.bare and self._chance(0.8)))
        return node

    def _owned(self, node: Node) -> Node:
        """Put "a man's" before a phrase."""
        owner = self.noun(("person", "animal"), many=False)
        self._determiner(owner, many=False, none=self.bare)
        return node.first("nmod:poss", owner.after("case", word("'s", "PART", "POS")))

    def _determiner(self, node: Node, *, many: bool, none: bool) -> None:
        if none or (many and self._chance(0.35)):
            return
        text = self.rng.choice(_MANY if many else _ONE)
        if text in ("his", "her", "its", "their"):
            node.first("nmod:poss", word(text, "PRON", "PRP$"))
        elif text in ("several", "many"):
            node.first("amod", word(text, "ADJ", "JJ", "Degree=Pos"))
        elif text in ("some", "the", "a", "an", "another", "this", "all"):
            vowel = (node.left[0] if node.left else node).text[0] in "aeiou"
            node.first("det", word(("an" if vowel else "a") if text in ("a", "an") else text, "DET", "DT"))
        else:
            node.first("nummod", word(text, "NUM", "CD"))

    def _adjectives(self, node: Node, *, people: bool) -> None:
        """One to three adjectives or participles before what is there of the phrase."""
        found: list[Node] = []
        if self._chance(0.35):
            found.append(self._adjective("age" if people and self._chance(0.8) else "size"))
        if self._chance(0.35 if people else 0.4):
            found.append(self._adjective("people.adjective") if people else self._kind_of_adjective())
        if not found and people and self._chance(0.8):
            found.append(self._adjective(self.rng.choice(("age", "people.adjective"))))
        elif not found or self._chance(0.05 if people else 0.3):
            color = self._adjective("color")
            if self._chance(0.15):
                color.after("conj", self._adjective("color").before("cc", conjunction()))
            elif self._chance(0.08):
                shade = self.rng.choice(("light", "dark", "bright"))
                color.before("amod", word(shade, "ADJ", "JJ", "Degree=Pos"))
            found.append(color)
        if len(found) > 1 and self._chance(0.2):
            found[0].after("punct", comma())
        node.left = [*found, *node.left]
        for one in found:
            one.rel = "amod"

    def _adjective(self, section: str) -> Node:
        text = self._pick(section)
        if section == "age" and text in ("older", "younger", "elder"):
            return word(text, "ADJ", "JJR", "Degree=Cmp")
        return word(text, "ADJ", "JJ", "Degree=Pos")

    def _kind_of_adjective(self) -> Node:
        """An adjective, a participle, or "snow covered" before a thing."""
        kind = self.rng.random()
        if kind < 0.62:
            return self._adjective(self.rng.choice(("adjective", "adjective", "more.adjective")))
        if kind < 0.78:
            node = word(self._pick("vbn.adjective"), "VERB", "VBN", "VerbForm=Part")
            if self._chance(0.15):
                node.before("advmod", word(self._pick("degree"), "ADV", "RB", "Degree=Pos"))
            return node
        if kind < 0.9:
            return word(self._pick("vbg.adjective"), "VERB", "VBG", "VerbForm=Part")
        ending = self.rng.choice(_ENDINGS)
        noun = self._pick("mass", "thing", "place").split(":")[0].rpartition(" ")[2]
        if self._chance(0.5):
            return word(f"{noun}-{ending}", "ADJ", "JJ", "Degree=Pos")
        return word(ending, "VERB", "VBN", "VerbForm=Part").before("obl", word(noun, "NOUN", "NN", SINGULAR))

    def _measured(self, node: Node) -> Node:
        """Put "a group of" and the like before a phrase."""
        measure = word(self._pick("measure").split(":")[0], "NOUN", "NN", SINGULAR)
        if measure.text == "close up":
            measure = word("up", "NOUN", "NN", SINGULAR).before("amod", word("close", "ADJ", "JJ", "Degree=Pos"))
        if self._chance(0.25):
            measure.before("amod", self._adjective("size"))
        vowel = (measure.left[0] if measure.left else measure).text[0] in "aeiou"
        if not self.bare:
            measure.first("det", word("an" if vowel else "a", "DET", "DT"))
        return measure.after("nmod", node.first("case", adp("of")))

    def subject(self) -> Node:
        """Who or what a caption is about, perhaps joined with another, perhaps with what they wear."""
        animate = self._chance(0.82)
        node = self.phrase(*PERSONS) if animate else self.phrase(*THINGS)
        if animate and self._chance(0.28):
            node.after("nmod", self.wearing())
        elif self._chance(0.06):
            node.after("nmod", self.phrase(*THINGS).first("case", adp("with")))
        if self._chance(0.13):
            other = self.phrase(*PERSONS if animate else THINGS)
            if self._chance(0.2) and animate:
                third = self.phrase(*PERSONS)
                node.after("conj", third.first("punct", comma()))
            node.after("conj", other.first("cc", conjunction()))
        return node

    def wearing(self) -> Node:
        """Such as "in a red shirt and jeans", "with long hair", "in black"."""
        if self._chance(0.12):
            return self._adjective("color").before("case", adp("in"))
        if self._chance(0.3):
            return self._listed("body", "clothing", "thing").first("case", adp("with"))
        return self._listed("clothing", "compound.clothing", "pairs").first("case", adp("in"))

    def _listed(self, *sections: str) -> Node:
        node = self.phrase(*sections)
        if self._chance(0.25):
            node.after("conj", self.phrase(*sections).first("cc", conjunction()))
        return node

    def place(self) -> Node:
        """A prepositional phrase of place, as a noun phrase with its preposition."""
        kind = self.rng.random()
        if kind < 0.62:
            common = _PREPOSITIONS[:14] if self._chance(0.85) else _PREPOSITIONS
            return self.phrase(*PLACES, many=self._chance(0.2)).first("case", adp(self.rng.choice(common)))
        inner = self.phrase(*PLACES, *THINGS, "person", many=self._chance(0.25))
        if kind < 0.72:
            front = word(self.rng.choice(("front", "front", "top")), "NOUN", "NN", SINGULAR)
            front.before("case", adp("in" if front.text == "front" else "on"))
            return front.after("nmod", inner.first("case", adp("of")))
        if kind < 0.8:
            part = word(self._pick("part"), "NOUN", "NN", SINGULAR)
            part.before("case", adp(self.rng.choice(("on", "in", "at")))).before("det", word("the", "DET", "DT"))
            return part.after("nmod", inner.first("case", adp("of"))) if self._chance(0.8) else part
        if kind < 0.9:
            return inner.first("case", adp("to")).first("case", adp(self.rng.choice(("next", "next", "close"))))
        if kind < 0.95:
            return inner.first("case", adp("of")).first("case", adp(self.rng.choice(("out", "outside", "inside"))))
        if kind < 0.97:
            return self.phrase("event").first("case", adp(self.rng.choice(("at", "during", "in"))))
        air = word(self.rng.choice(("air", "background", "distance", "sun", "water", "foreground")), "NOUN", "NN")
        air.morph = SINGULAR
        return air.before("case", adp(self.rng.choice(("in", "through")))).before("det", word("the", "DET", "DT"))
