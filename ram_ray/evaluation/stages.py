"""The stage `evaluate`: a model's scores on labelled images, reduced by blocks of tags on Ray Data."""

from __future__ import annotations

import json
from typing import Any

import fsspec
import pyarrow as pa

from ram_ray.config import RunConfig
from ram_ray.data.pixels import with_pixels
from ram_ray.evaluation.metrics import reduce_tag_block, summarise
from ram_ray.evaluation.scorer import Scorer
from ram_ray.label_system import LabelSystem
from ram_ray.labels.stages import label_system_uri
from ram_ray.models.bundle_config import read_config
from ram_ray.runtime.actors import model_actors, predictor_options
from ram_ray.runtime.annotate import drop_rejected, read_rows
from ram_ray.runtime.artifacts import Manifest, Run, write_text


def evaluate(run: Run, config: RunConfig, labelled: Manifest, model: Manifest, labels: Manifest) -> Manifest:
    """Score a model on annotated images and write summary.json.

    Args:
        run: the run that gets the stage's folder.
        config: of the run.
        labelled: stage that wrote the ANNOTATION rows to score on.
        model: stage that wrote a bundle.
        labels: stage that built the label system.

    Returns:
        The stage's manifest; its counts are the averages of `metrics.summarise`.
    """
    settings, cpus = config.evaluate, config.resources.task_cpus
    stage = run.stage(f"evaluate_{model.stage}", kind="evaluation", config=settings, inputs=[labelled, model])
    if stage.manifest:
        return stage.manifest
    system = LabelSystem.load(label_system_uri(labels.path))
    served = read_config(model.path)  # thresholds and muted tags: counted are the tags that the served model returns
    thresholds, muted = system.thresholds(served.threshold), served.muted
    dataset = read_rows(labelled.path, run=config).map_batches(
        drop_rejected, batch_format="pyarrow", batch_size=None, num_cpus=cpus
    )
    blocks = with_pixels(
        dataset, size=model.counts["image_size"], batch_size=settings.batch_size, config=config
    ).map_batches(
        Scorer,
        fn_constructor_args=(model.path,),
        fn_constructor_kwargs=predictor_options(config),
        batch_format="numpy",
        batch_size=settings.batch_size,
        **model_actors(config.resources),
    )

    def reduce(group: pa.Table) -> pa.Table:
        return reduce_tag_block(group, thresholds=thresholds, muted=muted)

    partitions = min(config.resources.shuffle_partitions, -(-len(system) // 64))
    groups = blocks.groupby("block", num_partitions=partitions)
    rows = groups.map_groups(reduce, batch_format="pyarrow", num_cpus=cpus).iter_rows()
    summary = summarise(
        rows,
        names=system.names,
        kinds=[label.kind for label in system.labels],
        min_positives=settings.min_positives,
    )
    write_text(f"{stage.path}/summary.json", json.dumps(summary))
    figures: dict[str, Any] = {name: value for name, value in summary.items() if name != "per_tag"}
    return stage.finish(images=labelled.counts["rows_out"], model=model.digest, **figures)


def read_summary(score: Manifest) -> dict[str, Any]:
    """Read the summary of an `evaluate` stage.

    Args:
        score: the stage's manifest.

    Returns:
        The dict of `metrics.summarise`.
    """
    with fsspec.open(f"{score.path}/summary.json", "r") as file:
        return json.load(file)
