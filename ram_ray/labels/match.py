"""Known labels found in captions by their words: a second reader beside the parse.

A parse can go wrong in many ways, and then a label of three words, or a synonym, is lost although it stands there in
full. So the names and synonyms of the label system are kept in tries, and each caption is read left to right, the
longest name first, over words and their dictionary forms. The hard question is what not to take:

- "dog" of "hot dog": the longest name uses up its words, and so does a compound that the parse read (only its head
  may be a label by itself).
- "no people", "without a hat": what is said not to be there.
- "top" of "on top of", "train" the verb: a single word counts only if it is a label of one kind, if the parse did not
  read it as something else here, and if captions mostly mean the label by it. The last is measured on the captions
  themselves (`labels.stages`): a word that the parse confirms too rarely is `Label.ambiguous`.

Names of several words are taken whatever the parse says, but for verbs ("snow-cover"), whose compounds are mostly
slips of a parse.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ram_ray.captions.lemmas import PART_OF_SPEECH, PartOfSpeech
from ram_ray.captions.negation import negated_words
from ram_ray.captions.normalize import clean
from ram_ray.captions.words import COMPOUNDS
from ram_ray.label_system import Label, LabelSystem
from ram_ray.labels.parsed import label_ids

PARSED, MATCHED, BOTH = "parsed", "matched", "both"
PARTS: tuple[PartOfSpeech, ...] = ("noun", "adj", "verb")
_TOKEN = re.compile(r"[^\W_]+(?:'[^\W_]+)*|[^\w\s'-]")
_MAX_MEMORY = 100_000  # words whose forms are kept
_NAMES = ""  # key of a trie's node for the names that end there

Parsed = Sequence[tuple[str, str]]  # (name, kind) of each tag that the parse gives


class Lemma(Protocol):
    """Dictionary forms: what `lemmas.Lemmatizer` is."""

    def __call__(self, word: str, kind: PartOfSpeech) -> str:
        """The dictionary form of a word, taken as this part of speech."""
        ...


class Match(NamedTuple):
    """A name of a label, found in a caption."""

    id: int
    name: str  # as the label system has it: a label's name or one of its synonyms
    words: int  # how many it has


class Matcher:
    """Finds the names of a label system in captions.

    Args:
        labels: what is looked for.
        lemma: dictionary forms, as `lemmas.Lemmatizer` gives them.
        max_chars: longer captions are cut at the end of a word, as the parser cuts them.
        trusting: also give single words that are marked as ambiguous, to measure how ambiguous they are.
    """

    def __init__(self, labels: LabelSystem, lemma: Lemma, *, max_chars: int = 1000, trusting: bool = False) -> None:
        self._lemma = lemma
        self._max_chars = max_chars
        self._tries: dict[PartOfSpeech, dict] = {part: {} for part in PARTS}
        self._memory: dict[tuple[str, str], tuple[str, ...]] = {}
        kinds: dict[str, set[str]] = {}
        for label in labels.labels:
            for name in (label.name, *label.synonyms):
                kinds.setdefault(name, set()).add(label.kind)
        for label in labels.labels:
            for name in (label.name, *label.synonyms):
                clear = name not in label.ambiguous and (len(kinds[name]) == 1 or len(_words(name)) > 1)
                if trusting or clear:
                    self._add(label, name)

    def find(self, text: str, parsed: Parsed = ()) -> list[Match]:
        """Labels that stand in a caption, in its order, each name once.

        Args:
            text: the caption.
            parsed: what the parse read in the same caption, whether labels or not.
        """
        words = _words(clean(text, max_chars=self._max_chars))
        forms = {part: [self._forms(word, part) for word in words] for part in self._tries}
        hidden = negated_words(words)
        compounds = [_words(name) for name, _ in parsed if " " in name or "-" in name]
        found: dict[Match, None] = {}
        place = 0
        while place < len(words):
            length, names = self._longest(forms, place)
            compound = max((len(one) for one in compounds if _stands(one, forms["noun"], place)), default=0)
            if compound > max(length, 1):
                fixed = " ".join(words[place : place + compound]) in COMPOUNDS
                place += compound if fixed else compound - 1  # "teddy bear" is no bear, "street sign" a sign
                continue
            if length and not hidden[place]:
                for match, part in names:
                    if length > 1 or not self._read_otherwise(words[place], part, parsed):
                        found[match] = None
            place += max(length, 1)
        return list(found)

    def _add(self, label: Label, name: str) -> None:
        part = PART_OF_SPEECH[label.kind]
        words = _words(name)
        if not words:
            return
        match = Match(label.id, name, len(words))
        for last in {words[-1], self._lemma(words[-1], part)}:
            node = self._tries[part]
            for word in (*words[:-1], last):
                node = node.setdefault(word, {})
            ends = node.setdefault(_NAMES, [])
            if all(one.id != match.id for one in ends):  # "motor bike" and "motor-bike" are the same words
                ends.append(match)

    def _forms(self, word: str, part: PartOfSpeech) -> tuple[str, ...]:
        forms = self._memory.get((word, part))
        if forms is None:
            if len(self._memory) > _MAX_MEMORY:  # hostile text must not grow memory without end
                self._memory.clear()
            lemma = self._lemma(word, part)
            forms = self._memory[word, part] = (word,) if lemma == word else (word, lemma)
        return forms

    def _longest(
        self, forms: dict[PartOfSpeech, list[tuple[str, ...]]], place: int
    ) -> tuple[int, list[tuple[Match, PartOfSpeech]]]:
        """Words of the longest names that begin at `place` (0: none), and these names."""
        best = 0
        found: list[tuple[Match, PartOfSpeech]] = []
        for part, trie in self._tries.items():
            nodes = [trie]
            for length, options in enumerate(forms[part][place:], 1):
                nodes = [node[word] for node in nodes for word in options if word in node]
                if not nodes:
                    break
                ends = [match for node in nodes for match in node.get(_NAMES, ())]
                if ends and length > best:
                    best, found = length, []
                if ends and length == best:
                    found += [(match, part) for match in ends]
        return best, found

    def _read_otherwise(self, word: str, part: PartOfSpeech, parsed: Parsed) -> bool:
        """True if the parse took this word for another part of speech, and not for this one."""
        parts = [(name.rpartition(" ")[2], PART_OF_SPEECH[kind]) for name, kind in parsed]
        read = {other for last, other in parts if last in self._forms(word, other)}
        return bool(read) and part not in read


class TagFinder:
    """Ids of a caption's labels from both readers, and which of them found each."""

    def __init__(self, labels: LabelSystem, matcher: Matcher | None) -> None:
        self._labels, self._matcher = labels, matcher

    def __call__(self, text: str, parsed: Parsed) -> tuple[list[int], list[str]]:
        """Ids of the label system, the parse's first, each once; and for each "parsed", "matched" or "both"."""
        ids = label_ids(parsed, self._labels)
        matched = {match.id: None for match in self._matcher.find(text, parsed)} if self._matcher else {}
        sources = [BOTH if id in matched else PARSED for id in ids]
        more = [id for id in matched if id not in ids]
        return ids + more, sources + [MATCHED] * len(more)


def _words(text: str) -> list[str]:
    """Words and marks of a lower-case text; hyphened words are taken apart, as names are."""
    return _TOKEN.findall(text)


def _stands(name: Sequence[str], forms: Sequence[tuple[str, ...]], place: int) -> bool:
    """True if the words of `name` stand at `place`, whatever their endings."""
    return place + len(name) <= len(forms) and all(
        word in options for word, options in zip(name, forms[place : place + len(name)], strict=True)
    )
