"""The stage `weighed` on Ray Data: count the pairs of tags that captions mention together, then fit the weights.

The stage reads the SCORES rows twice, each time for a sum of counts, and writes `weigher.npz`, from which later tasks
compute the co-occurrence of an image's tags. The driver holds a row for each pair of tags that occurs.
"""

from __future__ import annotations

from dataclasses import asdict

import pyarrow as pa
import ray

from ram_ray.config import RunConfig
from ram_ray.data.parts import Part
from ram_ray.data_engine.combine_scores import (
    WEIGHED,
    Weigher,
    Weights,
    count_weighed,
    fit_weights,
    read_weigher,
    write_weigher,
)
from ram_ray.data_engine.ray_counts import sum_rows
from ram_ray.data_engine.stage_settings import WeighSettings
from ram_ray.data_engine.tag_pairs import PAIRS, CoOccurrence, Pairs, count_pairs, gather_pairs
from ram_ray.label_system import LabelSystem
from ram_ray.results import LabelSystemResult, Scores, ScoreWeights
from ram_ray.runtime.annotate import read_rows
from ram_ray.runtime.artifacts import Run
from ram_ray.settings.runtime import Execution


def weigh(
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
        The weights; `weigher.npz` in the stage's folder is for `load_weigher`.
    """
    settings, execution = WeighSettings.from_config(config, num_models=num_models), config.execution
    stage = run.stage(f"weighed_{round}", ScoreWeights, settings=settings, inputs=[scores, labels])
    if stage.result:
        return stage.result
    pairs = _read_pairs(scores.path, execution=execution, system=LabelSystem.load(labels.uri))
    weights = _fit(scores.path, pairs, execution=execution, unseen=settings.part)
    write_weigher(f"{stage.path}/weigher.npz", pairs, weights)
    return stage.finish(images=int(pairs.pictures.sum()), pairs=len(pairs.other), **asdict(weights))


def load_weigher(weighed: ScoreWeights) -> Weigher:
    """Read `weigher.npz`; put the result into Ray's object store, so that not every task reads the file.

    Args:
        weighed: result of the stage.

    Returns:
        The weigher that the stage fitted.
    """
    pairs, weights = read_weigher(f"{weighed.path}/weigher.npz")
    return Weigher(CoOccurrence(pairs), weights)


def _read_pairs(path: str, *, execution: Execution, system: LabelSystem) -> Pairs:
    num_tags = len(system)
    rows = read_rows(path, execution=execution, columns=["key", "captions", "removed", "reason"])
    return gather_pairs(
        sum_rows(rows, lambda block: count_pairs(block, num_tags=num_tags), PAIRS, execution=execution), system
    )


def _fit(path: str, pairs: Pairs, *, execution: Execution, unseen: Part | None) -> Weights:
    reference = ray.put(CoOccurrence(pairs))

    def count(block: pa.Table) -> pa.Table:
        selected = unseen.holds if unseen else lambda key: True
        return count_weighed(block, co_occurrence=ray.get(reference), selected=selected)

    columns = ["key", "captions", "removed", "reason", "tagger_ids", "tagger_logits"]
    return fit_weights(
        sum_rows(read_rows(path, execution=execution, columns=columns), count, WEIGHED, execution=execution)
    )
