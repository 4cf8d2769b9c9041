"""Tables of several runs over seeds: the paper's ablations, heads beside ours, and the methods of StableRep.

    5          the data engine, step by step (`engine_steps`)
    4          the parts of the model (`model_parts`)
    heads      ours, ML-Decoder and MKT (`heads`)
    stablerep  what an image encoder learns from captions (`stablerep`)

Every seed is a run folder, and a row is a stage in it, composed of the stages of the pipeline. So rows share stages
with each other and with a plain run in the same folder, and a killed ablation resumes.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import ram_ray
from ram_ray.ablation.engine_steps import PAPERS_RULE, TABLE_5, measure_engine
from ram_ray.ablation.heads import OURS, head_variants, measure_heads
from ram_ray.ablation.model_parts import measure_model, model_variants
from ram_ray.ablation.rows import Measured, build_rows, to_markdown, to_text, total_gain
from ram_ray.ablation.stablerep import BASE, measure_stablerep, stablerep_variants
from ram_ray.ablation.variants import validate
from ram_ray.config import RunConfig, dump
from ram_ray.records import Json
from ram_ray.runtime.artifacts import write_text
from ram_ray.runtime.outcome import describe, find_cause

logger = logging.getLogger(__name__)

Table = Literal[4, 5, "heads", "stablerep"]
Result = Json  # ablation.json


@dataclass(frozen=True)
class TableKind:
    """How the rows of a table are made and compared."""

    measure: Callable[[RunConfig, str], Measured]  # the rows of a seed, in a run's folder
    variants: Callable[[RunConfig], dict[str, RunConfig]] | None = None  # None: rows of one configuration
    rows: tuple[str, ...] = ()  # where there are no variants
    alternatives: tuple[str, ...] = ()
    base: str | None = None  # the row that all others are compared with; None: the row before each
    figure: str = "mAP"  # that is compared

    def names(self, config: RunConfig) -> tuple[str, ...]:
        """The rows in their order.

        Args:
            config: of a run.

        Returns:
            Their names.
        """
        return tuple(self.variants(config)) if self.variants else self.rows


TABLES: dict[Table, TableKind] = {
    4: TableKind(measure_model, model_variants),
    5: TableKind(measure_engine, rows=TABLE_5, alternatives=(PAPERS_RULE,)),
    "heads": TableKind(measure_heads, head_variants, base=OURS),
    "stablerep": TableKind(measure_stablerep, stablerep_variants, base=BASE, figure="linear"),
}


def run_ablation(
    config: RunConfig, out_uri: str, *, table: Table, seeds: list[int], rounds: int = 2, only: Collection[str] = ()
) -> Result:
    """Run a table's rows for each seed, and write ablation.json and ablation.md at `out_uri`.

    Those of other tables than 5 are ablation_4.json and so on, so tables can share the runs of a folder. A seed that
    fails is reported in "failed" and the others go on; run again, it goes on where it was.

    Args:
        config: of a run; its seed is replaced.
        out_uri: folder for the results and the runs.
        table: number of the paper's table, 4 or 5, "heads" or "stablerep".
        seeds: a run for each.
        rounds: of the data engine in table 5; with 1 there is no row "+ second round".
        only: rows of the table of StableRep; gains are over the first of them. Empty: all.

    Returns:
        The content of the JSON file.

    Raises:
        ValueError: if no seed came to its end, or the configuration cannot give the table.
    """
    config = check_config(config, table=table, rounds=rounds, only=only)
    kind = find_table(table, config, only=only)
    name = f"{out_uri}/ablation" if table == 5 else f"{out_uri}/ablation_{table}"
    measured: dict[int, Measured] = {}
    failed: dict[str, str] = {}
    result: Result = {}
    for seed in seeds:
        logger.info("\nseed %d", seed)
        try:
            measured[seed] = kind.measure(config.model_copy(update={"seed": seed}), f"{out_uri}/seed_{seed}")
        except Exception as error:  # a seed in hours of seeds: the others are worth having, and nothing is hidden
            traceback.print_exc()
            failed[str(seed)] = describe(find_cause(error))
        rows = build_rows(
            kind.names(config), measured, alternatives=kind.alternatives, base=kind.base, measure=kind.figure
        )
        result = {
            "table": table,
            "name": config.name,
            "version": ram_ray.__version__,
            "seeds": sorted(measured),
            "failed": failed,
            "rows": rows,
            "gain": None if kind.base else total_gain(rows),  # rows that are compared with one do not add up
        }
        write_text(f"{name}.json", json.dumps(result, indent=1) + "\n")
        write_text(f"{out_uri}/config.yaml", dump(config))
        if rows:
            write_text(f"{name}.md", to_markdown(rows) + "\n")
    if not measured:
        raise ValueError(f"no seed came to its end; the last one: {list(failed.values())[-1]}")
    return result


def find_table(table: Table, config: RunConfig, *, only: Collection[str] = ()) -> TableKind:
    """How a table's rows are made and compared.

    Args:
        table: as of `run_ablation`.
        config: of a run.
        only: as of `run_ablation`.

    Returns:
        The table, of these rows alone if there are any.

    Raises:
        ValueError: for rows of another table than that of StableRep, or that it does not have.
    """
    if not only:
        return TABLES[table]
    if table != "stablerep":
        raise ValueError(f"the rows of table {table} build on each other: leave --row out")
    return replace(
        TABLES[table],
        measure=partial(measure_stablerep, only=only),
        variants=partial(stablerep_variants, only=only),
        base=next(iter(stablerep_variants(config, only))),
    )


def check_config(config: RunConfig, *, table: Table, rounds: int = 2, only: Collection[str] = ()) -> RunConfig:
    """The configuration that the table's rows have in common.

    Args:
        config: as the user gave it.
        table: as of `run_ablation`.
        rounds: as of `run_ablation`.
        only: as of `run_ablation`.

    Returns:
        The configuration, checked.

    Raises:
        ValueError: without held-out data, for a table or a row that there is not, or where a row would not be a valid
            run.
    """
    if table not in TABLES:
        raise ValueError(f"there is no table {table}; use {', '.join(map(str, TABLES))}")
    if rounds not in (1, 2):
        raise ValueError(f"--rounds {rounds}: table 5 has one or two rounds of the data engine")
    if config.data.train and not config.data.eval:
        raise ValueError("an ablation is scored on held-out images: give them with --eval")
    # The others end before the data engine, so they need no scoring models and hold nothing out for them.
    changes = {"rounds": rounds, "min_change": 0.0} if table == 5 else {"rounds": 0}
    engine = config.engine.model_copy(update=changes)
    config = validate(config.model_copy(update={"engine": engine}), what=f"table {table}")
    find_table(table, config, only=only).names(config)
    return config


def format_result(result: Result) -> str:
    """Format the table, and the seeds that failed, for the terminal.

    Args:
        result: as `run_ablation` returns it.

    Returns:
        Lines of text.
    """
    failed = [f"seed {seed} failed: {cause}" for seed, cause in result["failed"].items()]
    gain = result["gain"]
    spread = "" if not gain or gain["sd"] is None else f" ± {gain['sd']:.4f}"
    total = [f"mAP from the first row to the last: {gain['mean']:+.4f}{spread}"] if gain else []
    seeds = f"seeds: {', '.join(map(str, result['seeds']))}; ± is one standard deviation over them"
    return "\n".join([to_text(result["rows"]), *total, seeds, *failed])
