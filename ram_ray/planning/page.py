"""A plan as a table for the terminal, as Markdown for the docs, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from ram_ray.planning.earlier_run import EarlierRun
from ram_ray.planning.limits import Limit
from ram_ray.planning.plan import Cost, Plan

GIGA, HOUR = 1e9, 3600
COLUMNS: tuple[tuple[str, Callable[[Cost, Plan], str]], ...] = (
    ("stage", lambda cost, plan: cost.stage.name),
    ("rows", lambda cost, plan: _count(cost.stage.rows_in)),
    ("passes", lambda cost, plan: f"{cost.stage.passes:.3g}"),
    ("tasks", lambda cost, plan: _count(cost.stage.tasks)),
    ("files", lambda cost, plan: _count(cost.stage.files)),
    ("work files", lambda cost, plan: _count(cost.stage.work_files)),
    ("GET", lambda cost, plan: _count(cost.stage.requests.get)),
    ("PUT", lambda cost, plan: _count(cost.stage.requests.put)),
    ("LIST", lambda cost, plan: _count(cost.stage.requests.list)),
    ("store GB", lambda cost, plan: _number(cost.stage.store_bytes / GIGA)),
    ("driver GB", lambda cost, plan: _number(driver_bytes(cost, plan) / GIGA)),
    ("CPU h", lambda cost, plan: _number(cost.stage.cpu_seconds / HOUR)),
    ("GPU h", lambda cost, plan: _number(cost.stage.gpu_seconds / HOUR)),
    ("wall h", lambda cost, plan: _number(cost.wall_seconds / HOUR, 2)),
    ("$", lambda cost, plan: _dollars(cost.dollars)),
    ("slowest", lambda cost, plan: cost.slowest + (" (run)" if cost.origin == "run" else "")),
)


def _dollars(value: float | None) -> str:
    """Empty without a price, and for a stage that never ends."""
    return "" if value is None or not math.isfinite(value) else f"{value:,.0f}"


def driver_bytes(cost: Cost, plan: Plan) -> float:
    """Memory of the driver in a stage, with what references to objects cost."""
    return cost.stage.driver_bytes + cost.stage.references * plan.constants["driver_reference"]


def to_text(plan: Plan, limits: Sequence[Limit]) -> str:
    """The plan as a table with its limits below it.

    Args:
        plan: of a run.
        limits: that it passes.

    Returns:
        Lines.
    """
    rows = [[show(cost, plan) for _, show in COLUMNS] for cost in plan.costs]
    titles = [title for title, _ in COLUMNS]
    widths = [max(len(row[index]) for row in [titles, *rows]) for index in range(len(titles))]
    lines = [_line(titles, widths), *(_line(row, widths) for row in rows), "", *summary(plan)]
    return "\n".join([*lines, *(f"limit: {limit.line}" for limit in limits if not limit.ends)])


def to_markdown(plan: Plan) -> str:
    """The plan as a table for the docs.

    Args:
        plan: of a run.

    Returns:
        Lines of Markdown.
    """
    titles = [title for title, _ in COLUMNS]
    lines = [titles, ["---"] * len(titles), *([show(cost, plan) for _, show in COLUMNS] for cost in plan.costs)]
    table = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([*table, "", *(f"{line}" for line in summary(plan))])


def summary(plan: Plan) -> list[str]:
    """The sums of a plan, and how many of its constants are measured.

    Args:
        plan: of a run.

    Returns:
        Lines.
    """
    origins = [plan.constants.origins[name] for name in sorted(plan.constants.used)]
    measured = sum(origin.kind == "measured" for origin in origins)
    dollars = f"${_dollars(plan.dollars)}" if _dollars(plan.dollars) else "no price"
    machines = ", ".join(f"{machine.count} x {machine.kind}" for machine in plan.cluster.machines)
    prices = sorted({machine.price_origin for machine in plan.cluster.machines if machine.price})
    return [
        f"{plan.workload.images:,} images in {plan.workload.shards:,} shards on {machines}: "
        f"{_hours(plan.wall_seconds)}, {plan.total('cpu_seconds') / HOUR:,.0f} CPU hours, "
        f"{plan.total('gpu_seconds') / HOUR:,.0f} GPU hours, {dollars}, "
        f"{_count(plan.total('files') + plan.total('work_files'))} files, "
        f"{_count(sum(sum(cost.stage.requests) for cost in plan.costs))} requests, "
        f"{plan.passes_over_all:.0f} passes over all rows.",
        f"Of {len(origins)} constants {measured} are measured and {len(origins) - measured} are estimates "
        "(--json names them).",
        *(f"Prices: {text}." for text in prices),
    ]


def to_json(plan: Plan, limits: Sequence[Limit]) -> dict[str, Any]:
    """The plan as a JSON value.

    Args:
        plan: of a run.
        limits: that it passes.

    Returns:
        A dict of `workload`, `machines`, `stages`, `totals`, `limits`, `first_limit` and `constants`.
    """
    stages = []
    for cost in plan.costs:
        fields = asdict(cost.stage)
        fields["requests"] = cost.stage.requests._asdict()
        fields |= {"driver_bytes": driver_bytes(cost, plan), "wall_seconds": _finite(cost.wall_seconds)}
        stages.append({**fields, "dollars": _finite(cost.dollars), "slowest": cost.slowest, "origin": cost.origin})
    used = {name: plan.constants.origins[name].to_dict() for name in sorted(plan.constants.used)}
    found = [{**asdict(limit), "line": limit.line} for limit in limits]
    return {
        "workload": asdict(plan.workload),
        "machines": [asdict(machine) for machine in plan.cluster.machines],
        "stages": stages,
        "totals": {
            "wall_seconds": _finite(plan.wall_seconds),
            "dollars": _finite(plan.dollars),
            "passes": plan.passes_over_all,
            **{name: plan.total(name) for name in ("cpu_seconds", "gpu_seconds", "files", "work_files", "tasks")},
        },
        "can_end": not any(limit.ends for limit in limits),
        "first_limit": next((limit["line"] for limit in found), None),
        "limits": found,
        "constants": used,
    }


def compare(plan: Plan, run: EarlierRun) -> list[dict[str, Any]]:
    """A plan beside what a run left.

    Args:
        plan: of the run, as `earlier_run.plan_run` makes it.
        run: the run.

    Returns:
        A row for each stage that both have: rows, files and seconds, planned and measured; None: the manifest has none.
    """
    rows = []
    for cost in plan.costs:
        figures = run.stages.get(cost.stage.name)
        if figures is None:
            continue
        rows.append(
            {
                "stage": cost.stage.name,
                "rows_planned": cost.stage.rows_out if cost.stage.fewest_rows else cost.stage.rows_in,  # of a training
                "rows": figures.rows_in,
                "files_planned": round(cost.stage.files),
                "files": figures.files,
                "seconds_planned": round(cost.wall_seconds, 1),
                "seconds": round(figures.seconds, 1),
            }
        )
    return rows


def comparison_text(rows: Sequence[dict[str, Any]]) -> str:
    """A comparison as a table.

    Args:
        rows: as of `compare`.

    Returns:
        Lines; the last has the sums of the seconds.
    """
    titles = ["stage", "rows planned", "rows", "files planned", "files", "s planned", "s", "planned / s"]
    lines = []
    for row in rows:
        ratio = row["seconds_planned"] / row["seconds"] if row["seconds"] else math.nan
        counts = [row[name] for name in ("rows_planned", "rows", "files_planned", "files")]
        seconds = [f"{row['seconds_planned']:,.1f}", f"{row['seconds']:,.1f}"]
        shown = ["" if count is None else f"{count:,}" for count in counts]
        lines.append([row["stage"], *shown, *seconds, "" if math.isnan(ratio) else f"{ratio:.2f}"])
    planned, made = (sum(row[name] for row in rows) for name in ("seconds_planned", "seconds"))
    ratio = f"{planned / made:.2f}" if made else ""
    lines.append(["all", "", "", "", "", f"{planned:,.1f}", f"{made:,.1f}", ratio])
    widths = [max(len(line[index]) for line in [titles, *lines]) for index in range(len(titles))]
    return "\n".join(_line(line, widths) for line in [titles, *lines])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = zip(cells, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]).rstrip()


def _count(value: float) -> str:
    return f"{value:,.0f}" if value < 1e8 else f"{value / 1e6:,.0f}M"


def _number(value: float, digits: int = 1) -> str:
    return f"{value:,.{digits}f}" if math.isfinite(value) else "never"


def _hours(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "it never ends"
    return f"{seconds / HOUR:,.1f} hours" if seconds >= HOUR else f"{seconds / 60:,.1f} minutes"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
