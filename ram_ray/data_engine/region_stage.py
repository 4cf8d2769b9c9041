"""The stage `regions`: decode tasks -> RegionEmbedder actors -> boxes, embeddings and scores of each image's tags."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from ram_ray.config import RunConfig
from ram_ray.data.pixels import with_pixels
from ram_ray.data_engine.crops import IMAGE_REGIONS, RegionEmbedder
from ram_ray.data_engine.doubts import read_doubts
from ram_ray.data_engine.model_by_fold import ModelByFold
from ram_ray.data_engine.stage_settings import RegionSettings
from ram_ray.label_system import LabelSystem
from ram_ray.results import Annotations, Doubts, DualEncoderResult, LabelSystemResult, Regions, TrainedModel
from ram_ray.runtime.actors import model_actors, predictor_options
from ram_ray.runtime.annotate import annotate
from ram_ray.runtime.artifacts import Run
from ram_ray.runtime.rows import Counted

logger = logging.getLogger(__name__)


def find_regions(
    run: Run,
    config: RunConfig,
    annotations: Annotations,
    scoring_models: Sequence[TrainedModel],
    labels: LabelSystemResult,
    dual_encoder: DualEncoderResult,
    doubts: Doubts | None,
    *,
    round: int,
) -> Regions:
    """Compute boxes, embeddings and agreement of the tags of each image that are cleaned, and of some negatives.

    Args:
        run: the run that gets the stage.
        config: of the run.
        annotations: ANNOTATION rows of the images.
        scoring_models: the model, or one for each fold (`data_engine.model_by_fold`).
        labels: the label system.
        dual_encoder: its image encoder embeds regions.
        doubts: which mentions are in doubt; None: the detector sees all images.
        round: number of the round of the data engine, part of the stage's name.

    Returns:
        The IMAGE_REGIONS rows.
    """
    images, execution = annotations.rows_out, config.execution
    settings = RegionSettings.from_config(config, labels=LabelSystem.load(labels.uri), num_images=images)
    inputs = [annotations, *scoring_models, dual_encoder, *([doubts] if doubts else [])]
    stage = run.stage(f"regions_{round}", Regions, settings=settings, inputs=inputs)
    if stage.result:
        return stage.result
    size, batch_size = scoring_models[0].image_size, settings.batch_size
    bundles = [model.path for model in scoring_models]
    counts = annotate(
        stage,
        lambda dataset: with_pixels(
            dataset, size=size, batch_size=batch_size, execution=execution, bounds=settings.image_bounds
        ).map_batches(
            ModelByFold,
            fn_constructor_args=(RegionEmbedder, bundles, dual_encoder.source, settings),
            fn_constructor_kwargs={
                "doubts": read_doubts(doubts.uri) if doubts else None,
                "teacher_revision": dual_encoder.revision,
                **predictor_options(execution),
            },
            batch_format="numpy",
            batch_size=batch_size,
            **model_actors(execution.resources),
        ),
        source=annotations.path,
        schema=IMAGE_REGIONS,
        execution=execution,
        rows_in=images,
        count=Counted(count_detected, ("regions",)),
    )
    detected = int(counts["detected"])
    if doubts:
        logger.info("%s: the detector saw %s of %s images", stage.name, f"{detected:,}", f"{images:,}")
    return stage.finish(images=images, detected=detected)


def count_detected(block: pa.Table) -> dict[str, float]:
    """Count the images of a block that the detector saw, for `rows.Counted`.

    Args:
        block: IMAGE_REGIONS rows.

    Returns:
        The number, as "detected".
    """
    regions = block["regions"].combine_chunks()
    parents = pc.list_parent_indices(regions)
    seen = parents.filter(pc.struct_field(regions.flatten(), "detected"))
    return {"detected": float(pc.count_distinct(seen).as_py())}
