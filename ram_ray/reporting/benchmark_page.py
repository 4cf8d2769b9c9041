"""The page of a benchmark: a table for each set, quoted figures beside, and the AP of each class of each system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ram_ray.evaluation.benchmark import format_figure
from ram_ray.evaluation.benchmark_report import describe, system_notes, table_rows
from ram_ray.records import Json
from ram_ray.reporting.rendering import render

COLUMNS = (
    "system",
    "classes",
    "mAP",
    "mAP, common classes",
    "precision",
    "recall",
    "F1",
    "mAP against the first",
)


@dataclass(frozen=True)
class ClassRow:
    """A class and the figures of each system on it."""

    name: str
    num_positives: int
    cells: Sequence[str]  # of each system: AP with its interval, or why there is none
    sort: float


@dataclass(frozen=True)
class SetPart:
    """What the page shows of a set."""

    name: str
    description: Sequence[str]
    rows: Sequence[tuple[Sequence[str], bool]]  # cells, and whether they are quoted
    notes: Sequence[str]
    systems: Sequence[str]
    classes: Sequence[ClassRow]  # the worst of the first system first
    links: Mapping[str, str]  # system -> its pages of classes


@dataclass(frozen=True)
class Page:
    """What the template fills in."""

    settings: Json
    quoted_from: str
    columns: Sequence[str]
    sets: Sequence[SetPart]


def benchmark_page(tree: Json, links: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """Make the page.

    Args:
        tree: as of `benchmark_report.build_tree`.
        links: set -> system -> its pages of classes, from the page's folder; None: there are none.

    Returns:
        HTML.
    """
    parts = [_part(name, part, (links or {}).get(name, {})) for name, part in tree["sets"].items()]
    return render("benchmark.html.j2", Page(tree["settings"], tree["quoted_from"], COLUMNS, parts))


def _part(name: str, part: Json, links: Mapping[str, str]) -> SetPart:
    notes = [f"{system}: {note}" for system, row in part["systems"].items() for note in system_notes(row)]
    notes += [f"{system}: not scored, {why}" for system, why in part["skipped"].items()]
    rows = [([cell.replace(" *quoted*", "") for cell in cells], "*quoted*" in cells[0]) for cells in table_rows(part)]
    lines: dict[str, dict[str, Json]] = {}
    for system, row in part["systems"].items():
        for line in row["per_class"]:
            lines.setdefault(line["class"], {})[system] = line
    first = next(iter(part["systems"]))
    classes = []
    for class_name, of_systems in lines.items():
        cells = []
        for system, row in part["systems"].items():
            figure = of_systems.get(system)
            how = row["by_class"].get(class_name)
            cells.append("not supported" if figure is None else f"{format_figure(figure['ap'])} {_how(how)}".strip())
        ap = of_systems[first]["ap"]["value"] if first in of_systems else None
        positives = max(figure["num_positives"] for figure in of_systems.values())
        classes.append(ClassRow(class_name, positives, cells, 2.0 if ap is None else ap))
    classes.sort(key=lambda row: row.sort)
    return SetPart(name, describe(part), rows, notes, list(part["systems"]), classes, links)


def _how(matched_by: str | None) -> str:
    return "" if matched_by in (None, "name") else f"({matched_by})"
