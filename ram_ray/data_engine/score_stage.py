"""The stage `scores`: decode tasks -> Generator actors (tagger, captions) -> CaptionTags tasks (parser) -> rows."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from ray.data import Dataset

from ram_ray.config import RunConfig
from ram_ray.data.pixels import with_pixels
from ram_ray.data_engine.generate import SCORES, CaptionTags, Generator
from ram_ray.data_engine.model_by_fold import ModelByFold
from ram_ray.data_engine.ray_counts import finish_counts
from ram_ray.data_engine.stage_settings import ScoreSettings
from ram_ray.labels.stages import counted_annotations
from ram_ray.results import Annotations, LabelSystemResult, Scores, TrainedModel
from ram_ray.runtime.actors import model_actors, predictor_options
from ram_ray.runtime.annotate import annotate, map_captions
from ram_ray.runtime.artifacts import Run
from ram_ray.runtime.per_process import PerProcess

ORIGINS = ("generated_caption", "tagger")  # of tags that the engine adds


def count_origins(block: pa.Table) -> dict[str, float]:
    """Count the tags of a block that the engine added, by origin; see `rows.Counted`.

    Args:
        block: ANNOTATION rows; rejected rows do not count.

    Returns:
        Number of tags by origin.
    """
    usable = block.filter(pc.is_null(block["reason"])).combine_chunks()
    origins = pc.struct_field(pc.list_flatten(usable["tags"]), "origin")
    return {name: pc.sum(pc.equal(origins, name)).as_py() or 0 for name in ORIGINS}


def score(
    run: Run,
    config: RunConfig,
    annotations: Annotations,
    scoring_models: Sequence[TrainedModel],
    labels: LabelSystemResult,
    *,
    round: int,
) -> Scores:
    """Score every image: generated captions with their tags, and the likeliest tags with their scores.

    Args:
        run: the run that gets the stage.
        config: of the run.
        annotations: ANNOTATION rows of the images.
        scoring_models: the model, or one for each fold (`data_engine.model_by_fold`).
        labels: the label system.
        round: number of the round of the data engine, part of the stage's name.

    Returns:
        The SCORES rows.
    """
    settings, execution = ScoreSettings.from_config(config, round=round), config.execution
    stage = run.stage(f"scores_{round}", Scores, settings=settings, inputs=[annotations, *scoring_models, labels])
    if stage.result:
        return stage.result
    read_tags = PerProcess(
        CaptionTags,
        settings.parser,
        labels.uri,
        max_caption_chars=settings.max_caption_chars,
        match=settings.match,
    )

    def transform(dataset: Dataset) -> Dataset:
        size, batch_size = scoring_models[0].image_size, settings.batch_size
        pixels = with_pixels(dataset, size=size, batch_size=batch_size, execution=execution)
        scored = pixels.map_batches(
            ModelByFold,
            fn_constructor_args=(Generator, [model.path for model in scoring_models], settings),
            fn_constructor_kwargs=predictor_options(execution),
            batch_format="numpy",
            batch_size=batch_size,
            **model_actors(execution.resources),
        )
        return map_captions(scored, read_tags, execution=execution)

    rows_in = annotations.rows_out
    sums = annotate(
        stage,
        transform,
        source=annotations.path,
        schema=SCORES,
        execution=execution,
        rows_in=rows_in,
        count=counted_annotations(count_origins),
    )
    counts = finish_counts(stage, sums, rows_in=rows_in, execution=execution)
    return stage.finish(**counts)
