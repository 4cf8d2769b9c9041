"""The recipe, in the paper's order. Each stage takes the results of the stages before it, and is skipped when done.

    shards -> represent -> parse -> labels -> pretrain -> [ generate -> clean -> retrain ] x rounds
           -> finetune -> evaluate -> serve

A given bundle (`engine.model`) takes the place of pretrain, and any training may start from one (`start`).
Read `recipe` first: it is the whole system on one page. The functions below it are its parts; the ablations are
composed of them too. A result has a class (`ram_ray.results`), and nothing but the run's log keeps any state.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from ram_ray.config import RunConfig, dump
from ram_ray.curation.images import curate
from ram_ray.data.collect import collect, draw_corpus
from ram_ray.data.folds import Fold
from ram_ray.data_engine.clean_stages import clean
from ram_ray.data_engine.convergence import has_converged
from ram_ray.data_engine.generate_stages import generate
from ram_ray.evaluation.open_set import hold_out_labels
from ram_ray.evaluation.set_stages import collect_named, named_sets, prepare_named_set, score_model
from ram_ray.evaluation.stages import evaluate
from ram_ray.evaluation_results import Evaluation, PreparedSet
from ram_ray.labels.parse_stage import parse
from ram_ray.labels.stages import build_labels, label_captions
from ram_ray.reporting.run_log import RunLog
from ram_ray.results import Annotations, CleanedAnnotations, GeneratedAnnotations, TrainedModel
from ram_ray.runtime.artifacts import Run, StopRun
from ram_ray.settings.training import TrainConfig
from ram_ray.synthesis.represent import represent
from ram_ray.training.given_model import give_model
from ram_ray.training.tagger_stage import TrainingInputs, find_start, train_tagger
from ram_ray.training.vocabulary import build_vocabulary

STAGES = ("shards", "represent", "parse", "labels", "pretrain", "generate", "clean", "retrain", "finetune", "evaluate")


@dataclass(frozen=True)
class Inputs(TrainingInputs):
    """What every training of a run takes beside annotations, and what its models are scored on."""

    held_out: Annotations | None
    sets: tuple[PreparedSet, ...] = ()  # named evaluation sets, and held-out labels as one


@dataclass(frozen=True)
class FinalModel:
    """What a whole run ends with."""

    model: TrainedModel
    score: Evaluation | None  # None: there are no held-out images
    held_out: list[str]  # URIs of held-out shards


def run_recipe(run: Run, config: RunConfig, log: RunLog) -> FinalModel | None:
    """Run the stages up to the run's last one, and write its reports; what is done already is not done again.

    Args:
        run: the folder of the run.
        config: of the run.
        log: listens to `run`.

    Returns:
        The final model; None if the run ends before it.
    """
    run.write_text("config.yaml", dump(config))
    final = None
    with contextlib.suppress(StopRun):
        final = recipe(run, config)
    log.write_class_pages(run, config, has_report=final is not None)
    if final:
        log.write_report(run, config, final.score)
    log.write_sets(run)
    log.write_engine_report(run, config)
    log.write_duplicates_page(run, config)
    return final


def recipe(run: Run, config: RunConfig) -> FinalModel:
    """The recipe.

    Args:
        run: the folder of the run.
        config: of the run.

    Returns:
        The final model.

    Raises:
        StopRun: after the last stage that was asked for.
    """
    train_uris, held_out_uris = find_data(run, config)
    parsed, inputs = prepare(run, config, train_uris, held_out_uris)
    annotations = parsed
    run.stop_after("labels")

    rounds = config.engine.rounds
    left_out = find_holdout(config) if rounds else None
    model, scoring_models = preliminary_models(run, config, annotations, inputs, left_out=left_out)
    run.stop_after("pretrain")

    for round in range(1, rounds + 1):
        generated, cleaned = run_round(run, config, annotations, scoring_models, inputs, round=round)
        converged = has_converged(
            run, annotations, generated, cleaned, min_change=config.engine.min_change, round=round
        )
        annotations = cleaned
        if converged:
            break
        name, left_out = f"retrain_{round}", find_holdout(config) if round < rounds else None
        model = train_and_score(
            run, config, config.retrain, annotations, inputs, name=name, newest=model, left_out=left_out
        )
        if round < rounds:
            scoring_models = train_scoring_models(
                run, config, config.retrain, annotations, inputs, model, earlier=scoring_models
            )
    for name in ("generate", "clean", "retrain"):  # without a round the data engine has nothing to do
        run.stop_after(name)

    if config.finetune.annotations == "parsed":
        annotations = parsed
    model = train_and_score(run, config, config.finetune, annotations, inputs, name="finetune", newest=model)
    run.stop_after("finetune")

    score = evaluate(run, config, inputs.held_out, model, inputs.labels) if inputs.held_out else None
    return FinalModel(model, score, held_out_uris)


def find_data(run: Run, config: RunConfig) -> tuple[list[str], list[str]]:
    """Find the shards of a run; without any, the drawn scenes are written as shards.

    Args:
        run: the folder of the run.
        config: of the run.

    Returns:
        Paths, URIs or globs of the shards to train on, and of the held-out shards.
    """
    data = config.data
    if data.train:
        return data.train, data.eval
    drawn_train, drawn_eval = draw_corpus(run, config)
    return drawn_train, data.eval or drawn_eval


def prepare(run: Run, config: RunConfig, train_uris: list[str], held_out_uris: list[str]) -> tuple[Annotations, Inputs]:
    """The stages before the first training: shards and images, represent, parse, labels.

    Args:
        run: the folder of the run.
        config: of the run.
        train_uris: paths, URIs or globs of the shards to train on.
        held_out_uris: of the held-out shards; empty: nothing is scored.

    Returns:
        The annotations to train on, and the other inputs of training.

    Raises:
        StopRun: after the last stage that was asked for.
    """
    samples = collect(run, config, name="shards", uris=train_uris)
    held_out_samples = None
    if held_out_uris:
        held_out_samples = collect(run, config, name="shards_eval", uris=held_out_uris, held_out=True)
    held_out_sets = [held_out_samples] if held_out_samples else []
    named = collect_named(run, config)  # copies of their images are not trained on
    samples, *held_out_sets = curate(run, config, samples, [*held_out_sets, *named])[: 1 + len(held_out_sets)]
    run.stop_after("shards")

    sets = [prepare_named_set(run, config, spec) for spec in named_sets(config)]
    vocabulary = build_vocabulary(run, config, samples)
    dual_encoder = represent(run, config, samples, vocabulary)
    run.stop_after("represent")

    parsed = parse(run, config, samples)
    run.stop_after("parse")

    labels = build_labels(run, config, parsed, dual_encoder)
    held_out_parsed = [parse(run, config, held_out_set, name="parse_eval") for held_out_set in held_out_sets]
    if config.evaluate.holds_out:
        labels, open_set = hold_out_labels(run, config, labels, held_out_parsed)
        sets.append(open_set)
    annotations = label_captions(run, config, parsed, labels)
    held_out = None
    for rows in held_out_parsed:
        held_out = label_captions(run, config, rows, labels, name="labels_eval")
    return annotations, Inputs(labels, dual_encoder, vocabulary, samples, held_out, tuple(sets))


def preliminary_models(
    run: Run, config: RunConfig, annotations: Annotations, inputs: Inputs, *, left_out: Fold | None
) -> tuple[TrainedModel, list[TrainedModel]]:
    """The model that the data engine begins with: a given bundle, which is not trained, or that of pretrain.

    Args:
        run: the folder of the run.
        config: of the run.
        annotations: rows to train on.
        inputs: the other inputs of training.
        left_out: images that are not trained on.

    Returns:
        The model, and the scoring models of the first round.
    """
    source, revision = config.engine.model, config.engine.revision
    if source is None:
        model = train_and_score(run, config, config.pretrain, annotations, inputs, name="pretrain", left_out=left_out)
        return model, train_scoring_models(run, config, config.pretrain, annotations, inputs, model)
    model = give_model(run, config, inputs.labels, inputs.dual_encoder, source=source, revision=revision)
    score_model(run, config, model, inputs.labels, held_out=inputs.held_out, sets=inputs.sets)
    return model, [model]  # it has not seen the images, so it scores all


def train_and_score(
    run: Run,
    config: RunConfig,
    train_config: TrainConfig,
    annotations: Annotations,
    inputs: Inputs,
    *,
    name: str,
    newest: TrainedModel | None = None,
    left_out: Fold | None = None,
) -> TrainedModel:
    """Train a model and score it on the held-out images, if there are any.

    Args:
        run: the folder of the run.
        config: of the run.
        train_config: section of this training.
        annotations: rows to train on.
        inputs: the other inputs of training.
        name: of the stage.
        newest: model to start from where `train_config.start` is "previous".
        left_out: images that are not trained on.

    Returns:
        The model.
    """
    start = find_start(run, config, train_config, inputs, newest)
    if start and start is not newest:
        score_model(run, config, start, inputs.labels, held_out=inputs.held_out, sets=inputs.sets)  # before training
    model = train_tagger(run, config, train_config, annotations, inputs, name=name, start=start, left_out=left_out)
    score_model(run, config, model, inputs.labels, held_out=inputs.held_out, sets=inputs.sets)
    return model


def train_scoring_models(
    run: Run,
    config: RunConfig,
    train_config: TrainConfig,
    annotations: Annotations,
    inputs: Inputs,
    model: TrainedModel,
    *,
    earlier: Sequence[TrainedModel] = (),
) -> list[TrainedModel]:
    """The scoring models of a round, which see all images; none without a round.

    With `engine.folds` they are further models: each leaves out the fold that it scores, and starts from
    the one before it that did, or from the given model.

    Args:
        run: the folder of the run.
        config: of the run.
        train_config: section of the training of `model`.
        annotations: rows that `model` was trained on.
        inputs: the other inputs of training.
        model: the newest model of the recipe.
        earlier: scoring models of the round before.

    Returns:
        One model, or one for each fold.
    """
    folds = config.engine.folds
    if not config.engine.rounds:
        return []
    if folds == 1:
        return [model]
    before = earlier if len(earlier) == folds else [earlier[0] if earlier else None] * folds
    return [
        train_tagger(
            run,
            config,
            train_config,
            annotations,
            inputs,
            name=f"{model.stage}_fold_{fold}",
            start=find_start(run, config, train_config, inputs, newest),
            left_out=Fold.of_index(fold, folds),
            fold=fold,
        )
        for fold, newest in enumerate(before)
    ]


def find_holdout(config: RunConfig) -> Fold | None:
    """The images that the only scoring model is not trained on; its scores are calibrated on them.

    Args:
        config: of the run.

    Returns:
        The fold; None: scores are not calibrated, or there are more scoring models.
    """
    engine = config.engine
    is_calibrated = engine.folds == 1 and engine.generate.precision is not None
    return Fold.of_share(engine.holdout) if is_calibrated else None


def run_round(
    run: Run,
    config: RunConfig,
    annotations: Annotations,
    scoring_models: Sequence[TrainedModel],
    inputs: Inputs,
    *,
    round: int,
) -> tuple[GeneratedAnnotations, CleanedAnnotations]:
    """One round of the data engine: generate, clean.

    Args:
        run: the folder of the run.
        config: of the run.
        annotations: that the round begins with.
        scoring_models: the model, or one for each fold.
        inputs: the label system and the dual encoder.
        round: number of the round, from 1 on.

    Returns:
        The annotations with the additions, and those without what was removed.

    Raises:
        StopRun: after the last stage that was asked for.
    """
    labels, dual_encoder = inputs.labels, inputs.dual_encoder
    generated = generate(run, config, annotations, scoring_models, labels, round=round)
    run.stop_after("generate")
    cleaned = clean(run, config, generated, scoring_models, labels, dual_encoder, round=round)
    run.stop_after("clean")
    return generated, cleaned
