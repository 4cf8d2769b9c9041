"""Computes which categories of a published list a label system covers.

Published lists write names differently: "tree-merged" and "wall-other-merged" (COCO panoptic), "building;edifice"
(ADE20k), "Skis", "Door handle" (OpenImages). A category is covered if one of its names is a label or a synonym, after
lower-casing and without such suffixes; or if the names are equal after spelling and plural are normalized; or if a
label has the same main sense in WordNet. `matched_by` states which rule applied, from strict to lenient.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ram_ray.captions.lemmas import Lemmatizer
from ram_ray.label_system import Label, LabelSystem
from ram_ray.labels.lists import Entry
from ram_ray.labels.merge import Senses, merge_key
from ram_ray.labels.synonyms import Synonyms
from ram_ray.records import Json

MatchRule = Literal["name", "synonym", "spelling", "wordnet"]
MATCH_RULES: tuple[MatchRule, ...] = ("name", "synonym", "spelling", "wordnet")  # from strict to lenient
_BRACKETS = re.compile(r"\s*\([^)]*\)")
_SUFFIX = re.compile(r"-(merged|stuff|other)\b")


@dataclass(frozen=True)
class CategoryMatch:
    """A category and the label that covers it; None if no label does."""

    category: str
    label: str | None
    matched_by: MatchRule | None


@dataclass(frozen=True)
class Coverage:
    """The coverage of a list."""

    source: str  # name of the list
    categories: tuple[CategoryMatch, ...]

    @property
    def missing(self) -> list[str]:
        """Categories that no label covers."""
        return [match.category for match in self.categories if match.matched_by is None]

    @property
    def share(self) -> float:
        """Share of the categories that are covered, 0 to 1."""
        return 1 - len(self.missing) / len(self.categories)

    def counts(self) -> dict[str, int]:
        """Count the covered categories.

        Returns:
            Rule -> categories, in the order of `MATCH_RULES`.
        """
        counts = Counter(match.matched_by for match in self.categories)
        return {rule: counts[rule] for rule in MATCH_RULES}

    def to_dict(self) -> Json:
        """Convert to a tree for JSON.

        Returns:
            The counts, the label of each covered category, and the missing categories.
        """
        return {
            "source": self.source,
            "categories": len(self.categories),
            "covered": len(self.categories) - len(self.missing),
            **self.counts(),
            "by": {
                match.category: f"{match.label} ({match.matched_by})" for match in self.categories if match.matched_by
            },
            "missing": self.missing,
        }


class CoverageFinder:
    """Matches categories with the labels of a system.

    Args:
        system: the label system.
        lemmas: dictionary forms, for lists in the plural.
        tables: spellings of words.
        senses: WordNet, where it is installed.
    """

    def __init__(
        self, system: LabelSystem, *, lemmas: Lemmatizer, tables: Synonyms, senses: Senses | None = None
    ) -> None:
        self._system, self._lemmas, self._tables, self._senses = system, lemmas, tables, senses
        self._by_spelling: dict[str, Label] = {}
        self._by_sense: dict[str, Label] = {}
        for label in system.labels:
            for name in (label.name, *label.synonyms):
                self._by_spelling.setdefault(self._normalize(name), label)
                sense = senses.sense(name, label.kind) if senses else None
                if sense:
                    self._by_sense.setdefault(sense, label)

    def __call__(self, source: str, entries: Iterable[Entry]) -> Coverage:
        """Compute the coverage of a list.

        Args:
            source: name of the list.
            entries: its categories.

        Returns:
            The coverage, with the categories in the order of `entries`.
        """
        return Coverage(source, tuple(self._find(entry) for entry in entries))

    def _find(self, entry: Entry) -> CategoryMatch:
        names = [variant for name in (entry.name, *entry.synonyms) for variant in name_variants(name)]
        for name in names:
            id = self._system.find(name)
            if id is not None:
                label = self._system[id]
                return CategoryMatch(entry.name, label.name, "name" if label.name == name else "synonym")
        for name in names:
            if spelled_label := self._by_spelling.get(self._normalize(name)):
                return CategoryMatch(entry.name, spelled_label.name, "spelling")
        for name in names:
            for kind in ("object", "action", "attribute") if self._senses else ():
                sense = self._senses.sense(self._singular(name), kind) if self._senses else None
                if sense in self._by_sense:
                    return CategoryMatch(entry.name, self._by_sense[sense].name, "wordnet")
        return CategoryMatch(entry.name, None, None)

    def _normalize(self, name: str) -> str:
        return merge_key(self._tables.spelling(self._singular(name)))

    def _singular(self, name: str) -> str:
        first, space, last = name.rpartition(" ")
        return f"{first}{space}{self._lemmas(last, 'noun')}"


def name_variants(name: str) -> list[str]:
    """List the ways in which captions may write a published name.

    Args:
        name: of a category.

    Returns:
        Names without repetition, the most likely first.
    """
    bare = _BRACKETS.sub("", name).strip()
    plain = _SUFFIX.sub("", bare)
    variants = [name, bare, plain]
    first, hyphen, second = plain.partition("-")
    if hyphen:
        variants += [f"{second} {first}", f"{first} {second}"]  # "wall-brick", "window-blind"
    return list(dict.fromkeys(variant for variant in variants if variant))


def format_coverage(coverage: Coverage, *, missing: bool = True) -> str:
    """Format a coverage for a terminal.

    Args:
        coverage: of a list.
        missing: True: list the categories that no label covers.

    Returns:
        Text of several lines.
    """
    counts = coverage.counts()
    covered = len(coverage.categories) - len(coverage.missing)
    parts = ", ".join(f"{count} by {rule}" for rule, count in counts.items() if count)
    lines = [f"{coverage.source}: {covered} of {len(coverage.categories)} ({coverage.share:.1%}): {parts or 'none'}"]
    pairs: dict[str, list[str]] = defaultdict(list)  # rule -> "category = label"
    for match in coverage.categories:
        if match.matched_by and match.matched_by != "name":
            pairs[match.matched_by].append(f"{match.category} = {match.label}")
    lines += [f"  by {rule}: {', '.join(pairs[rule])}" for rule in MATCH_RULES if pairs[rule]]
    if missing and coverage.missing:
        lines.append(f"  not covered: {', '.join(coverage.missing)}")
    return "\n".join(lines)


def coverages_to_dict(coverages: Sequence[Coverage]) -> Json:
    """Convert coverages to a tree for JSON.

    Args:
        coverages: of several lists.

    Returns:
        Name of the list -> `Coverage.to_dict`.
    """
    return {coverage.source: coverage.to_dict() for coverage in coverages}
