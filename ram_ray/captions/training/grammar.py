"""Captions made by a grammar, with their dependency trees: what the treebank lacks.

A web treebank has few sentences such as "Two men in black shirts ride bikes next to a parked car", and a tagger
trained on it alone takes "ride" for a noun there. Here the tree is known by construction, since the grammar that makes
the caption also makes its tree. What counts is that the readings a parser confuses stand side by side: words that are
nouns and verbs in the same places ("watch", "park"), gerunds before nouns ("swimming pool", "smiling girl", "holding
bags"), a verb after a modifier that ends in a noun, fragments without a verb, captions without articles. Relations
follow UD English EWT. Nothing here comes from a data set but single words (`words.txt`).
"""

from __future__ import annotations

from collections.abc import Iterator

from ram_ray.captions.training.phrases import (
    PERSONS,
    PLACES,
    SINGULAR,
    THINGS,
    Phrases,
    adp,
    comma,
    conjunction,
    word,
)
from ram_ray.captions.training.trees import Node, flatten, verb_form

_VERB_MORPH = {"VB": "VerbForm=Inf", "VBG": "VerbForm=Part", "VBN": "VerbForm=Part", "VBD": "VerbForm=Fin"}
_PRONOUNS = ("he", "she", "it")
_IRREGULAR = {
    "hold": "hold:held", "swing": "swing:swung", "sing": "sing:sang:sung", "speak": "speak:spoke:spoken",
    "ride": "ride:rode:ridden", "stand": "stand:stood", "hang": "hang:hung", "run": "run:ran:run",
    "throw": "throw:threw:thrown", "bite": "bite:bit:bitten", "bend": "bend:bent",
}  # fmt: skip
# How often each kind of verb phrase is drawn.
_FRAMES = {
    "posture": 4, "motion": 4, "solo": 3, "at": 1, "prepositional": 2, "transitive": 6, "wear": 2, "consume": 1,
    "play": 2, "state": 2, "done": 1, "to": 1, "after_verb": 1, "watch": 1, "overlook": 1,
}  # fmt: skip


class CaptionGrammar(Phrases):
    """Draws captions; the same seed gives the same captions."""

    def captions(self, count: int) -> Iterator[dict[str, list]]:
        """`count` captions as columns of words, tags, heads and relations."""
        for _ in range(count):
            self.bare = self._chance(0.08)
            root = self._sentence()
            if self._chance(0.55):
                root.after("punct", word(".", "PUNCT", "."))
            yield flatten(root)

    # Verb phrases

    def verb(self, entry: str, form: str, *, many: bool = False) -> Node:
        """A verb in a form; "VBZ" becomes "VBP" for a plural subject."""
        entry = entry.split(" ")[0]
        if form == "VBZ":
            morph = f"Number={'Plur' if many else 'Sing'}|VerbForm=Fin"
            return word(verb_form(entry, "VB" if many else "VBZ"), "VERB", "VBP" if many else "VBZ", morph)
        return word(verb_form(entry, form), "VERB", form, _VERB_MORPH[form])

    def action(self, form: str, *, many: bool = False, depth: int = 0) -> Node:
        """A verb phrase in a form: what it acts on, where, how, and perhaps a second one."""
        (frame,) = self.rng.choices(list(_FRAMES), list(_FRAMES.values()))
        head: Node = getattr(self, f"_{frame}")(form, many, depth)
        if self._chance(0.1):
            head.after("advmod", word(self._pick("adverb"), "ADV", "RB", "Degree=Pos"))
        while self._chance(0.4 if frame in ("posture", "motion", "solo") else 0.25):
            head.after("obl", self.place())
        if depth < 2 and self._chance(0.1):
            head.after("conj", self.action(form, many=many, depth=2).before("cc").first("cc", conjunction()))
        elif depth < 2 and self._chance(0.16):
            self._aside(head)
        return head

    def _aside(self, head: Node) -> None:
        """Such as "while holding a hat", "as a crowd watches", "holding a hat", "to catch a ball"."""
        kind = self.rng.random()
        if kind < 0.3:
            head.after("advcl", self.action("VBG", depth=2).first("mark", word("while", "SCONJ", "IN")))
        elif kind < 0.55:
            subject = self.phrase(*PERSONS) if self._chance(0.5) else None
            many = bool(subject and subject.tag == "NNS")
            mark = word(self.rng.choice(("as", "while", "as")), "SCONJ", "IN")
            if subject is None:
                subject, many = word(self.rng.choice(_PRONOUNS), "PRON", "PRP", SINGULAR), False
            clause = self._finite(subject, many=many, depth=2)
            head.after("advcl", clause.first("mark", mark))
        elif kind < 0.75:
            clause = self.action("VBG", depth=2)
            if self._chance(0.5):
                clause.first("punct", comma())
            head.after("advcl", clause)
        else:
            head.after("advcl", self.action("VB", depth=2).first("mark", word("to", "PART", "TO")))

    def _posture(self, form: str, many: bool, depth: int) -> Node:
        head = self.verb(self._pick("posture", "posture", "more.intransitive"), form, many=many)
        if self._chance(0.12):
            head.after("compound:prt", word(self.rng.choice(("up", "down", "around")), "ADP", "RP"))
        return head.after("obl", self.place()) if self._chance(0.6) else head

    def _motion(self, form: str, many: bool, depth: int) -> Node:
        head = self.verb(self._pick("motion"), form, many=many)
        return head.after("obl", self.place()) if self._chance(0.5) else head

    def _solo(self, form: str, many: bool, depth: int) -> Node:
        return self.verb(self._pick("solo"), form, many=many)

    def _at(self, form: str, many: bool, depth: int) -> Node:
        thing = self.phrase(*THINGS, *PERSONS).first("case", adp("at"))
        return self.verb(self._pick("at"), form, many=many).after("obl", thing)

    def _prepositional(self, form: str, many: bool, depth: int) -> Node:
        verb, _, preposition = self._pick("prepositional").partition(":")
        entry = _IRREGULAR.get(verb, verb)
        thing = self.phrase(*THINGS, *PERSONS, *PLACES).first("case", adp(preposition))
        return self.verb(entry, form, many=many).after("obl", thing)

    def _transitive(self, form: str, many: bool, depth: int) -> Node:
        head = self.verb(self._pick("transitive", "transitive", "more.transitive"), form, many=many)
        if self._chance(0.08):
            head.after("compound:prt", word(self._pick("particle"), "ADP", "RP"))
        head.after("obj", self._listed(*THINGS, "person", "animal", "body", "mass", "clothing", "more.compound"))
        if self._chance(0.15):
            preposition = adp(self.rng.choice(("with", "to", "from", "for", "in")))
            head.after("obl", self.phrase(*THINGS, "person", "body").first("case", preposition))
        return head

    def _wear(self, form: str, many: bool, depth: int) -> Node:
        head = self.verb(self._pick("wear"), form, many=many)
        return head.after("obj", self._listed("clothing", "compound.clothing", "pairs"))

    def _consume(self, form: str, many: bool, depth: int) -> Node:
        return self.verb(self._pick("consume"), form, many=many).after("obj", self._listed("food", "food", "mass"))

    def _play(self, form: str, many: bool, depth: int) -> Node:
        head = self.verb("play", form, many=many)
        if self._chance(0.6):
            return head.after("obj", self.phrase("game", "game", "instrument"))
        return head.after("obl", self.phrase(*THINGS, "animal").first("case", adp("with")))

    def _state(self, form: str, many: bool, depth: int) -> Node:
        """A state: "parked", "is parked", "covered with snow"; finite forms take "is"."""
        head = self.verb(self._pick("state"), "VBN")
        if form == "VBZ":
            head.before("aux:pass", word("are" if many else "is", "AUX", "VBP" if many else "VBZ", "VerbForm=Fin"))
        if self._chance(0.4):
            preposition = adp(self.rng.choice(("in", "with", "by", "with")))
            return head.after("obl", self.phrase("mass", "mass", "mass", *THINGS).first("case", preposition))
        return head.after("obl", self.place()) if self._chance(0.8) else head

    def _done(self, form: str, many: bool, depth: int) -> Node:
        """A passive: "being held by a man", "is being cut", "driven by a woman"."""
        head = self.verb(self._pick("done"), "VBN")
        if form == "VBZ":
            head.before("aux:pass", word("are" if many else "is", "AUX", "VBP" if many else "VBZ", "VerbForm=Fin"))
        if self._chance(0.5):
            head.before("aux:pass", word("being", "AUX", "VBG", "VerbForm=Part"))
        return head.after("obl", self.phrase(*PERSONS).first("case", adp("by"))) if self._chance(0.6) else head

    def _to(self, form: str, many: bool, depth: int) -> Node:
        head = self.verb(self._pick("to"), form, many=many)
        inner = self.action("VB", depth=2).first("mark", word("to", "PART", "TO"))
        return head.after("xcomp", inner)

    def _after_verb(self, form: str, many: bool, depth: int) -> Node:
        """Such as "finished throwing a ball", "goes skiing", "enjoying eating"."""
        head = self.verb(self.rng.choice(("finish", "begin", "start", "enjoy", "go", "stop")), form, many=many)
        return head.after("xcomp", self.action("VBG", depth=2))

    def _watch(self, form: str, many: bool, depth: int) -> Node:
        """Such as "watching a man ride a horse", "watches dogs play": object and what it does."""
        head = self.verb(self.rng.choice(("watch", "watch", "help", "photograph")), form, many=many)
        seen = self.phrase(*PERSONS)
        if self._chance(0.5):
            return head.after("obj", seen.after("acl", self.action("VBG", depth=2)))
        return head.after("obj", seen).after("xcomp", self.action("VB", depth=2))

    def _overlook(self, form: str, many: bool, depth: int) -> Node:
        return self.verb(self._pick("look.over"), form, many=many).after("obj", self.phrase(*PLACES, *THINGS))

    # Sentences

    def _finite(self, subject: Node, *, many: bool, depth: int = 0) -> Node:
        """Subject and a verb phrase: "is running", "runs", "is red", "has a hat", "are in the water"."""
        kind = self.rng.random()
        be = word("are" if many else "is", "AUX", "VBP" if many else "VBZ", "VerbForm=Fin")
        if kind < 0.44:
            frame = "VBG"
            head = self.action(frame, many=many, depth=depth)
            if head.tag == "VBN":
                be.rel = "aux:pass"
                head.first("aux:pass", be)
            else:
                head.first("aux", be)
        elif kind < 0.86:
            head = self.action("VBZ", many=many, depth=depth)
        elif kind < 0.91:
            head = self._predicate().first("cop", be)
        elif kind < 0.94:
            head = self.place().first("cop", be)
        else:
            have = word("have" if many else "has", "VERB", "VBP" if many else "VBZ", "VerbForm=Fin")
            head = have.after("obj", self._listed("body", *THINGS))
        return head.first("nsubj:pass" if head.tag == "VBN" else "nsubj", subject)

    def _predicate(self) -> Node:
        head = self._adjective("state.adjective")
        if self._chance(0.2):
            head.before("advmod", word("very", "ADV", "RB", "Degree=Pos"))
        if self._chance(0.25):
            head.after("conj", self._adjective("state.adjective").before("cc", conjunction()))
        return head

    def _sentence(self) -> Node:
        kind = self.rng.random()
        subject = self.subject()
        many = subject.tag == "NNS" or any(one.rel == "conj" for one in subject.right)
        if kind < 0.42:
            root = self._finite(subject, many=many)
            if self._chance(0.06):
                other = self.subject()
                clause = self._finite(other, many=other.tag == "NNS", depth=2)
                root.after("conj", clause.first("cc", conjunction(self.rng.choice(("and", "and", "while", "but")))))
            return root
        if kind < 0.72:
            return self._fragment(subject)
        if kind < 0.76:
            return self._relative(subject, many=many)
        if kind < 0.81:
            there = word("are" if many else "is", "VERB", "VBP" if many else "VBZ", "VerbForm=Fin")
            there.before("expl", word("there", "PRON", "EX"))
            there.after("nsubj", subject.after("acl", self.action("VBG", depth=1)) if self._chance(0.4) else subject)
            return there.after("obl", self.place()) if self._chance(0.6) else there
        if kind < 0.91:
            root = self.phrase(*THINGS, *PLACES, *PERSONS) if self._chance(0.6) else subject
            while self._chance(0.55):
                rest = self.phrase(*THINGS, *PERSONS).first("case", adp("with")) if self._chance(0.3) else self.place()
                root.after("nmod", rest)
            return root
        if kind < 0.94:
            return self._view()
        if kind < 0.97:
            root = self.phrase(*THINGS, plain=self._chance(0.5))
            for _ in range(self.rng.randint(1, 3)):
                root.after("conj", self.phrase(*THINGS).first("punct", comma()))
            return root.after("conj", self.phrase(*THINGS).first("cc", conjunction()))
        return self.action(self.rng.choice(("VBG", "VBG", "VBN", "VB")), depth=1)

    def _fragment(self, subject: Node) -> Node:
        """Such as "a man riding a bike", "three boys, one holding a ball", "a car parked on a street"."""
        clause = self.action("VBG", depth=1)
        if self._chance(0.07):
            one = word(self.rng.choice(("one", "each", "one", "both")), "NUM", "CD")
            subject.after("parataxis", clause.first("nsubj", one).first("punct", comma()))
            return subject
        if self._chance(0.1):
            clause.first("punct", comma())
        subject.after("acl", clause)
        if self._chance(0.25):
            second = self.action("VBG", depth=2)
            if self._chance(0.3):
                second.first("punct", comma())
            subject.after("acl", second)
        return subject

    def _relative(self, subject: Node, *, many: bool) -> Node:
        """Such as "a dog that is running", "a man who wears a hat", then perhaps the main verb."""
        that = word(self.rng.choice(("that", "who", "which")), "PRON", "WDT")
        that.tag = "WP" if that.text == "who" else "WDT"
        subject.after("acl:relcl", self._finite(that, many=many, depth=2))
        return self._finite(subject, many=many, depth=2) if self._chance(0.4) else subject

    def _view(self) -> Node:
        """Such as "a close up of a plate", "a black and white photo of a train", "a sign that reads"."""
        head = word(
            self.rng.choice(("picture", "view", "photo", "image", "shot", "photograph")), "NOUN", "NN", SINGULAR
        )
        if self._chance(0.4):
            head.before("amod", self._adjective(self.rng.choice(("color", "adjective", "size"))))
        if self._chance(0.85):
            vowel = (head.left[0] if head.left else head).text[0] in "aeiou"
            head.first("det", word("an" if vowel else "a", "DET", "DT"))
        inner = self.subject()
        if self._chance(0.5):
            inner.after("acl", self.action("VBG", depth=1))
        return head.after("nmod", inner.first("case", adp("of")))
