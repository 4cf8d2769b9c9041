"""The rows of an ablation over seeds: mean, spread and gain of each figure, as JSON, text and Markdown.

What a seed measured is a mapping of row -> figure -> number. Spread is the sample's standard deviation, and the gain of
a row is over the row before it, seed by seed: seeds differ in their data and their start, and a difference within a
seed is free of that. A figure that a seed did not measure is left out of its mean; one seed has no spread.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

FIGURES = {  # column -> its title, and digits
    "tags": ("tags", 0),
    "labels": ("labels", 0),
    "precision": ("precision", 3),
    "recall": ("recall", 3),
    "added_precision": ("precision of added", 3),
    "recovered": ("unsaid recovered", 3),
    "said_false_removed": ("false mentions removed", 3),
    "true_removed": ("true removed", 3),
    "steps": ("steps", 0),
    "mAP": ("mAP", 4),
}

Measured = Mapping[str, Mapping[str, float | None]]  # row -> figure -> number


def build_rows(names: Sequence[str], seeds: Mapping[int, Measured]) -> list[dict[str, Any]]:
    """One entry a row that any seed measured: its figures, each with mean, sd and values, and the gain in mAP.

    Args:
        names: of the rows, in their order.
        seeds: what was measured, by seed, then by row.
    """
    rows: list[dict[str, Any]] = []
    before: str | None = None
    for name in names:
        measured = {seed: found[name] for seed, found in seeds.items() if name in found}
        if not measured:
            continue
        others = sorted({one for found in measured.values() for one in found} - FIGURES.keys())  # not in the tables
        figures = {
            one: spread({seed: found.get(one) for seed, found in measured.items()}) for one in [*FIGURES, *others]
        }
        row: dict[str, Any] = {"row": name, **{one: found for one, found in figures.items() if found}}
        if before is not None:
            gains = {seed: _difference(found.get("mAP"), seeds[seed].get(before, {}).get("mAP"))
                     for seed, found in measured.items()}  # fmt: skip
            row["gain"] = spread(gains)
        rows.append(row)
        before = name
    return rows


def spread(values: Mapping[int, float | None]) -> dict[str, Any] | None:
    """Mean and sample standard deviation over seeds, with the values; None where no seed measured anything."""
    known = {seed: value for seed, value in values.items() if value is not None}
    if not known:
        return None
    numbers = list(known.values())
    return {
        "mean": statistics.fmean(numbers),
        "sd": statistics.stdev(numbers) if len(numbers) > 1 else None,
        "values": {str(seed): value for seed, value in known.items()},
    }


def total_gain(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The gain in mAP from the first row to the last, seed by seed; None with fewer than two rows that have one."""
    scored = [row["mAP"]["values"] for row in rows if row.get("mAP")]
    if len(scored) < 2:
        return None
    return spread({int(seed): value - scored[0][seed] for seed, value in scored[-1].items() if seed in scored[0]})


def to_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table for a terminal."""
    cells = _cells(rows)
    widths = [max(len(line[place]) for line in cells) for place in range(len(cells[0]))]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table for a README."""
    cells = _cells(rows)
    lines = [f"| {' | '.join(line)} |" for line in cells]
    return "\n".join([lines[0], "|---" * len(cells[0]) + "|", *lines[1:]])


def _cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    used = [one for one in FIGURES if any(row.get(one) for row in rows)]
    header = ["", *(FIGURES[one][0] for one in used), "gain"]
    table = [header]
    for row in rows:
        cells = [_cell(row.get(one), FIGURES[one][1]) for one in used]
        table.append([row["row"], *cells, _cell(row.get("gain"), FIGURES["mAP"][1], sign="+")])
    return table


def _cell(found: Mapping[str, Any] | None, digits: int, *, sign: str = "") -> str:
    if not found:
        return ""
    mean = f"{found['mean']:{sign},.{digits}f}"
    return mean if found["sd"] is None else f"{mean} ± {found['sd']:,.{digits}f}"


def _difference(value: float | None, other: float | None) -> float | None:
    return value - other if value is not None and other is not None else None
