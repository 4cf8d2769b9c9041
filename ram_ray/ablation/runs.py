"""The paper's ablations (tables 4 and 5), composed of the pipeline's own stages, over seeds.

Table 5, what the data engine is worth: parsed, + generation, + cleaning, + finetune, + second round. The question is
what makes its rows comparable. A model that was trained longer is better for that alone, so each row is the same
training on other annotations:

    parsed          the preliminary model, retrained on the tags that captions give
    + generation    the preliminary model, retrained on the first round's generated annotations, nothing removed
    + cleaning      the preliminary model, retrained on the first round's cleaned annotations
    + finetune      the row above, finetuned: more steps than the rows above it, which is what finetuning is
    + second round  the preliminary model, retrained on the second round's annotations, then finetuned: as many steps
                    as the row above

All retrain with `config.retrain` on the same pictures from the same preliminary model (or, with `retrain.start:
represent`, from the same backbone), where a plain run's second round goes on from the first round's model, and its last
round needs to hold nothing out. The number of steps is a column: a picture without a tag is not trained on, so it can
differ a little.
Number, precision and recall of the tags are those of the annotations that a row is trained on.

Table 4, what the model's parts are worth, is the preliminary model on parsed tags: Tag2Text without and with
captioning, then text queries, distillation, and a larger label system. mAP is over the tags of the small system in all
of its rows, as the paper's benchmark is the same for all.

Every seed is a run folder of its own, and a row is a stage in it: rows share what they have in common, with each
other and with a plain run in the same folder, and what was killed goes on. Seeds come one after the other.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from pydantic import ValidationError

import ram_ray
from ram_ray.ablation.rows import Measured, build_rows, to_markdown, to_text, total_gain
from ram_ray.config import RunConfig, dump
from ram_ray.data.parts import Part
from ram_ray.data_engine.statistics import count_tags_by_fate
from ram_ray.evaluation.stages import evaluate, read_summary
from ram_ray.pipeline import Pipeline
from ram_ray.runtime.artifacts import Manifest, write_text
from ram_ray.runtime.outcome import describe, find_cause
from ram_ray.runtime.screen import print_line
from ram_ray.settings.training import TrainConfig

TABLE_5 = ("parsed", "+ generation", "+ cleaning", "+ finetune", "+ second round")
TABLE_4 = ("Tag2Text without captioning", "+ captioning", "+ text queries", "+ distillation", "+ larger label system")
SMALL_SYSTEM = 3429 / 6449  # of the label system: Tag2Text's to RAM's before synonyms were merged

Figures = dict[str, float | None]


def run_ablation(config: RunConfig, out_uri: str, *, table: int, seeds: list[int]) -> dict[str, Any]:
    """Run a table's rows for each seed, leave ablation.json and ablation.md at `out_uri`, and return the former.

    Those of table 4 are ablation_4.json and ablation_4.md, so that both tables can share the runs of one folder.

    A seed that fails is reported in "failed" and the others go on; run again, it goes on where it was.

    Args:
        config: of a run; its seed is replaced.
        out_uri: folder for the results and the runs.
        table: number of the paper's table, 4 or 5.
        seeds: a run for each.

    Raises:
        ValueError: if no seed came to its end, or the configuration cannot give the table.
    """
    config = prepare(config, table=table)
    name = f"{out_uri}/ablation" if table == 5 else f"{out_uri}/ablation_{table}"
    measure: Callable[[RunConfig, str], Measured] = measure_engine if table == 5 else measure_model
    measured: dict[int, Measured] = {}
    failed: dict[str, str] = {}
    result: dict[str, Any] = {}
    for seed in seeds:
        print_line(f"\nseed {seed}")
        try:
            measured[seed] = measure(config.model_copy(update={"seed": seed}), f"{out_uri}/seed_{seed}")
        except Exception as error:  # a seed in hours of seeds: the others are worth having, and nothing is hidden
            traceback.print_exc()
            failed[str(seed)] = describe(find_cause(error))
        rows = build_rows(TABLE_5 if table == 5 else TABLE_4, measured)
        result = {
            "table": table,
            "name": config.name,
            "version": ram_ray.__version__,
            "seeds": sorted(measured),
            "failed": failed,
            "rows": rows,
            "gain": total_gain(rows),
        }
        write_text(f"{name}.json", json.dumps(result, indent=1) + "\n")
        write_text(f"{out_uri}/config.yaml", dump(config))
        if rows:
            write_text(f"{name}.md", to_markdown(rows) + "\n")
    if not measured:
        raise ValueError(f"no seed came to its end; the last one: {list(failed.values())[-1]}")
    return result


def prepare(config: RunConfig, *, table: int) -> RunConfig:
    """The configuration that the table's rows have in common.

    Args:
        config: as the user gave it.
        table: number of the paper's table, 4 or 5.

    Raises:
        ValueError: without held-out data, for a table that there is not, or where a row would not be a valid run.
    """
    if table not in (4, 5):
        raise ValueError(f"there is no table {table}; use 4 (the model) or 5 (the data engine)")
    if config.data.train and not config.data.eval:
        raise ValueError("an ablation is scored on held-out pictures: give them with --eval")
    # Both rounds, however little the second changes; table 4 ends before the engine, and needs no judges for it.
    changes = {"rounds": 2, "min_change": 0.0} if table == 5 else {"rounds": 0}
    engine = config.engine.model_copy(update=changes)
    config = check(config.model_copy(update={"engine": engine}), what=f"table {table}")
    if table == 4:
        model_variants(config)
    return config


def check(config: RunConfig, *, what: str) -> RunConfig:
    """The configuration, checked as a whole: a copy with changes has not been.

    Args:
        config: with changes.
        what: for the error: what asked for them.

    Raises:
        ValueError: with `what` and the fields that are wrong, in one line.
    """
    try:
        return RunConfig.model_validate(config.model_dump())
    except ValidationError as error:
        found = [(".".join(map(str, one["loc"])), one["msg"].removeprefix("Value error, ")) for one in error.errors()]
        problems = "; ".join(f"{field}: {problem}" if field else problem for field, problem in found)
        raise ValueError(f"{what}: {problems}") from None


class Ladder(Pipeline):
    """The recipe with two rounds, each retrained from the preliminary model; and the rows that it passes by."""

    def train(
        self, name: str, settings: TrainConfig, annotations: Manifest, newest: Manifest | None, left_out: Part | None
    ) -> Manifest:
        """As in any run, except where a retraining starts, and that all of them see the same pictures."""
        if name.startswith("retrain_") and "_fold_" not in name:
            newest, left_out = self.made["pretrain"], self.holdout
        return super().train(name, settings, annotations, newest, left_out)

    def rows(self) -> Measured:
        """The figures of table 5, after the recipe is done."""
        made, retrain = self.made, self.config.retrain
        parsed, generated, cleaned = (made[name] for name in ("labels", "generate_1", "clean_1"))
        first = [self.fit("retrain_parsed", retrain, parsed), self.fit("retrain_generated", retrain, generated)]
        self.model = made["retrain_1"]
        finetuned = self.fit("finetune_1", self.config.finetune, cleaned)
        again = made["clean_2"]
        chains = [
            [first[0]],
            [first[1]],
            [made["retrain_1"]],
            [made["retrain_1"], finetuned],
            [made["retrain_2"], made["finetune"]],
        ]
        annotations = [parsed, generated, cleaned, cleaned, again]
        return {
            name: self.row(of_row, models) for name, of_row, models in zip(TABLE_5, annotations, chains, strict=True)
        }

    def row(self, annotations: Manifest, models: list[Manifest]) -> Figures:
        """The figures of one row: its annotations, and the last model of those that were trained on them.

        Args:
            annotations: of the row.
            models: that were trained on them, in order; the last is scored.
        """
        given, counts = self.given, annotations.counts
        assert given.truth is not None
        score = evaluate(self.run, self.config, given.truth, models[-1], given.labels)
        told = count_tags_by_fate(self.run, self.config, annotations, given.labels).counts
        judged, true = counts["tp"] + counts["fp"], counts["tp"] + counts["fn"]
        return {
            "tags": counts["tags"],
            "precision": counts["tp"] / judged if judged else None,
            "recall": counts["tp"] / true if true else None,
            **{name: told[name] for name in told["objects"]},
            **{f"{name} of objects": value for name, value in told["objects"].items()},
            "steps": sum(model.counts["steps"] for model in [self.made["pretrain"], *models]),
            "mAP": score.counts["mAP"],
        }


def measure_engine(config: RunConfig, run_uri: str) -> Measured:
    """Table 5's rows for the configuration's seed.

    Args:
        config: of the run, with its seed.
        run_uri: its folder.
    """
    ladder = Ladder(config, run_uri)
    ladder()
    return ladder.rows()


def measure_model(config: RunConfig, run_uri: str) -> Measured:
    """Table 4's rows for the configuration's seed.

    Args:
        config: of the run, with its seed.
        run_uri: its folder.
    """
    rows: dict[str, Mapping[str, float | None]] = {}
    common: set[tuple[str, str]] = set()
    for name, variant in model_variants(config).items():
        pipeline = Pipeline(variant, run_uri, last="pretrain")
        pipeline()
        model, given = pipeline.made["pretrain"], pipeline.given
        assert given.truth is not None
        lines = read_summary(evaluate(pipeline.run, variant, given.truth, model, given.labels))["per_tag"]
        common = common or {(line["kind"], line["tag"]) for line in lines}  # the small system's, in the first row
        scored = [line["ap"] for line in lines if line["counted"] and (line["kind"], line["tag"]) in common]
        rows[name] = {
            "tags": pipeline.made["labels"].counts["tags"],
            "labels": given.labels.counts["labels"],
            "steps": model.counts["steps"],
            "mAP": float(np.mean(scored)) if scored else None,
        }
    return rows


def model_variants(config: RunConfig) -> dict[str, RunConfig]:
    """Table 4's rows as configurations: each adds a part to the one before it.

    Raises:
        ValueError: naming the row that would not be a valid run.
    """
    width = config.model.recognition.width
    small = max(1, round(SMALL_SYSTEM * config.labels.max_labels))
    learnt = {"architecture": "tag2text", "label_width": width}
    without = {"distill_loss": False}
    first: dict[str, dict[str, Any]] = {
        "model": learnt,
        "labels": {"max_labels": small},
        "pretrain": {"caption_loss": False, **without},
    }
    changes: list[dict[str, dict[str, Any]]] = [
        {**first, "retrain": without, "finetune": without},  # these two are not run, but must not contradict the model
        {"pretrain": {"caption_loss": True}},
        {"model": {name: getattr(config.model, name) for name in learnt}},
        {"pretrain": {"distill_loss": True}},
        {"labels": {"max_labels": config.labels.max_labels}},
    ]
    variants: dict[str, RunConfig] = {}
    for name, change in zip(TABLE_4, changes, strict=True):
        sections = {part: getattr(config, part).model_copy(update=values) for part, values in change.items()}
        config = check(config.model_copy(update=sections), what=f"row {name!r}")
        variants[name] = config
    return variants


def closing_words(result: Mapping[str, Any]) -> str:
    """The table, and the seeds that failed, for the terminal."""
    failed = [f"seed {seed} failed: {why}" for seed, why in result["failed"].items()]
    gain = result["gain"]
    spread = "" if not gain or gain["sd"] is None else f" ± {gain['sd']:.4f}"
    whole = [f"mAP from the first row to the last: {gain['mean']:+.4f}{spread}"] if gain else []
    seeds = f"seeds: {', '.join(map(str, result['seeds']))}; ± is one standard deviation over them"
    return "\n".join([to_text(result["rows"]), *whole, seeds, *failed])
