"""Counts of parsed tags to a frozen label system.

The counts are captions that name a tag, for each source of captions; they fit in memory because they are bounded by
the vocabulary, not by the corpus. Names of one meaning become one label under the most frequent name (see `merge`),
the others its synonyms. A noun and a verb spelled alike ("train") stay apart, as their kinds differ.

Which labels stay when there are too many: the frequent ones, but a name that one source repeats (a watermark, a
drawing's habit of speech) should not push out one that all sources use. So a label's rank is its count times its
spread, the effective number of sources over the number of sources: exp of the entropy of its rates, in 1/S .. 1.

Everything is sorted, so equal counts give an equal system, byte for byte, whatever the order they came in. What was
merged and what was dropped, and why, is in the report.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ram_ray.label_system import Label, LabelSystem
from ram_ray.labels.edits import Edits
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
from ram_ray.labels.names import Key, keys_of, split_kind
from ram_ray.labels.report import BuildReport, Dropped
from ram_ray.labels.similar import merge_similar
from ram_ray.labels.synonyms import Synonyms
from ram_ray.records import KINDS

Counts = Mapping[Key, Mapping[str, int]]  # (name, kind) -> source -> captions


@dataclass(frozen=True)
class BuildOptions:
    """What a label system is built by, apart from the counts; `LabelsConfig` says what each number means."""

    max_labels: int = 4585
    min_count: int = 5
    min_sources: int = 1
    min_share: float = 0.0
    spread: float = 0.5
    kinds: Sequence[str] = KINDS
    stop: frozenset[str] = frozenset()
    edits: Edits = Edits()
    shipped: Synonyms = field(default_factory=Synonyms)
    synonyms: Synonyms = field(default_factory=Synonyms)
    lemma: Mapping[Key, str] = field(default_factory=dict)  # dictionary forms of names that have another one
    senses: Senses | None = None  # WordNet
    vectors: Mapping[str, np.ndarray] = field(default_factory=dict)
    similarity: float = 0.95


@dataclass
class _Candidate:
    """A group of names on its way to become a label."""

    name: Key
    names: list[Key]
    sources: dict[str, int]
    score: float
    added: bool  # by hand: stays whatever its count

    @property
    def count(self) -> int:
        # A caption that writes two of the names counts twice; this is rare and does not change the order.
        return sum(self.sources.values())


def build(counts: Counts, options: BuildOptions) -> tuple[LabelSystem, BuildReport]:
    """The label system of the counts, and the report of what was merged and dropped.

    Args:
        counts: name and kind -> source -> captions.
        options: limits, drops and merges.

    Raises:
        ValueError: if a kind is unknown, or no tag is frequent enough to become a label.
    """
    if unknown := set(options.kinds) - set(KINDS):
        raise ValueError(f"unknown kinds {sorted(unknown)}; labels.kinds takes {', '.join(KINDS)}")
    report = BuildReport(num_names=len(counts))
    kept = _admit(counts, options, report)
    groups = merge_names(kept, options, report)
    misread: dict[Key, set[str]] = defaultdict(set)
    for name, kind in options.edits.kind.items():
        for key in keys_of(name):
            if key in counts and key[1] != kind:
                misread[key[0], kind].add(key[1])
    candidates = _select(_candidates(kept, groups, counts, options), options, report, misread)
    if not candidates:
        raise ValueError(
            f"no tag of kinds {sorted(options.kinds)} is named by {options.min_count} captions ({len(counts)} "
            "different tags were read); lower labels.min_count or give more captions"
        )
    labels = []
    for place, one in enumerate(candidates):
        name, kind = one.name
        labels.append(
            Label(
                id=place,
                name=name,
                kind=kind,
                count=one.count,
                synonyms=tuple(sorted({other for other, _ in one.names if other != name})),
                read_as=tuple(sorted(misread.get(one.name, ()))),
            )
        )
        report.add_label(one.name, sources=one.sources, counts=kept, reasons=groups.reasons(one.name))
    system = LabelSystem(labels)
    report.version = system.version
    report.finish()
    return system, report


def source_totals(counts: Counts) -> dict[str, int]:
    """Mentions of tags in each source."""
    totals: dict[str, int] = defaultdict(int)
    for sources in counts.values():
        for source, count in sources.items():
            totals[source] += count
    return dict(sorted(totals.items()))


def _admit(counts: Counts, options: BuildOptions, report: BuildReport) -> dict[Key, dict[str, int]]:
    """The counts that may become labels: kinds, stop list, the user's `kind` and `drop`."""
    edits = options.edits
    kinds = {key: kind for name, kind in edits.kind.items() for key in keys_of(name) if key in counts}
    dropped = {key for name in edits.drop for key in keys_of(name)}
    stopped = {key for name in options.stop for key in keys_of(name)}
    seen = {name for key in counts for name in (key[0], f"{key[1]}:{key[0]}")}
    report.notes += [f"edit without effect: drop {name}" for name in edits.drop if name not in seen]
    report.notes += [f"edit without effect: kind {name}" for name in edits.kind if name not in seen]
    kept: dict[Key, dict[str, int]] = {}
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
        else:
            sources = kept.setdefault((name, kind), {})
            for source, count in counts[key].items():
                sources[source] = sources.get(source, 0) + int(count)
    for name in edits.add:
        for key in keys_of(name):
            kept.setdefault(key, {})
    return kept


def merge_names(kept: Mapping[Key, Mapping[str, int]], options: BuildOptions, report: BuildReport) -> Groups:
    """The names that mean one label, by all that the options give.

    Args:
        kept: name and kind -> source -> captions.
        options: edits, synonyms, dictionary forms, senses and vectors.
        report: gets notes of edits without effect.
    """
    totals = {key: sum(sources.values()) for key, sources in kept.items()}
    edits = options.edits
    by_hand = [[key for name in pair for key in keys_of(name)] for pair in edits.apart]
    groups = Groups(apart_pairs([*by_hand, *options.synonyms.apart, *options.shipped.apart]))
    idle = merge_edits(groups, edits.merge, totals)
    report.notes += [f"edit without effect: {what}" for what in idle]
    merge_groups(groups, options.synonyms, totals, "file")
    merge_spellings(groups, totals, [options.synonyms, options.shipped])
    merge_groups(groups, options.shipped, totals, "table")
    merge_inflections(groups, totals, options.lemma)
    if options.senses:
        merge_senses(groups, totals, options.senses)
    if options.vectors:
        merge_similar(groups, totals, options.vectors, similarity=options.similarity)
    return groups


def _candidates(
    kept: Mapping[Key, Mapping[str, int]], groups: Groups, counts: Counts, options: BuildOptions
) -> list[_Candidate]:
    totals = source_totals(counts)
    added = {key for name in options.edits.add for key in keys_of(name)}
    first = {key for name in options.edits.merge for key in keys_of(name)} | added
    done: set[Key] = set()
    candidates = []
    for key in sorted(kept):
        if key in done:
            continue
        names = sorted(groups.members(key), key=lambda one: (-sum(kept.get(one, {}).values()), one))
        done.update(names)
        sources: dict[str, int] = defaultdict(int)
        for name in names:
            for source, count in kept.get(name, {}).items():
                sources[source] += count
        leader = next((name for name in names if name in first), names[0])
        score = sum(sources.values()) * spread(sources, totals) ** options.spread
        candidates.append(_Candidate(leader, names, dict(sorted(sources.items())), score, bool(added & set(names))))
    return [_renamed(one, options.edits) for one in candidates]


def _renamed(one: _Candidate, edits: Edits) -> _Candidate:
    for old, new in edits.rename.items():
        kind, name = split_kind(old)
        if one.name[0] == name and kind in (None, one.name[1]):
            one.name = (new, one.name[1])
            one.names = [one.name, *(other for other in one.names if other != one.name)]
            break
    return one


def spread(sources: Mapping[str, int], totals: Mapping[str, int]) -> float:
    """Effective number of sources that name a label over the number of sources: 1 if all name it as often.

    Args:
        sources: captions of each source that name it.
        totals: mentions of tags in each source; the rates are shares of these.
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
    """The labels, best first; all others go into the report, and into `misread` under the label that was meant."""
    ordered = sorted(candidates, key=lambda one: (not one.added, -round(one.score, 6), one.name[1], one.name[0]))
    most: dict[str, _Candidate] = {}  # the kind that a name mostly means
    for one in ordered:
        if one.name[0] not in most or one.count > most[one.name[0]].count:
            most[one.name[0]] = one
    chosen: list[_Candidate] = []
    names: set[Key] = set()
    for one in ordered:
        reason: Dropped | None = None
        if one.name in names:
            reason = "edit"  # renamed to a label that there is
        elif not one.added:
            if one.count < options.min_share * most[one.name[0]].count:
                reason = "misread"
                misread[most[one.name[0]].name].add(one.name[1])
            elif one.count < options.min_count:
                reason = "rare"
            elif sum(count > 0 for count in one.sources.values()) < options.min_sources:
                reason = "few sources"
            elif len(chosen) >= options.max_labels:
                reason = "over max_labels"
        if reason:
            report.drop(one.name, one.count, reason)
        else:
            chosen.append(one)
            names.add(one.name)
    return sorted(chosen, key=lambda one: (-round(one.score, 6), one.name[1], one.name[0]))
