"""Uses a published list as label system: labels and ids from the list, synonyms and kinds from the captions.

A checkpoint or a benchmark depends on the list, so no label of it is merged, dropped or renamed. But captions write
"airplane" for the list's "plane", and the parser returns "ski" for the list's "skis". So the names of the list and of
the captions are merged together as in a build, and names that merge with a listed name become its synonyms.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from ram_ray.captions.lemmas import Lemmatizer
from ram_ray.captions.words import COLOURS, SCENES
from ram_ray.label_system import Label, LabelSystem, normalize_name
from ram_ray.labels.build import BuildOptions, Counts, merge_names
from ram_ray.labels.lists import Entry
from ram_ray.labels.names import Key
from ram_ray.labels.report import BuildReport
from ram_ray.records import KINDS

_READ_AS = {"object": ("scene",), "scene": ("object",)}  # list and parser may assign different kinds to a noun


def read_released(listed: LabelSystem, *, kind_of: Callable[[str], str]) -> LabelSystem:
    """Let the labels of a released model be found in captions: its list says that all of them are objects.

    Args:
        listed: label system of a list; one with other kinds stays as it is.
        kind_of: returns the kind of a name.

    Returns:
        The system; "red" is still an object, and the parser's attribute "red" is read as this label.
    """
    if any(label.kind != "object" for label in listed.labels):
        return listed
    kinds = [kind_of(normalize_name(label.name)) for label in listed.labels]
    labels = (
        label if kind == "object" else replace(label, read_as=(kind,))
        for label, kind in zip(listed.labels, kinds, strict=True)
    )
    return LabelSystem(labels, unique=listed.unique)


def add_entries(listed: LabelSystem, entries: Iterable[Entry], *, kind_of: Callable[[str], str]) -> LabelSystem:
    """Add labels after those of a listed system, whose ids stay.

    Args:
        listed: label system of the list.
        entries: labels to add; one whose name is a name or a synonym already is left out.
        kind_of: returns the kind of a name whose entry has none.

    Returns:
        The larger system.
    """
    labels = list(listed.labels)
    known = {(kind, normalize_name(name)) for label in labels for name in _names(label) for kind in (label.kind, None)}
    for entry in entries:
        if (entry.kind, entry.name) in known:
            continue
        label = Label(len(labels), entry.name, entry.kind or kind_of(entry.name), synonyms=entry.synonyms)
        known |= {(kind, name) for name in _names(label) for kind in (label.kind, None)}
        labels.append(label)
    return LabelSystem(labels, unique=listed.unique)


def _names(label: Label) -> tuple[str, ...]:
    return (label.name, *label.synonyms)


def fit_ready(listed: LabelSystem, counts: Counts, options: BuildOptions) -> tuple[LabelSystem, BuildReport]:
    """Add counts and synonyms from the captions of a run to a listed system.

    Args:
        listed: label system of the list.
        counts: name and kind -> source -> captions.
        options: sources of merges; limits and drops are not used.

    Returns:
        The system with synonyms and counts and unchanged ids, and the report.
    """
    report = BuildReport(num_names=len(counts))
    labels = [
        replace(
            label,
            synonyms=_plain_synonyms(label),
            read_as=tuple(dict.fromkeys((*label.read_as, *_READ_AS.get(label.kind, ())))),
        )
        for label in listed.labels
    ]
    system = LabelSystem(labels, unique=listed.unique)  # finds a noun with both kinds
    ids = {(label.name, label.kind): label.id for label in reversed(labels)}
    names = {**{key: {} for key in ids}, **{key: dict(sources) for key, sources in counts.items()}}
    groups = merge_names(names, options, report)
    added: dict[int, set[str]] = defaultdict(set)  # label id -> synonyms
    for key in sorted(ids, key=lambda listed_key: ids[listed_key]):
        for name, kind in groups.members(key):
            if system.find(name, kind) is None and not any(name in synonyms for synonyms in added.values()):
                added[ids[key]].add(name)
    labels = [
        replace(label, synonyms=tuple(sorted({*label.synonyms, *added.get(label.id, ())} - {label.name})))
        for label in labels
    ]
    system = LabelSystem(labels, unique=listed.unique)
    label_sources = _count(system, counts, report)
    for label in system.labels:
        key = (label.name, label.kind)
        synonyms = added.get(label.id, ())
        reasons = {other: reason for other, reason in groups.reasons(key).items() if other[0] in synonyms}
        report.add_label(key, sources=label_sources[label.id], counts=counts, reasons=reasons)
    report.version = system.version
    report.finish()
    counted = (replace(label, count=sum(label_sources[label.id].values())) for label in system.labels)
    return LabelSystem(counted, unique=listed.unique), report


def _plain_synonyms(label: Label) -> tuple[str, ...]:
    """The synonyms, and the name as captions are read: released lists have names such as "Christmas tree"."""
    plain = normalize_name(label.name)
    return label.synonyms if plain in _names(label) else (*label.synonyms, plain)


def _count(system: LabelSystem, counts: Counts, report: BuildReport) -> Mapping[int, Mapping[str, int]]:
    """Label id -> source -> captions; the report gets the names that the system does not contain."""
    label_sources: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for key, sources in sorted(counts.items()):
        id = system.find(*key)
        if id is None:
            report.drop(key, sum(sources.values()), "not listed")
            continue
        for source, count in sources.items():
            label_sources[id][source] += count
    return label_sources


def make_kind_guesser(lemmas: Lemmatizer, counts: Counts | None = None) -> Callable[[str], str]:
    """Make a function that chooses the kind of a name.

    Args:
        lemmas: the words of each part of speech.
        counts: name and kind -> source -> captions; the most frequent kind of a counted name is chosen.

    Returns:
        A function from a name to one of `records.KINDS`.
    """

    def guess(name: str) -> str:
        keys: dict[str, Key] = {kind: (name, kind) for kind in KINDS}
        totals = {kind: sum(counts[key].values()) for kind, key in keys.items() if key in counts} if counts else {}
        if totals:
            return max(totals, key=lambda kind: (totals[kind], kind))
        if name in SCENES:
            return "scene"
        last = name.rpartition(" ")[2]
        if name in COLOURS:
            return "attribute"
        if " " in name or lemmas.known(last, "noun"):
            return "object"
        if lemmas.known(last, "verb"):
            return "action"
        return "attribute" if lemmas.known(last, "adj") else "object"

    return guess
