"""The stage `generate` on Ray Data.

decode tasks -> Generator actors (tagger, captions) -> CaptionTags actors (parser) -> annotations
"""

from __future__ import annotations

import ray.data
from ray.data import Dataset

from ram_ray.annotate import annotate
from ram_ray.artifacts import Manifest, Run
from ram_ray.config import RunConfig
from ram_ray.engine.generate import CaptionTags, Generator
from ram_ray.engine.on_ray import actors, finish, predictor_options, with_pixels
from ram_ray.labels.stages import label_system_uri
from ram_ray.records import ANNOTATION


def generate(
    run: Run, config: RunConfig, annotations: Manifest, model: Manifest, labels: Manifest, *, round: int
) -> Manifest:
    """Add the captions and tags that the model sees and no caption says."""
    settings = config.engine.generate
    stage = run.stage(f"generate_{round}", kind="annotations", config=settings, inputs=[annotations, model, labels])
    if stage.manifest:
        return stage.manifest
    size = model.counts["image_size"]

    def transform(dataset: Dataset) -> Dataset:
        return (
            with_pixels(dataset, size=size, batch_size=settings.batch_size, config=config)
            .map_batches(
                Generator,
                fn_constructor_args=(model.path, settings),
                fn_constructor_kwargs=predictor_options(config),
                batch_format="numpy",
                batch_size=settings.batch_size,
                **actors(config),
            )
            .map_batches(
                CaptionTags,
                fn_constructor_args=(config.labels.parser, label_system_uri(labels.path)),
                fn_constructor_kwargs={
                    "max_caption_chars": config.labels.max_caption_chars,
                    "match": config.labels.match,
                },
                batch_format="pyarrow",
                batch_size=config.data.rows_per_block,
                num_cpus=config.resources.actor_cpus,
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=config.resources.actors),
            )
        )

    annotate(
        stage,
        transform,
        source=annotations.path,
        schema=ANNOTATION,
        run=config,
        rows_in=annotations.counts["rows_out"],
    )
    return finish(stage, config, labels, rows_in=annotations.counts["rows_out"])
