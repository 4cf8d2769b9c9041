"""The paper's ablations (tables 4 and 5), composed of the stages of the pipeline, over seeds.

Table 5 measures the data engine: parsed, + generation, + cleaning, + finetune, + second round, and cleaning by the
paper's own rule beside ours. A model that was trained longer is better for that alone, so each row is the same training
on other annotations:

    parsed          the preliminary model, retrained on the tags of captions
    + generation    the preliminary model, retrained on the first round's generated annotations
    + cleaning      the preliminary model, retrained on the first round's cleaned annotations
    paper's rule    the same, but cleaned with `engine.clean.rule: paper`; no row builds on it, and its gain is over
                    + generation. With `paper` in the configuration the two rows are the same
    + finetune      the model of + cleaning, finetuned: more steps than the rows above
    + second round  the preliminary model, retrained on the second round's annotations, then finetuned: as many steps
                    as the row above

All rows retrain with `config.retrain` on the same images from the same preliminary model (or, with `retrain.start:
represent`, from the same backbone). In a plain run the second round starts from the first round's model, and the last
round holds nothing out. Number, precision and recall of tags are those of the annotations that a row is trained on.

Table 4 measures the parts of the model, with the preliminary model on parsed tags: Tag2Text without and with
captioning, then text queries, distillation, and a larger label system. mAP is over the tags of the small system in all
rows.

Every seed is a run folder, and a row is a stage in it, so rows share stages with each other and with a plain run in the
same folder, and a killed ablation resumes.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

import ram_ray
from ram_ray.ablation.heads import HEADS, OURS, head_variants, measure_heads
from ram_ray.ablation.rows import Measured, build_rows, to_markdown, to_text, total_gain
from ram_ray.ablation.trained import train_rows
from ram_ray.ablation.variants import Changes, Figures, validate, vary
from ram_ray.config import RunConfig, dump
from ram_ray.data_engine.clean_stages import clean
from ram_ray.data_engine.statistics import count_tag_statistics
from ram_ray.evaluation.stages import evaluate, read_summary
from ram_ray.pipeline import (
    Inputs,
    find_data,
    find_holdout,
    preliminary_models,
    prepare,
    run_round,
    train_and_score,
    train_scoring_models,
)
from ram_ray.records import Json
from ram_ray.reporting.run_log import RunLog
from ram_ray.results import Annotations, TrainedModel
from ram_ray.runtime.artifacts import Run, write_text
from ram_ray.runtime.outcome import describe, find_cause

logger = logging.getLogger(__name__)

PAPERS_RULE = "+ cleaning by the paper's rule"
TABLE_5 = ("parsed", "+ generation", "+ cleaning", PAPERS_RULE, "+ finetune", "+ second round")
TABLE_4 = ("Tag2Text without captioning", "+ captioning", "+ text queries", "+ distillation", "+ larger label system")
SMALL_SYSTEM = 3429 / 6449  # of the label system: Tag2Text's to RAM's before synonyms were merged

Table = Literal[4, 5, "heads"]
ROWS: dict[Table, tuple[str, ...]] = {4: TABLE_4, 5: TABLE_5, "heads": HEADS}
Result = Json  # ablation.json


def run_ablation(config: RunConfig, out_uri: str, *, table: Table, seeds: list[int], rounds: int = 2) -> Result:
    """Run a table's rows for each seed, and write ablation.json and ablation.md at `out_uri`.

    Those of other tables than 5 are ablation_4.json and ablation_heads.json, so tables can share the runs of a folder.
    A seed that fails is reported in "failed" and the others go on; run again, it goes on where it was.

    Args:
        config: of a run; its seed is replaced.
        out_uri: folder for the results and the runs.
        table: number of the paper's table, 4 or 5, or "heads" (see `ablation.heads`).
        seeds: a run for each.
        rounds: of the data engine in table 5; with 1 there is no row "+ second round".

    Returns:
        The content of the JSON file.

    Raises:
        ValueError: if no seed came to its end, or the configuration cannot give the table.
    """
    config = check_config(config, table=table, rounds=rounds)
    name = f"{out_uri}/ablation" if table == 5 else f"{out_uri}/ablation_{table}"
    measures: dict[Table, Callable[[RunConfig, str], Measured]] = {4: measure_model, 5: measure_engine}
    measure = measures.get(table, measure_heads)
    measured: dict[int, Measured] = {}
    failed: dict[str, str] = {}
    result: Result = {}
    for seed in seeds:
        logger.info("\nseed %d", seed)
        try:
            measured[seed] = measure(config.model_copy(update={"seed": seed}), f"{out_uri}/seed_{seed}")
        except Exception as error:  # a seed in hours of seeds: the others are worth having, and nothing is hidden
            traceback.print_exc()
            failed[str(seed)] = describe(find_cause(error))
        base = OURS if table == "heads" else None
        rows = build_rows(ROWS[table], measured, alternatives=[PAPERS_RULE], base=base)
        result = {
            "table": table,
            "name": config.name,
            "version": ram_ray.__version__,
            "seeds": sorted(measured),
            "failed": failed,
            "rows": rows,
            "gain": None if base else total_gain(rows),  # rows that are compared with one do not add up
        }
        write_text(f"{name}.json", json.dumps(result, indent=1) + "\n")
        write_text(f"{out_uri}/config.yaml", dump(config))
        if rows:
            write_text(f"{name}.md", to_markdown(rows) + "\n")
    if not measured:
        raise ValueError(f"no seed came to its end; the last one: {list(failed.values())[-1]}")
    return result


def check_config(config: RunConfig, *, table: Table, rounds: int = 2) -> RunConfig:
    """The configuration that the table's rows have in common.

    Args:
        config: as the user gave it.
        table: as of `run_ablation`.
        rounds: as of `run_ablation`.

    Returns:
        The configuration, checked.

    Raises:
        ValueError: without held-out data, for a table that there is not, or where a row would not be a valid run.
    """
    if table not in ROWS:
        raise ValueError(f"there is no table {table}; use 4 (the model), 5 (the data engine) or heads")
    if rounds not in (1, 2):
        raise ValueError(f"--rounds {rounds}: table 5 has one or two rounds of the data engine")
    if config.data.train and not config.data.eval:
        raise ValueError("an ablation is scored on held-out images: give them with --eval")
    # The others end before the data engine, so they need no scoring models and hold nothing out for them.
    changes = {"rounds": rounds, "min_change": 0.0} if table == 5 else {"rounds": 0}
    engine = config.engine.model_copy(update=changes)
    config = validate(config.model_copy(update={"engine": engine}), what=f"table {table}")
    if table != 5:
        (model_variants if table == 4 else head_variants)(config)
    return config


def measure_engine(config: RunConfig, run_uri: str) -> Measured:
    """Table 5's rows for the configuration's seed.

    Args:
        config: of the run, with its seed.
        run_uri: its folder.

    Returns:
        Row -> figure -> number.
    """
    log = RunLog()
    run = log.open(run_uri)
    run.write_text("config.yaml", dump(config))
    parsed, inputs = prepare(run, config, *find_data(run, config))
    holdout = find_holdout(config)
    preliminary, scoring_models = preliminary_models(run, config, parsed, inputs, left_out=holdout)

    def retrain(annotations: Annotations, name: str) -> TrainedModel:
        return train_and_score(
            run, config, config.retrain, annotations, inputs, name=name, newest=preliminary, left_out=holdout
        )

    def finetune(annotations: Annotations, model: TrainedModel, name: str) -> TrainedModel:
        annotations = parsed if config.finetune.annotations == "parsed" else annotations
        return train_and_score(run, config, config.finetune, annotations, inputs, name=name, newest=model)

    generated, cleaned = run_round(run, config, parsed, scoring_models, inputs, round=1)
    first = retrain(cleaned, "retrain_1")
    chains: dict[str, tuple[Annotations, list[TrainedModel]]] = {"+ cleaning": (cleaned, [first])}
    if config.engine.rounds == 2:
        later_models = train_scoring_models(run, config, config.retrain, cleaned, inputs, first, earlier=scoring_models)
        _, cleaned_again = run_round(run, config, cleaned, later_models, inputs, round=2)
        second = retrain(cleaned_again, "retrain_2")
        newest = finetune(cleaned_again, second, "finetune")
        chains["+ second round"] = (cleaned_again, [second, newest])
        finetuned = finetune(cleaned, first, "finetune_1")
    else:
        newest = finetuned = finetune(cleaned, first, "finetune_1")
    assert inputs.held_out is not None  # see `check_config`
    log.write_report(run, config, evaluate(run, config, inputs.held_out, newest, inputs.labels))
    log.write_engine_report(run, config)

    by_paper = clean(
        run, with_papers_rule(config), generated, scoring_models, inputs.labels, inputs.dual_encoder, round=1
    )
    chains |= {
        "parsed": (parsed, [retrain(parsed, "retrain_parsed")]),
        "+ generation": (generated, [retrain(generated, "retrain_generated")]),
        PAPERS_RULE: (by_paper, [retrain(by_paper, "retrain_papers_rule")]),
        "+ finetune": (cleaned, [first, finetuned]),
    }
    return {
        name: measure_row(run, config, chains[name][0], [preliminary, *chains[name][1]], inputs)
        for name in TABLE_5
        if name in chains
    }


def with_papers_rule(config: RunConfig) -> RunConfig:
    """The configuration with the paper's rule of cleaning; nothing else changes.

    Args:
        config: of the run.

    Returns:
        Another configuration.
    """
    cleaning = config.engine.clean.model_copy(update={"rule": "paper"})
    return config.model_copy(update={"engine": config.engine.model_copy(update={"clean": cleaning})})


def measure_row(
    run: Run, config: RunConfig, annotations: Annotations, models: Sequence[TrainedModel], inputs: Inputs
) -> Figures:
    """The figures of one row of table 5: its annotations, and the last of the models that led to it.

    Args:
        run: the folder of the run.
        config: of the run.
        annotations: of the row.
        models: in the order of their training; the last is scored.
        inputs: the label system and the held-out images.

    Returns:
        Figure -> number.
    """
    assert inputs.held_out is not None  # see `check_config`
    score = evaluate(run, config, inputs.held_out, models[-1], inputs.labels)
    statistics = count_tag_statistics(run, config, annotations, inputs.labels)
    predicted, true = annotations.tp + annotations.fp, annotations.tp + annotations.fn
    return {
        "tags": annotations.tags,
        "precision": annotations.tp / predicted if predicted else None,
        "recall": annotations.tp / true if true else None,
        **statistics.shares.model_dump(),
        **{f"{name} of objects": share for name, share in statistics.objects.model_dump().items()},
        "steps": sum(model.steps for model in models),
        "mAP": score.mAP,
    }


def measure_model(config: RunConfig, run_uri: str) -> Measured:
    """Table 4's rows for the configuration's seed.

    Args:
        config: of the run, with its seed.
        run_uri: its folder.

    Returns:
        Row -> figure -> number.
    """
    rows: dict[str, Figures] = {}
    common: set[tuple[str, str]] = set()
    for row in train_rows(model_variants(config), run_uri):
        lines = read_summary(row.score)["per_tag"]
        common = common or {(line["kind"], line["tag"]) for line in lines}  # the small system's, in the first row
        scored = [line["ap"] for line in lines if line["counted"] and (line["kind"], line["tag"]) in common]
        rows[row.name] = {
            "tags": row.annotations.tags,
            "labels": row.inputs.labels.labels,
            "steps": row.model.steps,
            "mAP": float(np.mean(scored)) if scored else None,
        }
    return rows


def model_variants(config: RunConfig) -> dict[str, RunConfig]:
    """Table 4's rows as configurations: each adds a part to the one before it.

    Args:
        config: with all parts.

    Returns:
        Configuration of each row, in their order.

    Raises:
        ValueError: naming the row that would not be a valid run.
    """
    width = config.model.recognition.width
    small = max(1, round(SMALL_SYSTEM * config.labels.max_labels))
    trained_queries = {"architecture": "tag2text", "label_width": width}
    without = {"distill_loss": False}
    first: Changes = {
        "model": trained_queries,
        "labels": {"max_labels": small},
        "pretrain": {"caption_loss": False, **without},
    }
    changes: list[Changes] = [
        {**first, "retrain": without, "finetune": without},  # these two are not run, but must not contradict the model
        {"pretrain": {"caption_loss": True}},
        {"model": {name: getattr(config.model, name) for name in trained_queries}},
        {"pretrain": {"distill_loss": True}},
        {"labels": {"max_labels": config.labels.max_labels}},
    ]
    variants: dict[str, RunConfig] = {}
    for name, change in zip(TABLE_4, changes, strict=True):
        config = variants[name] = vary(config, change, what=f"row {name!r}")
    return variants


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
