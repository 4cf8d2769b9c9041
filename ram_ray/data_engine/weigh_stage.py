"""The stage `weighed` on Ray Data: tags that captions say together, counted; then how much that tells beside the score.

Two passes over the SCORES rows, each a sum of counts, and one file, `weigher.npz`, which every later task reads the
company of a picture's tags from. The driver holds a row a pair of tags that occurs.
"""

from __future__ import annotations

from dataclasses import asdict

import pyarrow as pa
import ray

from ram_ray.config import RunConfig
from ram_ray.data.parts import Part
from ram_ray.data_engine.on_ray import sum_rows
from ram_ray.data_engine.pairs import PAIRS, Company, Pairs, count_pairs, gather_pairs
from ram_ray.data_engine.weigh import WEIGHED, Weigher, Weights, count_weighed, fit_weights, read_weigher, write_weigher
from ram_ray.label_system import LabelSystem
from ram_ray.labels.stages import label_system_uri
from ram_ray.runtime.annotate import read_rows
from ram_ray.runtime.artifacts import Manifest, Run


def weigh(
    run: Run, config: RunConfig, scores: Manifest, labels: Manifest, *, unseen: Part | None, round: int
) -> Manifest:
    """How the tagger's score and a tag's company are weighed.

    Args:
        run: gets the stage's folder.
        config: of the run.
        scores: stage that left SCORES rows.
        labels: stage that built the label system.
        unseen: the pictures that their model did not see, on which weights are fitted; None: all. Pairs are of
            captions, so they are counted over all.
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
    """What the stage left; to be put into Ray's object store once, and not to be read by every task."""
    pairs, weights = read_weigher(f"{weighed.path}/weigher.npz")
    return Weigher(Company(pairs), weights)


def _read_pairs(path: str, *, config: RunConfig, system: LabelSystem) -> Pairs:
    num_tags = len(system)
    rows = read_rows(path, run=config, columns=["key", "captions", "removed", "reason"])
    return gather_pairs(
        sum_rows(rows, lambda block: count_pairs(block, num_tags=num_tags), PAIRS, config=config), system
    )


def _fit(path: str, pairs: Pairs, *, config: RunConfig, unseen: Part | None) -> Weights:
    reference = ray.put(Company(pairs))

    def count(block: pa.Table) -> pa.Table:
        chosen = unseen.holds if unseen else lambda key: True
        return count_weighed(block, company=ray.get(reference), chosen=chosen)

    columns = ["key", "captions", "removed", "reason", "tagger_ids", "tagger_logits"]
    return fit_weights(sum_rows(read_rows(path, run=config, columns=columns), count, WEIGHED, config=config))
