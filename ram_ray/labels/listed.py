"""Uses a published list as label system: labels and ids from the list, synonyms and kinds from the captions.

A checkpoint or a benchmark depends on the list, so no label of it is merged, dropped or renamed. But captions write
"airplane" for the list's "plane", and the parser returns "ski" for the list's "skis". So the names of the list and of
the captions are merged together as in a build, and names that merge with a listed name become its synonyms.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace

from ram_ray.captions.lemmas import Lemmatizer
from ram_ray.captions.words import COLOURS, SCENES
from ram_ray.label_system import LabelSystem
from ram_ray.labels.build import BuildOptions, Counts, merge_names
from ram_ray.labels.names import Key
from ram_ray.labels.report import BuildReport
from ram_ray.records import KINDS

_READ_AS = {"object": ("scene",), "scene": ("object",)}  # list and parser may assign different kinds to a noun


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
    labels = [replace(label, read_as=_READ_AS.get(label.kind, ())) for label in listed.labels]
    system = LabelSystem(labels)  # finds a noun with both kinds
    ids = {(label.name, label.kind): label.id for label in labels}
    names = {**{key: {} for key in ids}, **{key: dict(sources) for key, sources in counts.items()}}
    groups = merge_names(names, options, report)
    added: dict[int, set[str]] = defaultdict(set)  # label id -> synonyms
    for key in sorted(ids, key=lambda listed_key: ids[listed_key]):
        for name, kind in groups.members(key):
            if system.find(name, kind) is None and not any(name in synonyms for synonyms in added.values()):
                added[ids[key]].add(name)
    system = LabelSystem(
        replace(label, synonyms=tuple(sorted({*label.synonyms, *added.get(label.id, ())} - {label.name})))
        for label in labels
    )
    label_sources = _count(system, counts, report)
    for label in system.labels:
        key = (label.name, label.kind)
        synonyms = added.get(label.id, ())
        reasons = {other: reason for other, reason in groups.reasons(key).items() if other[0] in synonyms}
        report.add_label(key, sources=label_sources[label.id], counts=counts, reasons=reasons)
    report.version = system.version
    report.finish()
    return LabelSystem(replace(label, count=sum(label_sources[label.id].values())) for label in system.labels), report


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
