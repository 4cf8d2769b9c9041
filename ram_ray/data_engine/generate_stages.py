"""The stages of generation on Ray Data: one round in four stages.

    scores         captions and the scores of tags, a row an image (`data_engine.score_stage`)
    score_weights  weights of score and co-occurrence (`data_engine.combine_stage`), where scores are calibrated
    thresholds     calibration of each tag on images that the model did not learn from -> thresholds.json, curve.json
    generate       scores, merged by the thresholds -> annotations

Each has its own digest, so a killed run goes on at the stage where it was, and another precision needs no new scores.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TypedDict

import fsspec
import numpy as np
import pyarrow as pa
import ray
from scipy.special import expit

from ram_ray.config import RunConfig
from ram_ray.data.folds import Fold
from ram_ray.data_engine.addition_curve import make_curve, uncalibrated_scores
from ram_ray.data_engine.calibrate import BINS, Calibration, calibrate, edge_of, thresholds
from ram_ray.data_engine.combine_scores import ScoreCombiner, Weights
from ram_ray.data_engine.combine_stage import fit_score_weights, load_score_combiner, read_rate_bounds
from ram_ray.data_engine.generate import Calibrated, Threshold, merge, tagger_logits_of
from ram_ray.data_engine.mention_counts import CELLS, MAX_VOTES, Cells, count_cells, gather_cells
from ram_ray.data_engine.ray_counts import finish_counts, sum_rows
from ram_ray.data_engine.score_stage import count_origins, score
from ram_ray.data_engine.stage_settings import GenerateSettings, ThresholdSettings
from ram_ray.label_system import LabelSystem
from ram_ray.labels.stages import counted_annotations
from ram_ray.records import ANNOTATION, to_table
from ram_ray.results import (
    Annotations,
    GeneratedAnnotations,
    LabelSystemResult,
    Scores,
    ScoreWeights,
    Thresholds,
    TrainedModel,
)
from ram_ray.runtime.annotate import annotate
from ram_ray.runtime.artifacts import Run, write_text
from ram_ray.runtime.rows import read_rows
from ram_ray.runtime.storage import make_folder
from ram_ray.settings.runtime import Execution


class ThresholdRow(TypedDict):
    """A row of `thresholds.json`."""

    id: int
    tag: str
    kind: str
    mentioned: int  # images that mention the tag
    mention_rate: float
    thresholds: list[float | None]  # a probability for each number of votes, from 0 on; null: never added


def generate(
    run: Run,
    config: RunConfig,
    annotations: Annotations,
    scoring_models: Sequence[TrainedModel],
    labels: LabelSystemResult,
    *,
    round: int,
) -> GeneratedAnnotations:
    """Add captions, and tags that the model sees and no caption mentions (arXiv 2306.03514, section 3.3).

    Args:
        run: the run that gets the stages.
        config: of the run.
        annotations: ANNOTATION rows to add to.
        scoring_models: the model, or one for each fold (`data_engine.model_by_fold`).
        labels: the label system.
        round: number of the round of the data engine, part of the stages' names.

    Returns:
        The annotations with the additions.
    """
    scores = score(run, config, annotations, scoring_models, labels, round=round)
    return add_likely(run, config, scores, labels, num_models=len(scoring_models), round=round)


def add_likely(
    run: Run, config: RunConfig, scores: Scores, labels: LabelSystemResult, *, num_models: int, round: int
) -> GeneratedAnnotations:
    """Add to each image the tags over the threshold, or over those of the calibration.

    Args:
        run: the run that gets the stages.
        config: of the run.
        scores: SCORES rows.
        labels: the label system.
        num_models: number of scoring models.
        round: number of the round of the data engine, part of the stages' names.

    Returns:
        The annotations with the additions.
    """
    settings, execution, score_weights = GenerateSettings.from_config(config), config.execution, None
    if settings.precision is not None:
        score_weights = fit_score_weights(run, config, scores, labels, num_models=num_models, round=round)
    calibrated = find_thresholds(run, config, scores, score_weights, labels, num_models=num_models, round=round)
    inputs = [scores, calibrated, labels]
    stage = run.stage(f"generate_{round}", GeneratedAnnotations, settings=settings, inputs=inputs)
    if stage.result:
        return stage.result
    threshold, caption_threshold = settings.threshold, settings.caption_threshold
    combiner = load_score_combiner(score_weights, execution=execution) if score_weights else None

    def add(block: pa.Table) -> pa.Table:
        if threshold is not None:
            rule: Threshold | Calibrated = Threshold(threshold, caption_threshold=caption_threshold)
        else:
            rule = read_rule(f"{calibrated.path}/rule.npz")
        logits = ray.get(combiner) if combiner else tagger_logits_of
        return to_table([merge(row, rule=rule, logits=logits) for row in block.to_pylist()], ANNOTATION)

    sums = annotate(
        stage,
        lambda dataset: dataset.map_batches(add, batch_format="pyarrow", batch_size=None, num_cpus=execution.task_cpus),
        source=scores.path,
        schema=ANNOTATION,
        execution=execution,
        rows_in=scores.rows_out,
        count=counted_annotations(count_origins),
    )
    counts = finish_counts(stage, sums, rows_in=scores.rows_out, execution=execution)
    with fsspec.open(calibrated.curve, "r") as file:
        write_text(f"{stage.path}/curve.json", file.read())
    counts |= {"rows_in": scores.rows_in, "rejected": scores.rejected}  # `scores` reads and rejects images
    steps = [step for step in (scores, score_weights, calibrated) if step]
    return stage.finish(*steps, scores=scores.path, **counts, **count_added(scores, counts))


def count_added(scores: Scores, after: Mapping[str, int]) -> dict[str, int]:
    """Count the additions of a round, and on images whose truth is known how many are correct.

    Args:
        scores: counts of the annotations without the additions.
        after: counts of the annotations with them.

    Returns:
        Counts by name: all, by origin, correct and wrong.
    """
    return {
        "added": after["tags"] - scores.tags,
        "added_generated_caption": after["generated_caption"] - scores.generated_caption,
        "added_tagger": after["tagger"] - scores.tagger,
        "added_correct": after["tp"] - scores.tp,
        "added_wrong": after["fp"] - scores.fp,
    }


def find_thresholds(
    run: Run,
    config: RunConfig,
    scores: Scores,
    score_weights: ScoreWeights | None,
    labels: LabelSystemResult,
    *,
    num_models: int,
    round: int,
) -> Thresholds:
    """Calibrate the threshold of each tag, and write `thresholds.json` and `curve.json`.

    Images that the model did not learn from are counted: all, if each fold has a scoring model or the model is given;
    else those of `engine.holdout`, or all if nothing is calibrated.

    Args:
        run: the run that gets the stage.
        config: of the run.
        scores: SCORES rows.
        score_weights: of `combine_stage`, whose logits are then the scores; None: nothing is calibrated.
        labels: the label system.
        num_models: number of scoring models, see `generate`.
        round: number of the round of the data engine, part of the stage's name.

    Returns:
        The thresholds.
    """
    settings, execution = ThresholdSettings.from_config(config, num_models=num_models, round=round), config.execution
    inputs = [scores, labels, *([score_weights] if score_weights else [])]
    stage = run.stage(f"thresholds_{round}", Thresholds, settings=settings, inputs=inputs)
    if stage.result:
        return stage.result
    system, fold = LabelSystem.load(labels.uri), settings.fold
    combiner = load_score_combiner(score_weights, execution=execution) if score_weights else None
    votes = min(settings.captions, MAX_VOTES)
    cells = read_cells(
        scores.path, votes=votes, num_tags=len(system), fold=fold, combiner=combiner, execution=execution
    )
    curve = {"held_out": settings.is_held_out, **cells.totals}
    if settings.precision is None or score_weights is None:
        points = make_curve(cells, uncalibrated_scores(cells))
        write_text(f"{stage.path}/curve.json", json.dumps({**curve, "points": points}))
        return stage.finish(images=cells.totals["num_images"])
    calibration = calibrate(cells.mention_counts(read_rate_bounds(score_weights, execution=execution)))
    min_bins = thresholds(calibration, cells.candidates, precision=settings.precision)
    points = make_curve(cells, calibration.correct, correct=calibration.correct)
    write_text(f"{stage.path}/curve.json", json.dumps({**curve, "points": points}))
    rows = threshold_rows(cells, calibration, min_bins, system)
    weights = score_weights.model_dump(include={field.name for field in fields(Weights)})
    table = {"vote_odds": calibration.vote_odds.tolist(), "weights": weights, "tags": rows}
    write_text(f"{stage.path}/thresholds.json", json.dumps(table, indent=1))
    write_rule(f"{stage.path}/rule.npz", min_bins, calibration.correct)
    reached = sum(row["thresholds"] != [None] * len(calibration.vote_odds) for row in rows)
    return stage.finish(images=cells.totals["num_images"], calibrated=len(rows), reached=reached)


def read_cells(
    path: str,
    *,
    votes: int,
    num_tags: int,
    fold: Fold | None,
    execution: Execution,
    combiner: ray.ObjectRef[ScoreCombiner] | None = None,
) -> Cells:
    """Count SCORES rows by votes, tag and score.

    Args:
        path: folder of SCORES rows.
        votes: number of generated captions of an image that count.
        num_tags: number of labels of the label system.
        fold: images that are counted; None: all.
        execution: how the stages of the run are executed.
        combiner: reference to what computes the scores; None: the tagger's.

    Returns:
        The counts.
    """

    def count(block: pa.Table) -> pa.Table:
        selected = fold.contains if fold else lambda key: True
        logits = ray.get(combiner) if combiner else tagger_logits_of
        return count_cells(block, num_tags=num_tags, votes=votes, selected=selected, logits=logits)

    tables = sum_rows(read_rows(path, execution=execution), count, CELLS, execution=execution)
    return gather_cells(tables, num_tags=num_tags, votes=votes)


def threshold_rows(
    cells: Cells, calibration: Calibration, min_bins: np.ndarray, system: LabelSystem
) -> list[ThresholdRow]:
    """The rows of `thresholds.json`: how many images mention each tag, its mention rate, and its thresholds.

    `thresholds`, as probabilities, has a value for each number of votes, from 0 on; null: never added.

    Args:
        cells: counts of images.
        calibration: estimates for each tag.
        min_bins: (V, T) int, lowest bin from which the tag is added.
        system: the label system of the tag ids.

    Returns:
        JSON values: id, tag, kind, mentioned, mention_rate and thresholds of each tag.
    """
    probabilities = expit(edge_of(min_bins))  # (V, T)
    probabilities[min_bins == 0] = 0.0  # the lowest bin has no lower end
    rows: list[ThresholdRow] = []
    for tag, label in enumerate(system.labels):
        tag_thresholds = [
            None if bins[tag] >= BINS else round(float(values[tag]), 4)
            for bins, values in zip(min_bins, probabilities, strict=True)
        ]
        rows.append(
            {
                "id": tag,
                "tag": label.name,
                "kind": label.kind,
                "mentioned": int(cells.mentioned[:, tag].sum()),
                "mention_rate": round(float(calibration.mention_rate[tag]), 4),
                "thresholds": tag_thresholds,
            }
        )
    return rows


def write_rule(uri: str, min_bins: np.ndarray, correct: np.ndarray) -> None:
    """Write the rule that `generate` merges by.

    Args:
        uri: of the .npz file.
        min_bins: (V, T) int, lowest bin from which the tag is added.
        correct: (V, T, B) float, probability that an addition is correct.
    """
    data = io.BytesIO()
    np.savez_compressed(data, min_bins=min_bins.astype(np.int32), correct=correct.astype(np.float32))
    fs, path = fsspec.url_to_fs(uri)
    make_folder(fs, fs._parent(path))
    fs.pipe_file(path, data.getvalue())


@functools.lru_cache(maxsize=2)
def read_rule(uri: str) -> Calibrated:
    """Read the rule that `write_rule` wrote.

    Args:
        uri: of the .npz file.

    Returns:
        The rule.
    """
    with fsspec.open(uri, "rb") as file, np.load(io.BytesIO(file.read()), allow_pickle=False) as arrays:
        return Calibrated(arrays["min_bins"], arrays["correct"])
