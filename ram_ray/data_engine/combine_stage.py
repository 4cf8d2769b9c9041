"""The stage `score_weights` on Ray Data: count the pairs of tags that captions mention together, then fit the weights.

The stage reads the SCORES rows twice, each time for a sum of counts, and writes `PAIRS_FILE`, from which later tasks
compute the co-occurrence of an image's tags. Pairs are counted on all images. Three weights need at most `MAX_IMAGES`:
those of some shards, if there are more. A task holds a row for each pair of tags that occurs, and the driver none.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pyarrow as pa
import ray

from ram_ray.config import RunConfig
from ram_ray.data.folds import Fold
from ram_ray.data_engine.combine_scores import (
    SCORE_CELLS,
    ScoreCombiner,
    Weights,
    count_score_cells,
    fit_weights,
    read_pairs,
    write_pairs,
)
from ram_ray.data_engine.mention_rate_bound import mention_rate_bounds
from ram_ray.data_engine.ray_counts import read_sums, sum_rows, write_sums
from ram_ray.data_engine.stage_settings import ScoreWeightSettings
from ram_ray.data_engine.tag_pairs import MENTION_COLUMNS, PAIRS, CoOccurrence, count_pairs, gather_pairs
from ram_ray.label_system import LabelSystem
from ram_ray.results import LabelSystemResult, Scores, ScoreWeights
from ram_ray.runtime.artifacts import Run
from ram_ray.runtime.rows import read_rows
from ram_ray.runtime.tasks import Task
from ram_ray.settings.runtime import Execution

PAIRS_FILE = "score_weights.npz"  # the pairs; the weights are in the manifest
MAX_IMAGES = 100_000  # that the weights are fitted on, some hundred scores each


def fit_score_weights(
    run: Run, config: RunConfig, scores: Scores, labels: LabelSystemResult, *, num_models: int, round: int
) -> ScoreWeights:
    """Fit the weights of the tagger's score and of co-occurrence.

    Args:
        run: the run that gets the stage.
        config: of the run.
        scores: SCORES rows.
        labels: the label system.
        num_models: number of scoring models. Weights are fitted on images that the model did not learn from; pairs
            come from captions, so they are counted on all images.
        round: number of the round of the data engine, part of the stage's name.

    Returns:
        The weights; `PAIRS_FILE` in the stage's folder is for `load_score_combiner`.
    """
    settings, execution = ScoreWeightSettings.from_config(config, num_models=num_models, round=round), config.execution
    stage = run.stage(f"score_weights_{round}", ScoreWeights, settings=settings, inputs=[scores, labels])
    if stage.result:
        return stage.result
    pairs_uri, sums = f"{stage.path}/{PAIRS_FILE}", f"{stage.work}/pairs"
    images, pairs = _count_pairs(scores.path, pairs_uri, sums=sums, system_uri=labels.uri, execution=execution)
    share = weights_share(scores.rows_out, fold=settings.fold)
    weights = _fit(scores.path, pairs_uri, execution=execution, fold=settings.fold, share=share)
    return stage.finish(images=images, pairs=pairs, **asdict(weights))


def load_score_combiner(score_weights: ScoreWeights, *, execution: Execution) -> ray.ObjectRef[ScoreCombiner]:
    """Read the combiner that the stage fitted, in a task: the driver does not hold it, and not every task reads it.

    Args:
        score_weights: result of the stage.
        execution: how the stages of the run are executed.

    Returns:
        A reference to the combiner.
    """
    weights = Weights(score_weights.constant, score_weights.score, score_weights.co_occurrence)
    return _load(f"{score_weights.path}/{PAIRS_FILE}", weights, execution=execution)


def read_rate_bounds(score_weights: ScoreWeights, *, execution: Execution) -> np.ndarray:
    """Compute the bounds of the mention rates (`mention_rate_bound`) of the stage's pairs, in a task.

    Args:
        score_weights: result of the stage.
        execution: how the stages of the run are executed.

    Returns:
        (T,) float64; 0 without a bound.
    """

    def bounds(uri: str) -> np.ndarray:
        return mention_rate_bounds(read_pairs(uri))

    return Task(bounds, num_cpus=execution.task_cpus).run(f"{score_weights.path}/{PAIRS_FILE}")


def weights_share(num_rows: int, *, fold: Fold | None) -> float:
    """The share of the shards whose images the weights are fitted on.

    Args:
        num_rows: rows of all shards.
        fold: images that count; None: all.

    Returns:
        Above 0, at most 1.
    """
    return min(1.0, MAX_IMAGES / max(1.0, num_rows * (fold.share if fold else 1.0)))


def _load(uri: str, weights: Weights, *, execution: Execution) -> ray.ObjectRef[ScoreCombiner]:
    def read() -> ScoreCombiner:
        return ScoreCombiner(CoOccurrence(read_pairs(uri)), weights)

    reference = Task(read, num_cpus=execution.task_cpus).start()
    ray.wait([reference], fetch_local=False)
    return reference


def _count_pairs(path: str, uri: str, *, sums: str, system_uri: str, execution: Execution) -> tuple[int, int]:
    """Write the pairs of all images; numbers of images and of pairs."""
    num_tags = len(LabelSystem.load(system_uri))
    rows = read_rows(path, execution=execution, columns=["key", *MENTION_COLUMNS, "reason"])
    write_sums(rows, lambda block: count_pairs(block, num_tags=num_tags), PAIRS, sums, execution=execution)

    def gather() -> tuple[int, int]:
        pairs = gather_pairs(read_sums(sums), LabelSystem.load(system_uri))
        write_pairs(uri, pairs)
        return int(pairs.num_images.sum()), len(pairs.other)

    return Task(gather, num_cpus=execution.task_cpus).run()


def _fit(path: str, pairs_uri: str, *, execution: Execution, fold: Fold | None, share: float) -> Weights:
    combiner = _load(pairs_uri, Weights(), execution=execution)

    def count(block: pa.Table) -> pa.Table:
        selected = fold.contains if fold else lambda key: True
        return count_score_cells(block, co_occurrence=ray.get(combiner).co_occurrence, selected=selected)

    columns = ["key", *MENTION_COLUMNS, "reason", "tagger_ids", "tagger_logits"]
    rows = read_rows(path, execution=execution, columns=columns, share=share)
    return fit_weights(sum_rows(rows, count, SCORE_CELLS, execution=execution))
