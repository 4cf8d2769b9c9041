"""A ready list in place of a built one: its labels and ids as they are, its synonyms and kinds from the captions.

A published list is a contract with a checkpoint or a benchmark, so nothing of it is merged, dropped or renamed. But
captions write "airplane" where a list says "plane", and the parser says "ski" where a list says "skis". So the merging
of a build runs over the list's names and the captions' together, and what meets a listed name becomes its synonym.
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

_NOUNS = {"object": ("scene",), "scene": ("object",)}  # a list and a parser may see this differently


def fit_ready(listed: LabelSystem, counts: Counts, options: BuildOptions) -> tuple[LabelSystem, BuildReport]:
    """A listed system with the counts of the run, and with the names that its captions use for its labels.

    Args:
        listed: the system as its list gives it.
        counts: name and kind -> source -> captions.
        options: of these, what merges names; limits and drops are not used.

    Returns:
        The system with synonyms and counts, its ids unchanged, and the report.
    """
    report = BuildReport(num_names=len(counts))
    labels = [replace(one, read_as=_NOUNS.get(one.kind, ())) for one in listed.labels]
    known = LabelSystem(labels)  # finds a noun under both kinds
    own = {(one.name, one.kind): one.id for one in labels}
    names = {**{key: {} for key in own}, **{key: dict(sources) for key, sources in counts.items()}}
    groups = merge_names(names, options, report)
    more: dict[int, set[str]] = defaultdict(set)
    for key in sorted(own, key=lambda one: own[one]):
        for name, kind in groups.members(key):
            if known.find(name, kind) is None and not any(name in taken for taken in more.values()):
                more[own[key]].add(name)
    known = LabelSystem(
        replace(one, synonyms=tuple(sorted({*one.synonyms, *more.get(one.id, ())} - {one.name}))) for one in labels
    )
    sources = _count(known, counts, report)
    for label in known.labels:
        key = (label.name, label.kind)
        reasons = {other: why for other, why in groups.reasons(key).items() if other[0] in more.get(label.id, ())}
        report.add_label(key, sources=sources[label.id], counts=counts, reasons=reasons)
    report.version = known.version
    report.finish()
    return LabelSystem(replace(one, count=sum(sources[one.id].values())) for one in known.labels), report


def _count(system: LabelSystem, counts: Counts, report: BuildReport) -> Mapping[int, Mapping[str, int]]:
    """Label id -> source -> captions; names that the system does not have go into the report."""
    found: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for key, of_source in sorted(counts.items()):
        id = system.find(*key)
        if id is None:
            report.drop(key, sum(of_source.values()), "not listed")
            continue
        for source, count in of_source.items():
            found[id][source] += count
    return found


def kind_guess(lemmas: Lemmatizer, counts: Counts | None = None) -> Callable[[str], str]:
    """A function that gives a bare name its kind.

    Args:
        lemmas: the words that each part of speech has.
        counts: of captions; the kind that they name it with most comes first.
    """

    def guess(name: str) -> str:
        keys: dict[str, Key] = {kind: (name, kind) for kind in KINDS}
        seen = {kind: sum(counts[key].values()) for kind, key in keys.items() if key in counts} if counts else {}
        if seen:
            return max(seen, key=lambda kind: (seen[kind], kind))
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
