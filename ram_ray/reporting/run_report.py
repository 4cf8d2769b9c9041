"""The results of a run: a table for the terminal, report.json for programs, report.html for a browser.

The page is one file with its own style and drawings: it opens from a bucket and from a mail. report.json has the keys
of the evaluation's `summarise` and the list of stages. A value that a stage did not measure is null in the JSON and
"–" in the table and on the page, never 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict, cast

from ram_ray.evaluation_results import SetScore
from ram_ray.records import Json
from ram_ray.reporting.line_chart import LineChart
from ram_ray.reporting.loss_curves import LossCurves, to_chart
from ram_ray.reporting.rendering import number, render
from ram_ray.reporting.set_report import COLUMNS as SET_COLUMNS
from ram_ray.reporting.set_report import SetTable, set_tables, sets_tree
from ram_ray.reporting.stage_cost import UseRow, use_row
from ram_ray.runtime.artifacts import write_text
from ram_ray.runtime.usage import Used


class StageRow(UseRow):
    """A stage in report.json."""

    stage: str
    images: int | None
    tags: int | None
    seconds: float | None
    precision: float | None
    recall: float | None
    mAP: float | None
    rejected: int | None
    reused: bool
    tags_per_image: float | None
    images_per_second: float | None


class TagRow(TypedDict):
    """A tag in report.json, as `metrics.summarise` writes it."""

    id: int
    tag: str
    kind: str
    num_positives: int
    prevalence: float
    ap: float | None
    precision: float
    recall: float
    threshold: float
    predicted: int
    correct: int
    counted: bool


class Report(TypedDict, total=False):
    """report.json; a run without evaluation has the last six keys alone."""

    mAP: float | None
    mean_prevalence: float | None
    num_tags: int
    precision: float | None
    recall: float | None
    micro_precision: float
    micro_recall: float
    per_tag: list[TagRow]
    run: str
    evaluated: str
    images: int
    stages: list[StageRow]
    duplicates: dict[str, int]  # what was found in the data -> rows
    sets: Json  # as of `set_report.sets_tree`


@dataclass(frozen=True)
class StageLine:
    """One stage in the closing table and in the report; None: not measured."""

    stage: str
    images: int | None = None
    tags: int | None = None
    seconds: float | None = None
    precision: float | None = None  # of the stage's tags against the truth
    recall: float | None = None
    mAP: float | None = None  # noqa: N815 (the usual name), of the stage's model
    rejected: int | None = None
    reused: bool = False  # done by an earlier run
    used: Used | None = None  # of the cluster
    cost: float | None = None  # where there is a price

    @property
    def tags_per_image(self) -> float | None:
        """Mean number of tags."""
        return self.tags / self.images if self.tags is not None and self.images else None

    @property
    def images_per_second(self) -> float | None:
        """Throughput of the whole stage, start-up included."""
        return self.images / self.seconds if self.images is not None and self.seconds else None

    def to_dict(self) -> StageRow:
        """The stage as in report.json: the fields, the two rates, and what it used."""
        return {
            "stage": self.stage,
            "images": self.images,
            "tags": self.tags,
            "seconds": self.seconds,
            "precision": self.precision,
            "recall": self.recall,
            "mAP": self.mAP,
            "rejected": self.rejected,
            "reused": self.reused,
            "tags_per_image": self.tags_per_image,
            "images_per_second": self.images_per_second,
            **use_row(self.used, self.cost),
        }


@dataclass(frozen=True)
class Card:
    """A number at the top of the page."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class StageCells:
    """A line of the page's table of stages."""

    stage: str
    reused: bool
    cells: Sequence[str]


@dataclass(frozen=True)
class Bars:
    """Horizontal bars, a group for each stage, on an axis from 0 to 1."""

    title: str
    series: Sequence[tuple[str, str]]  # name and colour
    groups: Sequence[tuple[str, Sequence[float]]]  # stage, and a value for each of the series


@dataclass(frozen=True)
class Page:
    """What the template run_report.html.j2 shows."""

    run: str
    subtitle: str
    cards: Sequence[Card]
    columns: Sequence[str]  # titles of the cells of `stages`
    stages: Sequence[StageCells]
    bars: Sequence[Bars]
    duplicates: Sequence[tuple[str, int]]  # what was found in the data, and rows
    set_columns: Sequence[str]
    sets: Sequence[SetTable]
    losses: Sequence[LineChart]
    tags: Sequence[TagRow]  # best first, then those that are too rare to be averaged
    num_missing: int  # tags that no image has
    num_rare: int
    class_pages: Sequence[tuple[str, str]]  # what each is about, and a link to it


def build_report(
    summary: Mapping[str, object],
    stages: Sequence[StageLine],
    *,
    run: str = "",
    evaluated: str = "",
    images: int = 0,
    duplicates: Sequence[tuple[str, int]] = (),
    scores: Sequence[SetScore] = (),
) -> Report:
    """Join the evaluation's summary and the stages.

    Args:
        summary: as returned by `metrics.summarise`; empty: nothing was evaluated.
        stages: lines of the table of stages.
        run: the run's name.
        evaluated: model and data set, as text.
        images: number of images that were scored.
        duplicates: what was found in the data, and rows.
        scores: of all models on evaluation sets.

    Returns:
        report.json as a dict.
    """
    rows = [stage.to_dict() for stage in stages]
    return cast(
        Report,
        {
            **summary,
            "run": run,
            "evaluated": evaluated,
            "images": images,
            "stages": rows,
            "duplicates": dict(duplicates),
            "sets": sets_tree(scores),
        },
    )


def write_report(
    folder: str,
    report: Report,
    *,
    curves: Sequence[LossCurves] = (),
    scores: Sequence[SetScore] = (),
    class_pages: Sequence[tuple[str, str]] = (),
) -> None:
    """Write report.json and report.html.

    Args:
        folder: path or URI that fsspec can write to.
        report: as returned by `build_report`.
        curves: losses of the training stages, for the page alone.
        scores: of models on evaluation sets, for the page alone.
        class_pages: links to the pages of classes, for the page alone.
    """
    write_text(f"{folder.rstrip('/')}/report.json", json.dumps(_finite(report), indent=1, allow_nan=False) + "\n")
    page = to_html(report, curves=curves, scores=scores, class_pages=class_pages)
    write_text(f"{folder.rstrip('/')}/report.html", page)


def closing_table(stages: Sequence[StageLine]) -> str:
    """The table that is printed at the end of a run.

    Args:
        stages: a line each, in the order of the run.

    Returns:
        Lines of equal width.
    """
    header = ["stage", *_COLUMNS]
    rows = [[stage.stage + (" (reused)" if stage.reused else ""), *_cells(stage.to_dict())] for stage in stages]
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join([cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))])

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([line(header), rule, *(line(row) for row in rows)])


def to_html(
    report: Report,
    *,
    curves: Sequence[LossCurves] = (),
    scores: Sequence[SetScore] = (),
    class_pages: Sequence[tuple[str, str]] = (),
) -> str:
    """The page as HTML.

    Args:
        report: as returned by `build_report`.
        curves: losses of the training stages.
        scores: of models on evaluation sets.
        class_pages: what each page of classes is about, and a link to it.

    Returns:
        A whole document, which loads nothing.
    """
    per_tag, stages = report.get("per_tag", []), report.get("stages", [])
    tags = [row for row in per_tag if row["ap"] is not None]
    columns = _COLUMNS | {name: cell for name, cell in _USE_COLUMNS.items() if any(map(cell[0], stages))}
    images = f"{report['images']:,} images" if report.get("images") else ""
    page = Page(
        run=report.get("run") or "run",
        subtitle=" · ".join(part for part in (report.get("evaluated", ""), images) if part),
        cards=_cards(report),
        columns=list(columns),
        stages=[StageCells(stage["stage"], stage["reused"], _cells(stage, columns)) for stage in stages],
        bars=_bars(stages),
        duplicates=list(report.get("duplicates", {}).items()),
        set_columns=SET_COLUMNS,
        sets=set_tables(scores),
        losses=[to_chart(curve) for curve in curves if curve.lines],
        tags=sorted(tags, key=lambda row: (not row["counted"], -(row["ap"] or 0.0))),
        num_missing=len(per_tag) - len(tags),
        num_rare=sum(not row["counted"] for row in tags),
        class_pages=class_pages,
    )
    return render("run_report.html.j2", page)


# By title: the value and the digits that are shown of it.
_Columns = dict[str, tuple[Callable[[StageRow], float | None], int]]
_COLUMNS: _Columns = {
    "images": (lambda stage: stage["images"], 0),
    "tags": (lambda stage: stage["tags"], 0),
    "tags/image": (lambda stage: stage["tags_per_image"], 2),
    "seconds": (lambda stage: stage["seconds"], 1),
    "images/s": (lambda stage: stage["images_per_second"], 1),
    "precision": (lambda stage: stage["precision"], 3),
    "recall": (lambda stage: stage["recall"], 3),
    "mAP": (lambda stage: stage["mAP"], 3),
}


_USE_COLUMNS: _Columns = {  # of the page alone, where a stage has a value
    "CPU-seconds": (lambda stage: stage["cpu_seconds"], 0),
    "GPU-seconds": (lambda stage: stage["gpu_seconds"], 0),
    "cost": (lambda stage: stage["cost"], 2),
}


def _cells(stage: StageRow, columns: _Columns = _COLUMNS) -> list[str]:
    return [number(value(stage), digits) for value, digits in columns.values()]


def _cards(report: Report) -> list[Card]:
    mean, prevalence = report.get("mAP"), report.get("mean_prevalence")
    times = f"{mean / prevalence:.1f} times chance" if mean is not None and prevalence else "chance is not known"
    return [
        Card("mAP", number(mean, 3), times),
        Card("mean prevalence", number(prevalence, 3), "the mAP of random scores"),
        Card("precision", number(report.get("precision"), 3), "mean over tags, at each tag's threshold"),
        Card("recall", number(report.get("recall"), 3), "mean over tags, at each tag's threshold"),
        Card("tags", number(report.get("num_tags")), f"of {len(report.get('per_tag', []))} in the label system"),
    ]


def _bars(stages: Sequence[StageRow]) -> list[Bars]:
    tags = [
        (stage["stage"], [stage["precision"], stage["recall"]])
        for stage in stages
        if stage["precision"] is not None and stage["recall"] is not None
    ]
    models = [(stage["stage"], [stage["mAP"]]) for stage in stages if stage["mAP"] is not None]
    bars = [
        Bars("What each step did to the tags", [("precision", "var(--a)"), ("recall", "var(--b)")], tags),
        Bars("What each step did to the model", [("mAP", "var(--c)")], models),
    ]
    return [chart for chart in bars if chart.groups]


def _finite(value: object) -> object:
    """The same tree with None for NaN and infinity, which JSON cannot hold."""
    if isinstance(value, Mapping):
        return {name: _finite(child) for name, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
