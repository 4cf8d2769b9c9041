"""Which labels of a system answer for the classes of an evaluation set, and for which classes nothing does.

A class is looked for in the user's mapping file, then among the labels by name, by synonym and by spelling
(`labels.coverage`). Several labels for one class answer with the highest score among them. What is left is scored
open-set, through the system's text encoder; a system without one does not support it. Nothing is left out in silence:
`matched_by` of each class is a part of every report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ram_ray.label_system import LabelSystem, normalize_name, split_kind
from ram_ray.labels.coverage import name_variants
from ram_ray.labels.lists import Entry
from ram_ray.records import Json

MatchedBy = Literal["map", "name", "synonym", "spelling", "open", "unsupported"]
MATCHED_BY: tuple[MatchedBy, ...] = ("map", "name", "synonym", "spelling", "open", "unsupported")


@dataclass(frozen=True)
class ClassMatch:
    """How a system answers for a class: with these labels, or with a text."""

    name: str
    labels: tuple[int, ...]  # empty: open-set, or not supported
    matched_by: MatchedBy
    text: str  # what a text encoder is asked for


def map_classes(
    classes: Sequence[Entry],
    system: LabelSystem,
    *,
    open_set: bool,
    mapping: Mapping[str, str] | None = None,
    exact: bool = False,
) -> list[ClassMatch]:
    """Match the classes of a set with the labels of a system.

    Args:
        classes: of the set.
        system: the label system.
        open_set: whether the system scores other texts than its labels.
        mapping: class -> labels, parted by "|"; "-": the class is not supported.
        exact: only a label that has the class's very name, or has it as a synonym, answers for it.

    Returns:
        A match for each class.

    Raises:
        ValueError: if the mapping names a label or a class that does not exist.
    """
    if exact:
        return _map_exactly(classes, system, open_set=open_set)
    from ram_ray.captions.tables import load_lemmas
    from ram_ray.labels.coverage import CoverageFinder
    from ram_ray.labels.synonyms import shipped_synonyms

    mapping = {normalize_name(name): labels for name, labels in (mapping or {}).items()}
    if unknown := set(mapping) - {normalize_name(entry.name) for entry in classes}:
        raise ValueError(f"the mapping has the class {min(unknown)!r}, which the set does not have")
    finder = CoverageFinder(system, lemmas=load_lemmas(), tables=shipped_synonyms())
    found = finder("classes", without_shared_names(classes)).categories
    matches = []
    for entry, match in zip(classes, found, strict=True):
        text, key = query_text(entry.name), normalize_name(entry.name)
        if key in mapping:
            texts = [] if mapping[key].strip() == "-" else mapping[key].split("|")
            ids = tuple(_label(name, system, key) for name in texts)
            matches.append(ClassMatch(entry.name, ids, "map" if ids else "unsupported", text))
        elif match.label is not None:
            assert match.matched_by not in (None, "wordnet"), "no senses were given"
            is_own_name = match.label in name_variants(entry.name)
            rule: MatchedBy = "spelling" if match.matched_by == "spelling" else "name" if is_own_name else "synonym"
            matches.append(ClassMatch(entry.name, (_id(match.label, system),), rule, text))
        else:
            matches.append(ClassMatch(entry.name, (), "open" if open_set else "unsupported", text))
    return matches


def _map_exactly(classes: Sequence[Entry], system: LabelSystem, *, open_set: bool) -> list[ClassMatch]:
    matches = []
    for entry in classes:
        name = normalize_name(entry.name)
        named = tuple(label.id for label in system.labels if label.name == name)
        ids = named or tuple(label.id for label in system.labels if name in label.synonyms)
        rule: MatchedBy = ("name" if named else "synonym") if ids else "open" if open_set else "unsupported"
        matches.append(ClassMatch(entry.name, ids, rule, name))
    return matches


def without_shared_names(classes: Sequence[Entry]) -> list[Entry]:
    """Leave out synonyms that are also a name or synonym of another class: they do not tell the two apart.

    Args:
        classes: of a set.

    Returns:
        The classes, in order.
    """
    used = Counter(name for entry in classes for name in {entry.name, *entry.synonyms})
    return [
        Entry(entry.name, tuple(name for name in entry.synonyms if used[name] == 1), entry.kind) for entry in classes
    ]


def ambiguous_classes(classes: Sequence[Entry]) -> dict[str, str]:
    """Find the classes whose name is also a name of another class: an image of that one may show it unlabelled.

    Args:
        classes: of a set.

    Returns:
        Name -> the first other class that has it too.
    """
    found = {}
    for entry in classes:
        others = (other.name for other in classes if other is not entry and entry.name in (other.name, *other.synonyms))
        if other_name := next(others, None):
            found[entry.name] = other_name
    return found


def query_text(name: str) -> str:
    """Write the name of a class as a caption would: "tree-merged" is "tree", "kite (bird of prey)" is "kite".

    Args:
        name: as the list has it.

    Returns:
        The text.
    """
    variants = name_variants(normalize_name(name))
    return min(variants[:3], key=len)


def count_matches(matches: Sequence[ClassMatch]) -> Json:
    """Count the classes by how they are matched.

    Args:
        matches: of a set.

    Returns:
        The number by `MATCHED_BY`, and the classes of all but "name": class and label.
    """
    counts = Counter(match.matched_by for match in matches)
    return {kind: counts[kind] for kind in MATCHED_BY}


def _id(name: str, system: LabelSystem) -> int:
    id = system.find(name)
    assert id is not None, name
    return id


def _label(text: str, system: LabelSystem, of_class: str) -> int:
    kind, name = split_kind(text)
    id = system.find(name, kind)
    if id is None:
        id = system.find(text.strip(), None)  # lists of others have capitals
    if id is None:
        raise ValueError(f"the mapping of {of_class!r} has {text.strip()!r}, which is no label of the model")
    return id
