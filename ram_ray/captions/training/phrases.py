"""Noun phrases and phrases of place of generated captions, with their trees: the base class of `grammar`.

Adjectives, participles, compounds and measures are drawn independently, so that a tagger cannot infer a word's class
from another word. The meaning of a phrase does not matter, only the classes of its words.
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
    """A node without children.

    Args:
        text: of the word.
        pos: universal part of speech.
        tag: Penn tag.
        morph: features, as in UD.

    Returns:
        The node.
    """
    return Node(text, pos, tag, morph)


def adp(text: str) -> Node:
    """A preposition.

    Args:
        text: of the word.

    Returns:
        The node.
    """
    return word(text, "ADP", "IN")


def comma() -> Node:
    """A comma, as a node."""
    return word(",", "PUNCT", ",")


def conjunction(text: str = "and") -> Node:
    """A coordinating conjunction.

    Args:
        text: of the word.

    Returns:
        The node.
    """
    return word(text, "CCONJ", "CC")


_PLURAL_DETERMINERS = ("two", "two", "two", "two", "three", "three", "four", "five", "six", "2", "3", "some",
                       "some", "the", "the", "several", "many", "all")  # fmt: skip
_SINGULAR_DETERMINERS = ("a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "the", "the", "the", "the", "one",
                         "another", "his", "her", "its", "their", "this")  # fmt: skip
_ENDINGS = ("covered", "filled", "lined", "shaped", "colored", "topped", "themed", "sized")


class Phrases:
    """Draws noun phrases and phrases of place.

    Args:
        seed: the same seed gives the same phrases.
    """

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
        """Draw a noun with its compound modifiers.

        Args:
            sections: of the lexicon, drawn from uniformly.
            many: plural.

        Returns:
            The noun; singular or plural as its section allows.
        """
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
            node.add_left("compound", word(part, "NOUN", "NN", SINGULAR))
        if " " not in entry and section in ("clothing", "structure", "thing", "place") and self._chance(0.12):
            node.add_left("compound", word(self._pick("material"), "NOUN", "NN", SINGULAR))
        return node

    def phrase(self, *sections: str, many: bool | None = None, plain: bool = False) -> Node:
        """Draw a noun phrase: determiner, adjectives, noun; sometimes a measure with "of".

        Args:
            sections: of the lexicon, for the noun.
            many: plural; None: drawn.
            plain: without adjectives, measure and owner.

        Returns:
            The head of the phrase.
        """
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
        return node.add_first("nmod:poss", owner.add_right("case", word("'s", "PART", "POS")))

    def _determiner(self, node: Node, *, many: bool, none: bool) -> None:
        if none or (many and self._chance(0.35)):
            return
        text = self.rng.choice(_PLURAL_DETERMINERS if many else _SINGULAR_DETERMINERS)
        if text in ("his", "her", "its", "their"):
            node.add_first("nmod:poss", word(text, "PRON", "PRP$"))
        elif text in ("several", "many"):
            node.add_first("amod", word(text, "ADJ", "JJ", "Degree=Pos"))
        elif text in ("some", "the", "a", "an", "another", "this", "all"):
            vowel = (node.left[0] if node.left else node).text[0] in "aeiou"
            node.add_first("det", word(("an" if vowel else "a") if text in ("a", "an") else text, "DET", "DT"))
        else:
            node.add_first("nummod", word(text, "NUM", "CD"))

    def _adjectives(self, node: Node, *, people: bool) -> None:
        """Add one to three adjectives or participles before the rest of the phrase."""
        adjectives: list[Node] = []
        if self._chance(0.35):
            adjectives.append(self._adjective("age" if people and self._chance(0.8) else "size"))
        if self._chance(0.35 if people else 0.4):
            adjectives.append(self._adjective("people.adjective") if people else self._kind_of_adjective())
        if not adjectives and people and self._chance(0.8):
            adjectives.append(self._adjective(self.rng.choice(("age", "people.adjective"))))
        elif not adjectives or self._chance(0.05 if people else 0.3):
            color = self._adjective("color")
            if self._chance(0.15):
                color.add_right("conj", self._adjective("color").add_left("cc", conjunction()))
            elif self._chance(0.08):
                shade = self.rng.choice(("light", "dark", "bright"))
                color.add_left("amod", word(shade, "ADJ", "JJ", "Degree=Pos"))
            adjectives.append(color)
        if len(adjectives) > 1 and self._chance(0.2):
            adjectives[0].add_right("punct", comma())
        node.left = [*adjectives, *node.left]
        for adjective in adjectives:
            adjective.rel = "amod"

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
                node.add_left("advmod", word(self._pick("degree"), "ADV", "RB", "Degree=Pos"))
            return node
        if kind < 0.9:
            return word(self._pick("vbg.adjective"), "VERB", "VBG", "VerbForm=Part")
        ending = self.rng.choice(_ENDINGS)
        noun = self._pick("mass", "thing", "place").split(":")[0].rpartition(" ")[2]
        if self._chance(0.5):
            return word(f"{noun}-{ending}", "ADJ", "JJ", "Degree=Pos")
        return word(ending, "VERB", "VBN", "VerbForm=Part").add_left("obl", word(noun, "NOUN", "NN", SINGULAR))

    def _measured(self, node: Node) -> Node:
        """Put "a group of" and the like before a phrase."""
        measure = word(self._pick("measure").split(":")[0], "NOUN", "NN", SINGULAR)
        if measure.text == "close up":
            measure = word("up", "NOUN", "NN", SINGULAR).add_left("amod", word("close", "ADJ", "JJ", "Degree=Pos"))
        if self._chance(0.25):
            measure.add_left("amod", self._adjective("size"))
        vowel = (measure.left[0] if measure.left else measure).text[0] in "aeiou"
        if not self.bare:
            measure.add_first("det", word("an" if vowel else "a", "DET", "DT"))
        return measure.add_right("nmod", node.add_first("case", adp("of")))

    def subject(self) -> Node:
        """Draw the subject of a caption, sometimes with a conjunct or with clothing.

        Returns:
            The head of the phrase.
        """
        animate = self._chance(0.82)
        node = self.phrase(*PERSONS) if animate else self.phrase(*THINGS)
        if animate and self._chance(0.28):
            node.add_right("nmod", self.wearing())
        elif self._chance(0.06):
            node.add_right("nmod", self.phrase(*THINGS).add_first("case", adp("with")))
        if self._chance(0.13):
            other = self.phrase(*PERSONS if animate else THINGS)
            if self._chance(0.2) and animate:
                third = self.phrase(*PERSONS)
                node.add_right("conj", third.add_first("punct", comma()))
            node.add_right("conj", other.add_first("cc", conjunction()))
        return node

    def wearing(self) -> Node:
        """Draw a phrase such as "in a red shirt and jeans", "with long hair", "in black".

        Returns:
            The head of the phrase.
        """
        if self._chance(0.12):
            return self._adjective("color").add_left("case", adp("in"))
        if self._chance(0.3):
            return self._listed("body", "clothing", "thing").add_first("case", adp("with"))
        return self._listed("clothing", "compound.clothing", "pairs").add_first("case", adp("in"))

    def _listed(self, *sections: str) -> Node:
        node = self.phrase(*sections)
        if self._chance(0.25):
            node.add_right("conj", self.phrase(*sections).add_first("cc", conjunction()))
        return node

    def place(self) -> Node:
        """Draw a prepositional phrase of place.

        Returns:
            The noun, with its preposition as a child.
        """
        kind = self.rng.random()
        if kind < 0.62:
            common = _PREPOSITIONS[:14] if self._chance(0.85) else _PREPOSITIONS
            return self.phrase(*PLACES, many=self._chance(0.2)).add_first("case", adp(self.rng.choice(common)))
        inner = self.phrase(*PLACES, *THINGS, "person", many=self._chance(0.25))
        if kind < 0.72:
            front = word(self.rng.choice(("front", "front", "top")), "NOUN", "NN", SINGULAR)
            front.add_left("case", adp("in" if front.text == "front" else "on"))
            return front.add_right("nmod", inner.add_first("case", adp("of")))
        if kind < 0.8:
            part = word(self._pick("part"), "NOUN", "NN", SINGULAR)
            part.add_left("case", adp(self.rng.choice(("on", "in", "at")))).add_left("det", word("the", "DET", "DT"))
            return part.add_right("nmod", inner.add_first("case", adp("of"))) if self._chance(0.8) else part
        if kind < 0.9:
            return inner.add_first("case", adp("to")).add_first("case", adp(self.rng.choice(("next", "next", "close"))))
        if kind < 0.95:
            return inner.add_first("case", adp("of")).add_first(
                "case", adp(self.rng.choice(("out", "outside", "inside")))
            )
        if kind < 0.97:
            return self.phrase("event").add_first("case", adp(self.rng.choice(("at", "during", "in"))))
        air = word(self.rng.choice(("air", "background", "distance", "sun", "water", "foreground")), "NOUN", "NN")
        air.morph = SINGULAR
        return air.add_left("case", adp(self.rng.choice(("in", "through")))).add_left("det", word("the", "DET", "DT"))
