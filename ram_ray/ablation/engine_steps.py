"""Table 5, the data engine: parsed, + generation, + cleaning, + finetune, + second round, and the paper's own rule.

A model that was trained longer is better for that alone, so each row is the same training on other annotations:

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
"""

from __future__ import annotations

from collections.abc import Sequence

from ram_ray.ablation.rows import Measured
from ram_ray.ablation.variants import Figures
from ram_ray.config import RunConfig, dump
from ram_ray.data_engine.clean_stages import clean
from ram_ray.data_engine.statistics import count_tag_statistics
from ram_ray.evaluation.stages import evaluate
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
from ram_ray.reporting.run_log import RunLog
from ram_ray.results import Annotations, TrainedModel
from ram_ray.runtime.artifacts import Run

PAPERS_RULE = "+ cleaning by the paper's rule"
TABLE_5 = ("parsed", "+ generation", "+ cleaning", PAPERS_RULE, "+ finetune", "+ second round")


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
    assert inputs.held_out is not None  # see `runs.check_config`
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
    assert inputs.held_out is not None  # see `runs.check_config`
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
