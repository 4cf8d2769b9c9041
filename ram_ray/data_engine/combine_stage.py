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
from ram_ray.data_engine.tag_pairs import PAIRS, CoOccurrence, Pairs, count_pairs, gather_pairs
from ram_ray.label_system import LabelSystem
from ram_ray.labels.stages import label_system_uri
from ram_ray.runtime.annotate import read_rows
from ram_ray.runtime.artifacts import Manifest, Run


def weigh(
    run: Run, config: RunConfig, scores: Manifest, labels: Manifest, *, unseen: Part | None, round: int
) -> Manifest:
    """Fit the weights of the tagger's score and of co-occurrence.

    Args:
        run: the run that gets the stage.
        config: of the run.
        scores: stage that wrote SCORES rows.
        labels: stage that built the label system.
        unseen: the images that the model did not learn from, on which weights are fitted; None: all. Pairs come from
            captions, so they are counted on all images.
        round: number of the round of the data engine, part of the stage's name.

    Returns:
        The stage's manifest; `weigher.npz` in its folder is for `load_weigher`.
    """
    identity = {"holdout": [unseen.start, unseen.end] if unseen else None}
    stage = run.stage(f"weighed_{round}", kind="annotations", config=identity, inputs=[scores, labels])
    if stage.manifest:
        return stage.manifest
    pairs = _read_pairs(scores.path, config=config, system=LabelSystem.load(label_system_uri(labels.path)))
    weights = _fit(scores.path, pairs, config=config, unseen=unseen)
    write_weigher(f"{stage.path}/weigher.npz", pairs, weights)
    return stage.finish(images=int(pairs.pictures.sum()), pairs=len(pairs.other), **asdict(weights))


def load_weigher(weighed: Manifest) -> Weigher:
    """Read `weigher.npz`; put the result into Ray's object store, so that not every task reads the file.

    Args:
        weighed: manifest of the stage.

    Returns:
        The weigher that the stage fitted.
    """
    pairs, weights = read_weigher(f"{weighed.path}/weigher.npz")
    return Weigher(CoOccurrence(pairs), weights)


def _read_pairs(path: str, *, config: RunConfig, system: LabelSystem) -> Pairs:
    num_tags = len(system)
    rows = read_rows(path, run=config, columns=["key", "captions", "removed", "reason"])
    return gather_pairs(
        sum_rows(rows, lambda block: count_pairs(block, num_tags=num_tags), PAIRS, config=config), system
    )


def _fit(path: str, pairs: Pairs, *, config: RunConfig, unseen: Part | None) -> Weights:
    reference = ray.put(CoOccurrence(pairs))

    def count(block: pa.Table) -> pa.Table:
        selected = unseen.holds if unseen else lambda key: True
        return count_weighed(block, co_occurrence=ray.get(reference), selected=selected)

    columns = ["key", "captions", "removed", "reason", "tagger_ids", "tagger_logits"]
    return fit_weights(sum_rows(read_rows(path, run=config, columns=columns), count, WEIGHED, config=config))
