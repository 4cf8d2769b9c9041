"""Which categories of a published list a label system covers, by name or by synonym, and which not.

Published lists write names in their own ways: "tree-merged" and "wall-other-merged" (COCO panoptic), "building;edifice"
(ADE20k), "Skis", "Door handle" (OpenImages). A category is covered if one of its names, in lower case, without such
endings, in whatever spelling and with or without its plural, is a label or a synonym; by WordNet, if its main sense is
that of a label. "by" says which, so that the strict and the generous figure can both be read.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ram_ray.captions.lemmas import Lemmatizer
from ram_ray.label_system import Label, LabelSystem
from ram_ray.labels.lists import Entry
from ram_ray.labels.merge import Senses, merge_key
from ram_ray.labels.synonyms import Synonyms

By = Literal["name", "synonym", "spelling", "wordnet"]
BY: tuple[By, ...] = ("name", "synonym", "spelling", "wordnet")
_BRACKETS = re.compile(r"\s*\([^)]*\)")
_STUFF = re.compile(r"-(merged|stuff|other)\b")


@dataclass(frozen=True)
class Covered:
    """One category and the label that covers it, or None."""

    category: str
    label: str | None
    by: By | None


@dataclass(frozen=True)
class Coverage:
    """A list, category by category."""

    source: str
    categories: tuple[Covered, ...]

    @property
    def missing(self) -> list[str]:
        """Categories that no label covers."""
        return [one.category for one in self.categories if one.by is None]

    @property
    def share(self) -> float:
        """Share of the categories that are covered, by whatever."""
        return 1 - len(self.missing) / len(self.categories)

    def counts(self) -> dict[str, int]:
        """Categories covered by each, in the order of `BY`."""
        counts = Counter(one.by for one in self.categories)
        return {by: counts[by] for by in BY}

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "source": self.source,
            "categories": len(self.categories),
            "covered": len(self.categories) - len(self.missing),
            **self.counts(),
            "by": {one.category: f"{one.label} ({one.by})" for one in self.categories if one.by},
            "missing": self.missing,
        }


class Covering:
    """Answers for one label system which label means a category.

    Args:
        system: the labels.
        lemmas: dictionary forms, for lists in the plural.
        tables: spellings that are one.
        senses: WordNet, where it is installed.
    """

    def __init__(
        self, system: LabelSystem, *, lemmas: Lemmatizer, tables: Synonyms, senses: Senses | None = None
    ) -> None:
        self._system, self._lemmas, self._tables, self._senses = system, lemmas, tables, senses
        self._spelled: dict[str, Label] = {}
        self._meant: dict[str, Label] = {}
        for label in system.labels:
            for name in (label.name, *label.synonyms):
                self._spelled.setdefault(self._bare(name), label)
                sense = senses.sense(name, label.kind) if senses else None
                if sense:
                    self._meant.setdefault(sense, label)

    def __call__(self, source: str, entries: Iterable[Entry]) -> Coverage:
        """The coverage of a list."""
        return Coverage(source, tuple(self._find(one) for one in entries))

    def _find(self, entry: Entry) -> Covered:
        names = [form for name in (entry.name, *entry.synonyms) for form in forms(name)]
        for name in names:
            id = self._system.find(name)
            if id is not None:
                label = self._system[id]
                return Covered(entry.name, label.name, "name" if label.name == name else "synonym")
        for name in names:
            if found := self._spelled.get(self._bare(name)):
                return Covered(entry.name, found.name, "spelling")
        for name in names:
            for kind in ("object", "action", "attribute") if self._senses else ():
                sense = self._senses.sense(self._singular(name), kind) if self._senses else None
                if sense in self._meant:
                    return Covered(entry.name, self._meant[sense].name, "wordnet")
        return Covered(entry.name, None, None)

    def _bare(self, name: str) -> str:
        return merge_key(self._tables.spelling(self._singular(name)))

    def _singular(self, name: str) -> str:
        first, space, last = name.rpartition(" ")
        return f"{first}{space}{self._lemmas(last, 'noun')}"


def forms(name: str) -> list[str]:
    """How captions may write a published name, the likeliest first."""
    bare = _BRACKETS.sub("", name).strip()
    plain = _STUFF.sub("", bare)
    found = [name, bare, plain]
    first, hyphen, second = plain.partition("-")
    if hyphen:
        found += [f"{second} {first}", f"{first} {second}"]  # "wall-brick", "window-blind"
    return list(dict.fromkeys(one for one in found if one))


def say(coverage: Coverage, *, missing: bool = True) -> str:
    """A coverage as text.

    Args:
        coverage: of one list.
        missing: name the categories that no label covers.
    """
    counts = coverage.counts()
    covered = len(coverage.categories) - len(coverage.missing)
    parts = ", ".join(f"{count} by {by}" for by, count in counts.items() if count)
    lines = [f"{coverage.source}: {covered} of {len(coverage.categories)} ({coverage.share:.1%}): {parts or 'none'}"]
    others: dict[str, list[str]] = defaultdict(list)
    for one in coverage.categories:
        if one.by and one.by != "name":
            others[one.by].append(f"{one.category} = {one.label}")
    lines += [f"  by {by}: {', '.join(others[by])}" for by in BY if others[by]]
    if missing and coverage.missing:
        lines.append(f"  not covered: {', '.join(coverage.missing)}")
    return "\n".join(lines)


def total(coverages: Sequence[Coverage]) -> dict[str, Any]:
    """All coverages as JSON takes them."""
    return {one.source: one.to_dict() for one in coverages}
