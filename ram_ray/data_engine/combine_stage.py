"""The stage `score_weights` on Ray Data: count the pairs of tags that captions mention together, then fit the weights.

The stage reads the SCORES rows twice, each time for a sum of counts, and writes `score_weights.npz`, from which later
tasks compute the co-occurrence of an image's tags. The driver holds a row for each pair of tags that occurs.
"""

from __future__ import annotations

from dataclasses import asdict

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
    read_score_weights,
    write_score_weights,
)
from ram_ray.data_engine.ray_counts import sum_rows
from ram_ray.data_engine.stage_settings import ScoreWeightSettings
from ram_ray.data_engine.tag_pairs import MENTION_COLUMNS, PAIRS, CoOccurrence, Pairs, count_pairs, gather_pairs
from ram_ray.label_system import LabelSystem
from ram_ray.results import LabelSystemResult, Scores, ScoreWeights
from ram_ray.runtime.artifacts import Run
from ram_ray.runtime.rows import read_rows
from ram_ray.settings.runtime import Execution


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
        The weights; `score_weights.npz` in the stage's folder is for `load_score_combiner`.
    """
    settings, execution = ScoreWeightSettings.from_config(config, num_models=num_models, round=round), config.execution
    stage = run.stage(f"score_weights_{round}", ScoreWeights, settings=settings, inputs=[scores, labels])
    if stage.result:
        return stage.result
    pairs = _read_pairs(scores.path, execution=execution, system=LabelSystem.load(labels.uri))
    weights = _fit(scores.path, pairs, execution=execution, fold=settings.fold)
    write_score_weights(f"{stage.path}/score_weights.npz", pairs, weights)
    return stage.finish(images=int(pairs.num_images.sum()), pairs=len(pairs.other), **asdict(weights))


def load_score_combiner(score_weights: ScoreWeights) -> ScoreCombiner:
    """Read `score_weights.npz`; put the result into Ray's object store, so that not every task reads the file.

    Args:
        score_weights: result of the stage.

    Returns:
        The combiner that the stage fitted.
    """
    pairs, weights = read_score_weights(f"{score_weights.path}/score_weights.npz")
    return ScoreCombiner(CoOccurrence(pairs), weights)


def _read_pairs(path: str, *, execution: Execution, system: LabelSystem) -> Pairs:
    num_tags = len(system)
    rows = read_rows(path, execution=execution, columns=["key", *MENTION_COLUMNS, "reason"])
    return gather_pairs(
        sum_rows(rows, lambda block: count_pairs(block, num_tags=num_tags), PAIRS, execution=execution), system
    )


def _fit(path: str, pairs: Pairs, *, execution: Execution, fold: Fold | None) -> Weights:
    reference = ray.put(CoOccurrence(pairs))

    def count(block: pa.Table) -> pa.Table:
        selected = fold.contains if fold else lambda key: True
        return count_score_cells(block, co_occurrence=ray.get(reference), selected=selected)

    columns = ["key", *MENTION_COLUMNS, "reason", "tagger_ids", "tagger_logits"]
    return fit_weights(
        sum_rows(read_rows(path, execution=execution, columns=columns), count, SCORE_CELLS, execution=execution)
    )
