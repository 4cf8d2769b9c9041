"""Finds the labels that a caption contains by their words, in addition to the parse.

A wrong parse loses a label although the caption contains its name. So a trie for each part of speech contains the names
and synonyms of the label system, and the longest name at each word of a caption matches, by words or dictionary forms.
These words do not match:

- "dog" in "hot dog": the longest name consumes its words, and so does a compound of the parse (except for its head).
- "no people", "without a hat": negated words.
- "top" in "on top of", "train" as a verb: a single word matches only if it is a label of a single kind, if the parse
  has no other part of speech for it here, and if it is not `Label.ambiguous`: a word whose captions rarely have the
  label in their parse (measured in `labels.stages`).
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
from ram_ray.labels.parsed_rows import label_ids

PARSED, MATCHED, BOTH = "parsed", "matched", "both"
PARTS_OF_SPEECH: tuple[PartOfSpeech, ...] = ("noun", "adj", "verb")
_TOKEN = re.compile(r"[^\W_]+(?:'[^\W_]+)*|[^\w\s'-]")
_MAX_CACHED_WORDS = 100_000
_NAMES = ""  # key in a trie's node of the names that end there

ParsedNames = Sequence[tuple[str, str]]  # (name, kind) of each parsed tag


class Lemma(Protocol):
    """Protocol of `lemmas.Lemmatizer`: dictionary forms of words."""

    def __call__(self, word: str, kind: PartOfSpeech) -> str:
        """Look up a dictionary form.

        Args:
            word: in lower case.
            kind: part of speech of the word.

        Returns:
            The dictionary form; the word itself if it is unknown.
        """
        ...


class Match(NamedTuple):
    """A name of a label in a caption."""

    id: int
    name: str  # as in the label system: the label's name or a synonym
    words: int  # number of words of the name


class Matcher:
    """Finds the names of a label system in captions.

    Args:
        labels: the label system.
        lemma: dictionary forms, as `lemmas.Lemmatizer` returns them.
        max_chars: longer captions are truncated at the end of a word, as by the parser.
        include_ambiguous: True: ambiguous words match as well, so that their ambiguity can be measured.
    """

    def __init__(
        self, labels: LabelSystem, lemma: Lemma, *, max_chars: int = 1000, include_ambiguous: bool = False
    ) -> None:
        self._lemma = lemma
        self._max_chars = max_chars
        self._tries: dict[PartOfSpeech, dict] = {part: {} for part in PARTS_OF_SPEECH}
        self._cached_forms: dict[tuple[str, str], tuple[str, ...]] = {}
        kinds: dict[str, set[str]] = {}
        for label in labels.labels:
            for name in (label.name, *label.synonyms):
                kinds.setdefault(name, set()).add(label.kind)
        for label in labels.labels:
            for name in (label.name, *label.synonyms):
                is_clear = name not in label.ambiguous and (len(kinds[name]) == 1 or len(_words(name)) > 1)
                if include_ambiguous or is_clear:
                    self._add(label, name)

    def find(self, text: str, parsed: ParsedNames = ()) -> list[Match]:
        """Find the names of labels in a caption.

        Args:
            text: the caption.
            parsed: all names that the parser found in the same caption.

        Returns:
            Matches in the order of the caption, without repetition.
        """
        words = _words(clean(text, max_chars=self._max_chars).lower())
        forms = {part: [self._forms(word, part) for word in words] for part in self._tries}
        negated = negated_words(words)
        compounds = [_words(name) for name, _ in parsed if " " in name or "-" in name]
        matches: dict[Match, None] = {}
        start = 0
        while start < len(words):
            length, names = self._longest(forms, start)
            lengths = (len(compound) for compound in compounds if _occurs_at(start, compound, forms["noun"]))
            compound_length = max(lengths, default=0)
            if compound_length > max(length, 1):
                is_fixed = " ".join(words[start : start + compound_length]) in COMPOUNDS
                # A "street sign" is a sign, so its head can match; a "teddy bear" is not a bear.
                start += compound_length if is_fixed else compound_length - 1
                continue
            if length and not negated[start]:
                for match, part in names:
                    if length > 1 or not self._has_other_part(words[start], part, parsed):
                        matches[match] = None
            start += max(length, 1)
        return list(matches)

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
            if all(other.id != match.id for other in ends):  # "motor bike" and "motor-bike" have the same words
                ends.append(match)

    def _forms(self, word: str, part: PartOfSpeech) -> tuple[str, ...]:
        forms = self._cached_forms.get((word, part))
        if forms is None:
            if len(self._cached_forms) > _MAX_CACHED_WORDS:  # a limit for random text
                self._cached_forms.clear()
            lemma = self._lemma(word, part)
            forms = self._cached_forms[word, part] = (word,) if lemma == word else (word, lemma)
        return forms

    def _longest(
        self, forms: dict[PartOfSpeech, list[tuple[str, ...]]], start: int
    ) -> tuple[int, list[tuple[Match, PartOfSpeech]]]:
        """Number of words of the longest names that begin at word `start` (0: none), and these names."""
        longest = 0
        names: list[tuple[Match, PartOfSpeech]] = []
        for part, trie in self._tries.items():
            nodes = [trie]
            for length, options in enumerate(forms[part][start:], 1):
                nodes = [node[word] for node in nodes for word in options if word in node]
                if not nodes:
                    break
                ends = [match for node in nodes for match in node.get(_NAMES, ())]
                if ends and length > longest:
                    longest, names = length, []
                if ends and length == longest:
                    names += [(match, part) for match in ends]
        return longest, names

    def _has_other_part(self, word: str, part: PartOfSpeech, parsed: ParsedNames) -> bool:
        """True if the parse has this word as other parts of speech only."""
        heads = [(name.rpartition(" ")[2], PART_OF_SPEECH[kind]) for name, kind in parsed]
        parsed_parts = {head_part for head, head_part in heads if head in self._forms(word, head_part)}
        return bool(parsed_parts) and part not in parsed_parts


class TagFinder:
    """Finds the label ids of a caption, from its parse and its words, with the source of each id.

    Args:
        labels: the label system.
        matcher: finds names in the text; None: only the parse is used.
    """

    def __init__(self, labels: LabelSystem, matcher: Matcher | None) -> None:
        self._labels, self._matcher = labels, matcher

    def __call__(self, text: str, parsed: ParsedNames) -> tuple[list[int], list[str]]:
        """Find the tags of a caption.

        Args:
            text: the caption.
            parsed: names that the parser found in it.

        Returns:
            Label ids without repetition, parsed ids first; and for each "parsed", "matched" or "both".
        """
        ids = label_ids(parsed, self._labels)
        matched = {match.id: None for match in self._matcher.find(text, parsed)} if self._matcher else {}
        sources = [BOTH if id in matched else PARSED for id in ids]
        matched_only = [id for id in matched if id not in ids]
        return ids + matched_only, sources + [MATCHED] * len(matched_only)


def _words(text: str) -> list[str]:
    """Words and punctuation marks of a lower-case text; hyphenated words are split."""
    return _TOKEN.findall(text)


def _occurs_at(start: int, name: Sequence[str], forms: Sequence[tuple[str, ...]]) -> bool:
    """True if the words of `name` begin at word `start`, inflected or not."""
    return start + len(name) <= len(forms) and all(
        word in options for word, options in zip(name, forms[start : start + len(name)], strict=True)
    )
