"""Lemmas from tables: a word's dictionary form as a noun, a verb or an adjective.

The kind of the tag selects the table, not the tagger's part of speech: a tagger that takes "surfs" for a noun must not
change the verb's lemma. Order: our own exceptions, the table of irregular forms, suffix rules whose result is a known
word, then plain English suffix rules for unknown words. The tables are spaCy's published tables (spacy-lookups-data,
derived from WordNet) in the folder of the shipped pipeline.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

PartOfSpeech = Literal["noun", "verb", "adj"]
# The table for each kind of tag (`records.KINDS`).
PART_OF_SPEECH: dict[str, PartOfSpeech] = {"object": "noun", "scene": "noun", "attribute": "adj", "action": "verb"}

# A plural form of a single object, or a singular that looks like a plural.
_UNCHANGED = """
    jeans pants shorts trousers sunglasses eyeglasses glasses goggles scissors binoculars clothes pajamas
    overalls tights leggings headphones earphones sweatpants khakis slacks tongs pliers suspenders briefs
    boxers gas canvas lens christmas texas bus grass glass dress cross tennis chess hydrangeas series species
    news dominoes lacrosse octopus cactus asparagus hibiscus campus circus mattress harness wilderness
    moss bass brass class pass people data gymnastics mathematics fries tennis rhinoceros walrus platypus
    sports graffiti confetti spaghetti broccoli zucchini paparazzi media hummus citrus iris debris chassis bokeh
    men's women's afro swiss windowsill
"""
_NOUN_EXCEPTIONS = dict(zip(_UNCHANGED.split(), _UNCHANGED.split(), strict=True)) | {
    "leaves": "leaf", "lenses": "lens", "buses": "bus", "busses": "bus", "glassess": "glasses", "fry": "fries",
    "persons": "person", "dice": "dice", "kids": "kid", "skies": "sky", "axes": "axe", "ties": "tie",
    "bikes": "bike", "waves": "wave", "caves": "cave", "olives": "olive", "gloves": "glove", "cafes": "cafe",
    "pas": "pa", "grounds": "ground", "woods": "woods", "stairs": "stairs", "calves": "calf", "oxen": "ox",
    "geese": "goose", "mice": "mouse", "feet": "foot", "teeth": "tooth", "children": "child", "doggie": "doggie",
    "buddies": "buddy", "mens": "man", "womens": "woman", "lots": "lot", "pjs": "pajamas", "jean": "jeans",
    "skis": "ski", "sunglass": "sunglasses", "goggle": "goggles", "snowmen": "snowman", "firemen": "fireman",
}  # fmt: skip
_VERB_EXCEPTIONS = {
    "singing": "sing", "swinging": "swing", "lying": "lie", "tying": "tie", "dying": "die", "laying": "lay",
    "layed": "lay", "winging": "wing", "ringing": "ring", "bringing": "bring", "stinging": "sting",
    "skiing": "ski", "skied": "ski", "skis": "ski", "seeing": "see", "fleeing": "flee", "felt": "feel",
    "saw": "see", "saws": "saw", "wound": "wind", "does": "do", "has": "have", "eyeing": "eye", "eying": "eye",
    "dyeing": "dye", "hitting": "hit", "putting": "put", "cutting": "cut", "setting": "set", "sliced": "slice",
    "biking": "bike", "canoeing": "canoe", "hoeing": "hoe", "grinding": "grind", "found": "find", "clothed": "clothe",
    "bathing": "bathe", "breathing": "breathe", "fallen": "fall", "fell": "fall", "costumed": "costume",
    "busing": "bus", "bussing": "bus", "tubing": "tube", "pulling": "pull", "kneeling": "kneel", "knelt": "kneel",
    "sledding": "sled", "golfing": "golf", "lit": "light", "sped": "speed", "lept": "leap", "leapt": "leap",
    "wakeboarding": "wakeboard", "kitesurfing": "kitesurf", "parasailing": "parasail", "paragliding": "paraglide",
    "tinging": "tinge", "bound": "bind", "lay": "lie", "hung": "hang", "shown": "show", "posing": "pose",
}  # fmt: skip
_ADJ_EXCEPTIONS = {word: word for word in ("grey", "gray", "elder", "former", "upper", "tan", "modest")}
_RULES: dict[str, tuple[tuple[str, str], ...]] = {
    "noun": (("s", ""), ("es", ""), ("ies", "y"), ("ves", "f"), ("ves", "fe"), ("men", "man")),
    "verb": (("s", ""), ("es", ""), ("ies", "y"), ("ed", "e"), ("ed", ""), ("ied", "y"), ("ing", "e"), ("ing", "")),
    "adj": (("er", ""), ("est", ""), ("er", "e"), ("est", "e"), ("ier", "y"), ("iest", "y")),
}
_EXCEPTIONS = {"noun": _NOUN_EXCEPTIONS, "verb": _VERB_EXCEPTIONS, "adj": _ADJ_EXCEPTIONS}
_DOUBLED = frozenset("bdgklmnprtvz")


class Lemmatizer:
    """Dictionary forms by spaCy's tables.

    Args:
        tables: the folder `lookups` of a saved spaCy rule lemmatizer.
    """

    def __init__(self, tables: Path) -> None:
        from spacy.lookups import Lookups

        lookups = Lookups().from_disk(tables)
        kinds: tuple[PartOfSpeech, ...] = ("noun", "verb", "adj")
        self._known = {kind: frozenset(lookups.get_table("lemma_index")[kind]) for kind in kinds}
        self._irregular = {kind: dict(lookups.get_table("lemma_exc")[kind]) for kind in kinds}
        self._cache: dict[tuple[str, str], str] = {}

    def known(self, word: str, kind: PartOfSpeech) -> bool:
        """Whether `word` or its lemma is in the table of a part of speech.

        Args:
            word: lower-case.
            kind: part of speech.

        Returns:
            True if it is.
        """
        table = self._known[kind]
        return word in _EXCEPTIONS[kind] or word in table or word in self._irregular[kind] or self(word, kind) in table

    def known_word(self, word: str) -> bool:
        """Whether `word` is a form of a noun, verb or adjective in the tables.

        Args:
            word: lower-case.

        Returns:
            True if it is.
        """
        return any(self.known(word, kind) for kind in self._known)

    def __call__(self, word: str, kind: PartOfSpeech) -> str:
        """The lemma of a word.

        Args:
            word: lower-case.
            kind: part of speech that selects the table.

        Returns:
            The lemma; the word itself where no rule applies.
        """
        key = (word, kind)
        if key not in self._cache:
            if len(self._cache) >= 1 << 16:  # web text has no last word
                self._cache.clear()
            self._cache[key] = self._look_up(word, kind)
        return self._cache[key]

    def _look_up(self, word: str, kind: PartOfSpeech) -> str:
        if word in _EXCEPTIONS[kind]:
            return _EXCEPTIONS[kind][word]
        if kind == "noun" and "-" in word:  # the last part has the plural: "t-shirts", "by-standers"
            first, _, last = word.rpartition("-")
            return f"{first}-{self(last, kind)}" if last else word
        known, irregular = self._known[kind], self._irregular[kind].get(word)
        if irregular:
            # WordNet also lists "men" and "glasses" as base forms: the irregular form is used.
            doubled = irregular[0] + irregular[0][-1]  # "installed": install, not the older "instal"
            return doubled if kind == "verb" and word.startswith(doubled) and doubled in known else irregular[0]
        if kind == "adj" and word.endswith(("er", "est")):  # "larger" is in the table as well as "large"
            for suffix, replacement in _RULES["adj"]:
                if word.endswith(suffix) and word[: -len(suffix)] + replacement in known:
                    return word[: -len(suffix)] + replacement
        if kind != "verb" and word in known and not (kind == "noun" and _looks_plural(word)):
            return word
        if kind == "noun" and not _looks_plural(word) and not word.endswith("men"):
            return word
        for suffix, replacement in _RULES[kind]:
            if word.endswith(suffix) and word[: -len(suffix)] + replacement in known:
                return word[: -len(suffix)] + replacement
        return word if word in known else self._apply_suffix_rules(word, kind)

    def _apply_suffix_rules(self, word: str, kind: PartOfSpeech) -> str:
        """Plain English suffixes for a word that is in no table."""
        if kind == "adj" or len(word) < 5:
            return word
        if kind == "verb" and word.endswith(("ing", "ed")):
            stem = word[:-3] if word.endswith("ing") else word[:-2]
            if len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] in _DOUBLED:
                return stem[:-1]
            nouns = self._known["noun"]  # verbs derived from nouns: "snowboarding", "skateboarded"
            return stem + "e" if stem not in nouns and stem + "e" in nouns else stem
        if not _looks_plural(word):
            return word
        if word.endswith("ies"):
            return word[:-3] + "y"
        return word[:-2] if word.endswith(("ches", "shes", "xes", "sses", "zzes")) else word[:-1]


def _looks_plural(word: str) -> bool:
    return len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is", "'s"))
