"""A ready list in place of a built one: its names as they are, counted and given kinds by the captions of the run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

from ram_ray.label_system import LabelSystem
from ram_ray.labels.build import Counts
from ram_ray.labels.lemmas import Lemmatizer
from ram_ray.labels.lists import read_system
from ram_ray.labels.names import Key
from ram_ray.labels.report import BuildReport
from ram_ray.labels.words import COLOURS, SCENES
from ram_ray.records import KINDS


def read_ready(source: str, counts: Counts, lemmas: Lemmatizer) -> tuple[LabelSystem, BuildReport]:
    """The system that `labels.system` names, with the run's counts in place of its own.

    A name whose list says no kind has the kind that captions name it with most; without captions, that of the
    dictionary. What captions name and the list does not have is in the report as dropped.

    Raises:
        ValueError: if the list cannot be read.
    """
    totals = {key: sum(sources.values()) for key, sources in counts.items()}
    listed = read_system(source, kind_of=kind_guess(lemmas, totals))
    sources: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    report = BuildReport(num_names=len(counts))
    for key, of_source in sorted(counts.items()):
        id = listed.find(*key)
        if id is None:
            report.drop(key, totals[key], "not listed")
            continue
        for source_name, count in of_source.items():
            sources[id][source_name] += count
    labels = [replace(one, count=sum(sources[one.id].values())) for one in listed.labels]
    for one in labels:
        report.add_label((one.name, one.kind), sources=sources[one.id], counts=counts, reasons={})
    report.version = listed.version
    report.finish()
    return LabelSystem(labels), report


def kind_guess(lemmas: Lemmatizer, totals: dict[Key, int] | None = None) -> Callable[[str], str]:
    """A function that gives a bare name its kind.

    Args:
        totals: captions that name it with each kind; the first look, where given.
    """

    def guess(name: str) -> str:
        seen = {kind: count for kind in KINDS if (count := (totals or {}).get((name, kind), 0))}
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
