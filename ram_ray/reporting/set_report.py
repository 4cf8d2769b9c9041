"""Models on evaluation sets: a line for the log, evaluation/sets.json and sets.md, and rows for the page of the run.

Each set is reported by itself. Its classes with their figures are in the summary.json that `sets.json` names.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from ram_ray.evaluation.benchmark import format_figure
from ram_ray.evaluation.benchmark_report import format_difference
from ram_ray.evaluation_results import SetFigures, SetScore
from ram_ray.records import Json
from ram_ray.runtime.artifacts import write_text

COLUMNS = ("model", "queries", "images", "classes", "mAP", "chance", "precision", "recall", "F1", "answered by")


@dataclass(frozen=True)
class SetTable:
    """What the page shows of a set."""

    name: str
    rows: Sequence[Sequence[str]]  # cells of `COLUMNS`
    notes: Sequence[str]


def describe_score(score: SetScore) -> str:
    """Describe a model on a set in a line.

    Args:
        score: its figures.

    Returns:
        Name of the set and the model, mAP with its interval, and chance; percent.
    """
    parts = [
        f"mAP {_map(figures)}{'' if len(score.figures) == 1 else f' by {queries}'}"
        for queries, figures in score.figures.items()
    ]
    first = next(iter(score.figures.values()))
    parts += [f"chance {_percent(first.mean_prevalence)}", f"{first.num_classes} classes ({_answered(first)})"]
    return f"{score.set_name}, {score.model_stage}: {', '.join(parts)}"


def set_tables(scores: Sequence[SetScore]) -> list[SetTable]:
    """Make the table of each set.

    Args:
        scores: in the order in which models were scored.

    Returns:
        A table for each set.
    """
    names = list(dict.fromkeys(score.set_name for score in scores))
    return [_table(name, [score for score in scores if score.set_name == name]) for name in names]


def write_sets(folder: str, scores: Sequence[SetScore]) -> None:
    """Write sets.json and sets.md.

    Args:
        folder: path or URI.
        scores: of all models on all sets.
    """
    write_text(f"{folder}/sets.json", json.dumps(sets_tree(scores), indent=1) + "\n")
    write_text(f"{folder}/sets.md", to_markdown(set_tables(scores)))


def sets_tree(scores: Sequence[SetScore]) -> Json:
    """The figures by set and model, for JSON.

    Args:
        scores: of all models on all sets.

    Returns:
        Set -> stage of the model -> its figures, the difference of descriptions from templates, and its summary.json.
    """
    tree: Json = {}
    for score in scores:
        figures = {queries: row.model_dump(mode="json") for queries, row in score.figures.items()}
        tree.setdefault(score.set_name, {})[score.model_stage] = {
            "images": score.images,
            "figures": figures,
            "difference": score.difference,
            "summary": score.summary,
        }
    return tree


def to_markdown(tables: Sequence[SetTable]) -> str:
    """Write the tables as Markdown.

    Args:
        tables: of the sets.

    Returns:
        Markdown.
    """
    lines = [
        "# Evaluation sets",
        "",
        "In percent, mAP with its interval of 95% by a bootstrap over images. Chance is the mAP of random scores.",
    ]
    for table in tables:
        lines += ["", f"## {table.name}", "", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in table.rows]
        lines += ["", *(f"- {note}" for note in table.notes)] if table.notes else []
    return "\n".join(lines) + "\n"


def _table(name: str, scores: Sequence[SetScore]) -> SetTable:
    rows = []
    for score in scores:
        for queries, figures in score.figures.items():
            counts = (f"{score.images:,}", f"{figures.num_classes:,}")
            rates = [_percent(rate) for rate in (figures.precision, figures.recall, figures.f1)]
            cells = [score.model_stage, queries, *counts, _map(figures), _percent(figures.mean_prevalence)]
            rows.append([*cells, *rates, _answered(figures)])
    notes = [
        f"{score.model_stage}: mAP by descriptions against templates {format_difference(score.difference)}"
        for score in scores
        if score.difference
    ]
    return SetTable(name, rows, notes)


def _map(figures: SetFigures) -> str:
    return format_figure({"value": figures.mAP, "interval": figures.interval})


def _percent(value: float | None) -> str:
    return format_figure({"value": value, "interval": None})


def _answered(figures: SetFigures) -> str:
    parts = [f"{count} {kind}" for kind, count in figures.matched_by.items()]
    return ", ".join([*parts, *([f"{figures.unsupported} not supported"] if figures.unsupported else [])])
