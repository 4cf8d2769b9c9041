"""Builds a frozen label system from the counts of parsed names.

A count is the number of captions of a source that mention a name; memory grows with the vocabulary, not with the
corpus. Names with the same meaning become one label: the most frequent name is the label's name, the others are its
synonyms (see `merge`). A noun and a verb with the same spelling ("train") are two labels, because their kinds differ.

If there are too many labels, those with the highest score are selected. A name that only one source repeats (for
example a watermark) should not displace a name that all sources use, so the score uses the spread over the sources:

    score  = count * spread ** options.spread
    spread = exp(entropy of the rates r_1 .. r_S) / S    in 1/S .. 1, r_s: share of source s's mentions

The output does not depend on the order of the counts. The report lists merged and dropped names with the reasons.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ram_ray.captions.boilerplate import VERBS
from ram_ray.label_system import Label, LabelSystem, split_kind
from ram_ray.labels.edits import Edits
from ram_ray.labels.embeddings import merge_similar
from ram_ray.labels.merge import (
    Groups,
    Senses,
    apart_pairs,
    merge_edits,
    merge_groups,
    merge_inflections,
    merge_senses,
    merge_spellings,
)
from ram_ray.labels.names import Key, keys_of
from ram_ray.labels.report import BuildReport, DropReason
from ram_ray.labels.synonyms import Synonyms
from ram_ray.records import KINDS

Counts = Mapping[Key, Mapping[str, int]]  # (name, kind) -> source -> captions


@dataclass(frozen=True)
class BuildOptions:
    """Inputs of a build apart from the counts; `LabelsConfig` describes the numbers."""

    max_labels: int = 4585
    min_count: int = 5
    min_sources: int = 1
    min_share: float = 0.0
    spread: float = 0.5
    kinds: Sequence[str] = KINDS
    rare: Mapping[str, int] = field(default_factory=dict)  # mentions of names that are not counted, by source
    human: frozenset[Key] = frozenset()  # names of human labels: selected first, however rare
    stop: frozenset[str] = frozenset()
    boilerplate: Mapping[str, str] = field(default_factory=dict)  # word -> why it is no label; not for actions
    verbs: frozenset[str] = frozenset()  # actions that are no labels
    capitals: Mapping[Key, float] = field(default_factory=dict)  # share of mentions inside sentences with a capital
    max_capitals: float = 1.0
    edits: Edits = Edits()
    shipped: Synonyms = field(default_factory=Synonyms)
    synonyms: Synonyms = field(default_factory=Synonyms)
    lemma: Mapping[Key, str] = field(default_factory=dict)  # dictionary forms of the names that differ from it
    senses: Senses | None = None  # WordNet
    vectors: Mapping[str, np.ndarray] = field(default_factory=dict)
    similarity: float = 0.95


@dataclass
class _Candidate:
    """A group of names that can become a label."""

    name: Key
    names: list[Key]
    sources: dict[str, int]
    score: float
    added: bool  # by an edit: selected whatever its count
    human: bool  # a human label

    @property
    def count(self) -> int:
        # A caption that mentions two of the names counts twice; this is rare and does not change the order.
        return sum(self.sources.values())


def build(counts: Counts, options: BuildOptions) -> tuple[LabelSystem, BuildReport]:
    """Build a label system.

    Args:
        counts: name and kind -> source -> captions.
        options: limits, drops and merges.

    Returns:
        The label system, and the report of merged and dropped names.

    Raises:
        ValueError: if a kind is unknown, or no tag is frequent enough to become a label.
    """
    if unknown := set(options.kinds) - set(KINDS):
        raise ValueError(f"unknown kinds {sorted(unknown)}; labels.kinds takes {', '.join(KINDS)}")
    report = BuildReport(num_names=len(counts))
    admitted = _admit(counts, options, report)
    groups = merge_names(admitted, options, report)
    misread: dict[Key, set[str]] = defaultdict(set)
    for name, kind in options.edits.kind.items():
        for key in keys_of(name):
            if key in counts and key[1] != kind:
                misread[key[0], kind].add(key[1])
    candidates = _select(_candidates(admitted, groups, counts, options), options, report, misread)
    if not candidates:
        raise ValueError(
            f"labels.min_count: no name of the kinds {', '.join(options.kinds)} is in {options.min_count} captions "
            f"({len(counts)} different names were parsed); set labels.min_count lower, or give more data"
        )
    labels = []
    for id, candidate in enumerate(candidates):
        key = candidate.name
        name, kind = key
        labels.append(
            Label(
                id=id,
                name=name,
                kind=kind,
                count=candidate.count,
                synonyms=tuple(sorted({synonym for synonym, _ in candidate.names if synonym != name})),
                read_as=tuple(sorted(misread.get(key, ()))),
            )
        )
        report.add_label(key, sources=candidate.sources, counts=admitted, reasons=groups.reasons(key))
    system = LabelSystem(labels)
    report.version = system.version
    report.finish()
    return system, report


def source_totals(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Sum the counts of each source.

    Args:
        counts: of each name, source -> captions.

    Returns:
        Source -> mentions of all names.
    """
    totals: dict[str, int] = defaultdict(int)
    for sources in counts:
        for source, count in sources.items():
            totals[source] += count
    return dict(sorted(totals.items()))


def _admit(counts: Counts, options: BuildOptions, report: BuildReport) -> dict[Key, dict[str, int]]:
    """Apply the kinds, the stop list, and the edits `kind`, `drop` and `add`; return the counts of the other names."""
    edits = options.edits
    kinds = {key: kind for name, kind in edits.kind.items() for key in keys_of(name) if key in counts}
    dropped = {key for name in edits.drop for key in keys_of(name)}
    stopped = {key for name in options.stop for key in keys_of(name)}
    counted = {name for key in counts for name in (key[0], f"{key[1]}:{key[0]}")}
    report.notes += [f"edit without effect: drop {name}" for name in edits.drop if name not in counted]
    report.notes += [f"edit without effect: kind {name}" for name in edits.kind if name not in counted]
    admitted: dict[Key, dict[str, int]] = {}
    for key in sorted(counts):
        name, kind = key
        if kind not in KINDS:
            raise ValueError(f"tag {name!r} has kind {kind!r}; use one of {', '.join(KINDS)}")
        total = sum(counts[key].values())
        kind = kinds.get(key, kind)
        if kind not in options.kinds:
            report.drop(key, total, "kind")
        elif key in dropped or (name, kind) in dropped:
            report.drop(key, total, "edit")
        elif not name or key in stopped or (name, kind) in stopped:
            report.drop(key, total, "stop list")
        elif (name, kind) not in options.human and (reason := _why_no_label(name, kind, options)):
            report.drop(key, total, *reason)
        else:
            sources = admitted.setdefault((name, kind), {})
            for source, count in counts[key].items():
                sources[source] = sources.get(source, 0) + int(count)
    for name in edits.add:
        for key in keys_of(name):
            admitted.setdefault(key, {})
    return admitted


def _why_no_label(name: str, kind: str, options: BuildOptions) -> tuple[DropReason, str] | None:
    """The reason, and its detail, to drop a word of web text that is frequent and names nothing to be seen."""
    if kind == "action" and name in options.verbs:
        return "boilerplate", VERBS
    if kind != "action" and (section := options.boilerplate.get(name)):
        return "boilerplate", section
    share = options.capitals.get((name, kind), 0.0)
    return ("name", f"{share:.2f}") if share > options.max_capitals else None


def merge_names(counts: Counts, options: BuildOptions, report: BuildReport) -> Groups:
    """Group names with the same meaning, from all sources of synonyms.

    Args:
        counts: name and kind -> source -> captions.
        options: edits, synonyms, dictionary forms, senses and vectors.
        report: notes of edits without effect are added to it.

    Returns:
        The groups.
    """
    totals = {key: sum(sources.values()) for key, sources in counts.items()}
    edits = options.edits
    apart_edits = [[key for name in entry for key in keys_of(name)] for entry in edits.apart]
    groups = Groups(apart_pairs([*apart_edits, *options.synonyms.apart, *options.shipped.apart]))
    unused_edits = merge_edits(groups, edits.merge, totals)
    report.notes += [f"edit without effect: {edit}" for edit in unused_edits]
    merge_groups(groups, options.synonyms, totals, "file")
    merge_spellings(groups, totals, [options.synonyms, options.shipped])
    merge_groups(groups, options.shipped, totals, "table")
    merge_inflections(groups, totals, options.lemma)
    if options.senses:
        merge_senses(groups, totals, options.senses)
    if options.vectors:
        merge_similar(groups, totals, options.vectors, similarity=options.similarity)
    return groups


def _candidates(admitted: Counts, groups: Groups, counts: Counts, options: BuildOptions) -> list[_Candidate]:
    totals = source_totals([*counts.values(), options.rare])
    added = {key for name in options.edits.add for key in keys_of(name)}
    preferred = {key for name in options.edits.merge for key in keys_of(name)} | added
    grouped: set[Key] = set()
    candidates = []
    for key in sorted(admitted):
        if key in grouped:
            continue
        names = sorted(groups.members(key), key=lambda member: (-sum(admitted.get(member, {}).values()), member))
        grouped.update(names)
        sources: dict[str, int] = defaultdict(int)
        for name in names:
            for source, count in admitted.get(name, {}).items():
                sources[source] += count
        label_name = next((name for name in names if name in preferred), names[0])
        score = sum(sources.values()) * spread(sources, totals) ** options.spread
        is_added = bool(added & set(names))
        is_human = bool(options.human & set(names))
        candidates.append(_Candidate(label_name, names, dict(sorted(sources.items())), score, is_added, is_human))
    return [_rename(candidate, options.edits) for candidate in candidates]


def _rename(candidate: _Candidate, edits: Edits) -> _Candidate:
    for old, new in edits.rename.items():
        kind, name = split_kind(old)
        if candidate.name[0] == name and kind in (None, candidate.name[1]):
            candidate.name = (new, candidate.name[1])
            candidate.names = [candidate.name, *(key for key in candidate.names if key != candidate.name)]
            break
    return candidate


def spread(sources: Mapping[str, int], totals: Mapping[str, int]) -> float:
    """Effective number of sources of a label, divided by the number of sources.

    Args:
        sources: captions of each source that mention the label.
        totals: mentions of all names in each source; the label's rates are shares of these.

    Returns:
        1/S .. 1: 1 if the label has the same rate in all S sources, 1/S if only one source mentions it.
    """
    rates = [count / totals[source] for source, count in sorted(sources.items()) if count]
    if len(totals) < 2 or not rates:
        return 1.0
    total = sum(rates)
    entropy = -sum(rate / total * math.log(rate / total) for rate in rates)
    return math.exp(entropy) / len(totals)


def _select(
    candidates: Iterable[_Candidate], options: BuildOptions, report: BuildReport, misread: dict[Key, set[str]]
) -> list[_Candidate]:
    """Select labels by score; report the other names, and add wrong kinds to `misread` under the intended label."""
    ordered = sorted(candidates, key=lambda candidate: (not candidate.added, not candidate.human, *_rank(candidate)))
    main: dict[str, _Candidate] = {}  # name -> the candidate of its most frequent kind
    for candidate in ordered:
        name = candidate.name[0]
        if name not in main or candidate.count > main[name].count:
            main[name] = candidate
    selected: list[_Candidate] = []
    selected_names: set[Key] = set()
    for candidate in ordered:
        name, kind = candidate.name
        reason: DropReason | None = None
        if candidate.name in selected_names:
            reason = "edit"  # renamed to the name of another label
        elif not candidate.added:
            if candidate.human:
                reason = "over max_labels" if len(selected) >= options.max_labels else None
            elif candidate.count < options.min_share * main[name].count:
                reason = "misread"
                misread[main[name].name].add(kind)
            elif candidate.count < options.min_count:
                reason = "rare"
            elif sum(count > 0 for count in candidate.sources.values()) < options.min_sources:
                reason = "few sources"
            elif len(selected) >= options.max_labels:
                reason = "over max_labels"
        if reason:
            report.drop(candidate.name, candidate.count, reason)
        else:
            selected.append(candidate)
            selected_names.add(candidate.name)
    return sorted(selected, key=_rank)


def _rank(candidate: _Candidate) -> tuple[float, str, str]:
    """Sort key: highest score first, then by kind and name."""
    name, kind = candidate.name
    return -round(candidate.score, 6), kind, name
