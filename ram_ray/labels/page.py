"""Writes the HTML page of a label system: labels by kind and frequency, examples, merges, and dropped names.

The page is a single file without external resources. Its script renders the labels from JSON in the page, a part at a
time, because thousands of rows make a browser slow. Without a script the page still has the tables of merges and
dropped names. The markup is in `templates/page.html.j2`, with autoescape on.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TypedDict

from jinja2 import Environment
from markupsafe import Markup

from ram_ray.label_system import LabelSystem
from ram_ray.labels.report import DROP_REASONS, MERGE_REASONS, BuildReport
from ram_ray.records import KINDS
from ram_ray.runtime.templates import make_environment

MAX_MERGES = 200  # rows of the table of merges
MAX_NAMES = 140  # characters of the names of a kind


@dataclass(frozen=True)
class Card:
    """A number at the top of the page."""

    name: str
    value: int
    note: str


@dataclass(frozen=True)
class KindRow:
    """A kind, its number of labels and the names of the most frequent ones."""

    kind: str
    num_labels: int
    names: str


@dataclass(frozen=True)
class Merge:
    """A name that became a synonym of a label, by its similarity to `other`, a name of the same label."""

    name: str
    count: int
    other: str
    label: str
    kind: str
    reason: str


@dataclass(frozen=True)
class DroppedName:
    """A name that became neither label nor synonym."""

    name: str
    kind: str
    count: int
    detail: str  # what the reason refers to, or ""


@dataclass(frozen=True)
class Drops:
    """The names that were dropped for a reason."""

    reason: str
    num_names: int
    listed: Sequence[DroppedName]


class LabelRow(TypedDict):
    """A label in the JSON that the page's script reads."""

    name: str
    kind: str
    count: int
    synonyms: Sequence[str]
    sources: Mapping[str, int]
    examples: Sequence[str]
    words: Mapping[str, Sequence[int]]
    ambiguous: Sequence[str]


@dataclass(frozen=True)
class Page:
    """What the template page.html.j2 shows."""

    title: str
    cards: Sequence[Card]
    kinds: Sequence[KindRow]
    max_labels: int  # of a kind
    has_merges: bool
    merge_totals: str
    merges: Sequence[Merge]  # most frequent first
    drops: Sequence[Drops]  # most names first
    notes: Sequence[str]
    labels: Sequence[LabelRow]
    max_merges: int = MAX_MERGES


def to_html(system: LabelSystem, report: BuildReport | None, *, title: str) -> str:
    """Write the page of a label system.

    Args:
        system: the label system.
        report: of its build; None: the page has the labels only.
        title: of the page.

    Returns:
        HTML without external resources.
    """
    report = report or BuildReport(labels=[{} for _ in system.labels])
    kinds = _kinds(system)
    page = Page(
        title=title,
        cards=_cards(system, report),
        kinds=kinds,
        max_labels=max((row.num_labels for row in kinds), default=0) or 1,
        has_merges=bool(report.merges),
        merge_totals=", ".join(
            f"{count:,} by {MERGE_REASONS[reason]}" for reason, count in report.merges.most_common()
        ),
        merges=_merges(report),
        drops=_drops(report),
        notes=report.notes,
        labels=_labels(system, report),
    )
    return _environment().get_template("page.html.j2").render(page=page)


def _environment() -> Environment:
    environment = make_environment("ram_ray.labels")
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.globals["file"] = _file
    # `tojson` writes "<" as \u003c, so that no text ends the script element; here keys stay in their order
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    return environment


def _file(name: str) -> Markup:
    """A style sheet or script of `templates/`, which the page holds as it is."""
    return Markup((resources.files("ram_ray.labels") / "templates" / name).read_text(encoding="utf-8"))


def _cards(system: LabelSystem, report: BuildReport) -> list[Card]:
    captions = sum(report.captions.values())
    cards = [
        Card("labels", len(system), "version " + system.version),
        Card("names counted", report.num_names, "different names and kinds"),
        Card("merged", sum(report.merges.values()), "names that became synonyms"),
        Card("dropped", sum(report.num_dropped.values()), "names that are neither label nor synonym"),
        Card("captions", captions, _sources(report)),
    ]
    if not report.num_names:
        return cards[:1]
    return cards if captions else cards[:-1]


def _sources(report: BuildReport) -> str:
    names = [f"{name} {count:,}" for name, count in report.captions.items()]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more sources" if len(names) > 4 else "")


def _kinds(system: LabelSystem) -> list[KindRow]:
    counts = Counter(label.kind for label in system.labels)
    rows = []
    for kind in KINDS:
        names = ", ".join(label.name for label in system.labels if label.kind == kind)
        names = names[:MAX_NAMES].rpartition(", ")[0] + ", …" if len(names) > MAX_NAMES else names
        rows.append(KindRow(kind, counts[kind], names))
    return rows


def _merges(report: BuildReport) -> list[Merge]:
    merges = [
        Merge(merge["name"], merge["count"], merge["with"], label["name"], label["kind"], MERGE_REASONS[merge["how"]])
        for label in report.labels
        for merge in label.get("merged", ())
        if merge["count"]  # the others are synonyms that no caption contains
    ]
    return sorted(merges, key=lambda merge: (-merge.count, merge.name, merge.kind))


def _drops(report: BuildReport) -> list[Drops]:
    listed: dict[str, list[DroppedName]] = defaultdict(list)
    for row in report.dropped:
        listed[row["reason"]].append(DroppedName(row["name"], row["kind"], row["count"], row.get("detail", "")))
    drops = [Drops(DROP_REASONS[reason], count, listed[reason]) for reason, count in report.num_dropped.items()]
    return sorted(drops, key=lambda drop: -drop.num_names)


def _labels(system: LabelSystem, report: BuildReport) -> list[LabelRow]:
    return [
        {
            "name": label.name,
            "kind": label.kind,
            "count": label.count,
            "synonyms": label.synonyms,
            "sources": row.get("sources", {}),
            "examples": row.get("examples", []),
            "words": row.get("words", {}),
            "ambiguous": label.ambiguous,
        }
        for label, row in zip(system.labels, report.labels, strict=True)
    ]
