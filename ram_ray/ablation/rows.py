"""The rows of an ablation over seeds: mean, standard deviation and gain of each figure, as JSON, text and Markdown.

What a seed measured is a mapping of row -> figure -> number. The gain of a row is its difference to its base within a
seed, because seeds differ in their data and first weights. The base is the row before it; an alternative, a row that no
other row builds on, is compared with the base of the row before it. A gain has the p of a paired t-test over the seeds.
A figure that a seed did not measure is not in its mean. A single seed has neither standard deviation nor p.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import TypedDict

from ram_ray.records import Json

FIGURES = {  # column -> its title, and digits
    "tags": ("tags", 0),
    "labels": ("labels", 0),
    "precision": ("precision", 3),
    "recall": ("recall", 3),
    "added_precision": ("precision of added", 3),
    "recovered": ("unmentioned recovered", 3),
    "mentioned_false_removed": ("false mentions removed", 3),
    "true_removed": ("true removed", 3),
    "weights": ("weights of the head", 0),
    "steps": ("steps", 0),
    "images_seen": ("images seen", 0),
    "linear": ("mAP, linear probe", 4),
    "knn": ("mAP, k-NN", 4),
    "mAP": ("mAP", 4),
}


class SeedStatistics(TypedDict):
    """Mean and sample standard deviation over seeds."""

    mean: float
    sd: float | None  # None: a single seed
    values: dict[str, float]  # by seed


# Of ablation.json: "row" is its name, "p" that of its gain, "gain" and each figure a `SeedStatistics` or None.
Row = Json
Measured = Mapping[str, Mapping[str, float | None]]  # row -> figure -> number


def build_rows(
    names: Sequence[str],
    seeds: Mapping[int, Measured],
    *,
    alternatives: Collection[str] = (),
    base: str | None = None,
    measure: str = "mAP",
) -> list[Row]:
    """Summarise each row that any seed measured.

    Args:
        names: of the rows, in their order.
        seeds: what was measured, by seed, then by row.
        alternatives: rows that replace the row before them, and that the row after them does not build on.
        base: the row that all others are compared with; None: the row before each.
        measure: the figure that is compared.

    Returns:
        A dict a row: "row", each figure with mean, sd and values, the gain in `measure`, and its "p" (`p_of_gain`).
    """
    rows: list[Row] = []
    earlier: str | None = None  # the base of an alternative
    previous: str | None = None
    for name in names:
        measured = {seed: by_row[name] for seed, by_row in seeds.items() if name in by_row}
        if not measured:
            continue
        others = sorted({figure for figures in measured.values() for figure in figures} - FIGURES.keys())
        row: Row = {"row": name}
        for figure in [*FIGURES, *others]:  # the others are not in the tables
            if summary := seed_statistics({seed: figures.get(figure) for seed, figures in measured.items()}):
                row[figure] = summary
        compared = earlier if name in alternatives else previous
        if base is not None:
            compared = None if name == base else base
        if compared is not None:
            gains = {
                seed: _difference(figures.get(measure), seeds[seed].get(compared, {}).get(measure))
                for seed, figures in measured.items()
            }
            row["gain"], row["p"] = seed_statistics(gains), p_of_gain(list(gains.values()))
        rows.append(row)
        if name not in alternatives:
            earlier, previous = previous, name
    return rows


def seed_statistics(values: Mapping[int, float | None]) -> SeedStatistics | None:
    """Mean and sample standard deviation over seeds.

    Args:
        values: by seed; None: not measured.

    Returns:
        A dict of mean, sd (None for a single seed) and values; None if no seed measured anything.
    """
    known = {seed: value for seed, value in values.items() if value is not None}
    if not known:
        return None
    numbers = list(known.values())
    return {
        "mean": statistics.fmean(numbers),
        "sd": statistics.stdev(numbers) if len(numbers) > 1 else None,
        "values": {str(seed): value for seed, value in known.items()},
    }


def p_of_gain(gains: Sequence[float | None]) -> float | None:
    """The p of a paired t-test over seeds: how likely a mean gain that is as large would be without any.

    Args:
        gains: of each seed; None: not measured.

    Returns:
        Two-sided, 0 to 1; None with fewer than two seeds, or if all gains are the same.
    """
    from scipy.stats import ttest_1samp

    known = [gain for gain in gains if gain is not None]
    if len(set(known)) < 2:
        return None
    return float(ttest_1samp(known, 0.0).pvalue)


def total_gain(rows: Sequence[Row]) -> SeedStatistics | None:
    """The gain in mAP from the first row to the last, seed by seed.

    Args:
        rows: as `build_rows` returns them.

    Returns:
        As `seed_statistics`; None with fewer than two rows that have an mAP.
    """
    scored = [row["mAP"]["values"] for row in rows if row.get("mAP")]
    if len(scored) < 2:
        return None
    return seed_statistics(
        {int(seed): value - scored[0][seed] for seed, value in scored[-1].items() if seed in scored[0]}
    )


def to_text(rows: Sequence[Row]) -> str:
    """Format the table for a terminal.

    Args:
        rows: as `build_rows` returns them.

    Returns:
        Lines of equal width.
    """
    cells = _cells(rows)
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def to_markdown(rows: Sequence[Row]) -> str:
    """Format the table for a README.

    Args:
        rows: as `build_rows` returns them.

    Returns:
        A table in Markdown.
    """
    cells = _cells(rows)
    lines = [f"| {' | '.join(line)} |" for line in cells]
    return "\n".join([lines[0], "|---" * len(cells[0]) + "|", *lines[1:]])


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    used = [figure for figure in FIGURES if any(row.get(figure) for row in rows)]
    tested = any(row.get("p") is not None for row in rows)
    header = ["", *(FIGURES[figure][0] for figure in used), "gain", *(["p"] if tested else [])]
    table = [header]
    for row in rows:
        cells = [_cell(row.get(figure), FIGURES[figure][1]) for figure in used]
        p = "" if row.get("p") is None else f"{row['p']:.2g}"
        gain = _cell(row.get("gain"), FIGURES["mAP"][1], sign="+")
        table.append([row["row"], *cells, gain, *([p] if tested else [])])
    return table


def _cell(summary: SeedStatistics | None, digits: int, *, sign: str = "") -> str:
    if not summary:
        return ""
    mean = f"{summary['mean']:{sign},.{digits}f}"
    return mean if summary["sd"] is None else f"{mean} ± {summary['sd']:,.{digits}f}"


def _difference(value: float | None, other: float | None) -> float | None:
    return value - other if value is not None and other is not None else None
