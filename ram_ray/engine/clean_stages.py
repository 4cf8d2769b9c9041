"""The stages of cleaning on Ray Data, one round in three steps.

    regions    decode tasks -> RegionEmbedder actors -> a row an image: boxes, embeddings, agreement
    removals   regions grouped by category -> FAISS k-means -> which image loses which tag, and why
    clean      annotations, joined with the removals of their own shard -> annotations

Each step is a stage of its own with its own digest, so a run that is killed in one goes on there.
"""

from __future__ import annotations

import functools

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from ray.data import SaveMode

from ram_ray.annotate import annotate, read_rows
from ram_ray.artifacts import Manifest, Run
from ram_ray.config import RunConfig
from ram_ray.engine.clean import IMAGE_REGIONS, REMOVALS, RegionEmbedder, apply_removals, decide, explode_regions
from ram_ray.engine.folds import ByPart
from ram_ray.engine.on_ray import actors, finish, predictor_options, with_pixels
from ram_ray.records import ANNOTATION


def clean(
    run: Run,
    config: RunConfig,
    annotations: Manifest,
    judges: list[Manifest],
    labels: Manifest,
    teacher: Manifest,
    *,
    round: int,
) -> Manifest:
    """Remove tags that do not look like their category, and tags that the model does not see on their region.

    Args:
        judges: the model, or one for each part of the pictures (`ram_ray.engine.folds`).
    """
    settings = config.engine.clean
    stage = run.stage(
        f"clean_{round}", kind="annotations", config=settings, inputs=[annotations, *judges, labels, teacher]
    )
    if stage.manifest:
        return stage.manifest
    regions = find_regions(run, config, annotations, judges, teacher, round=round)
    removals = find_removals(run, config, regions, round=round)

    def remove(block: pa.Table) -> pa.Table:
        shards = sorted(set(block["shard"].to_pylist()))
        parts = [_removals_of(removals.path, shard) for shard in shards]
        return apply_removals(block, pa.concat_tables(parts) if parts else REMOVALS.empty_table(), round=round)

    annotate(
        stage,
        lambda dataset: dataset.map_batches(
            remove, batch_format="pyarrow", batch_size=None, num_cpus=config.resources.task_cpus
        ),
        source=annotations.path,
        schema=ANNOTATION,
        run=config,
        rows_in=annotations.counts["rows_out"],
    )
    return finish(stage, config, labels, rows_in=annotations.counts["rows_out"])


def find_regions(
    run: Run, config: RunConfig, annotations: Manifest, judges: list[Manifest], teacher: Manifest, *, round: int
) -> Manifest:
    """Boxes, embeddings and agreement of every tag of every image."""
    settings = config.engine.clean
    identity = settings.model_dump(include={"detector", "revision"})
    stage = run.stage(f"regions_{round}", kind="annotations", config=identity, inputs=[annotations, *judges, teacher])
    if stage.manifest:
        return stage.manifest
    size = judges[0].counts["image_size"]
    annotate(
        stage,
        lambda dataset: with_pixels(dataset, size=size, batch_size=settings.batch_size, config=config).map_batches(
            ByPart,
            fn_constructor_args=(RegionEmbedder, [one.path for one in judges], teacher.counts["source"], settings),
            fn_constructor_kwargs={"teacher_revision": teacher.counts["revision"], **predictor_options(config)},
            batch_format="numpy",
            batch_size=settings.batch_size,
            **actors(config),
        ),
        source=annotations.path,
        schema=IMAGE_REGIONS,
        run=config,
        rows_in=annotations.counts["rows_out"],
    )
    return stage.finish(images=annotations.counts["rows_out"])


def find_removals(run: Run, config: RunConfig, regions: Manifest, *, round: int) -> Manifest:
    """Per category: cluster the crops, and list which image loses the tag."""
    settings, seed, cpus = config.engine.clean, config.seed, config.resources.task_cpus
    identity = {"clean": settings, "seed": seed}
    stage = run.stage(f"removals_{round}", kind="annotations", config=identity, inputs=[regions])
    if stage.manifest:
        return stage.manifest
    removals = (
        read_rows(regions.path, run=config)
        .map_batches(explode_regions, batch_format="pyarrow", batch_size=None, num_cpus=cpus)
        .groupby("tag", num_partitions=config.resources.shuffle_partitions)
        .map_groups(lambda group: decide(group, config=settings, seed=seed), batch_format="pyarrow", num_cpus=cpus)
    )
    removals.write_parquet(
        stage.path, partition_cols=["shard"], mode=SaveMode.OVERWRITE, ray_remote_args={"num_cpus": cpus}
    )
    return stage.finish()


@functools.lru_cache(maxsize=64)
def _removals_of(path: str, shard: str) -> pa.Table:
    """REMOVALS rows of one shard."""
    fs, root = fsspec.url_to_fs(f"{path}/shard={shard}")
    files = sorted(one for one in fs.ls(root, detail=False) if one.endswith(".parquet")) if fs.exists(root) else []
    names = [name for name in REMOVALS.names if name != "shard"]
    parts = []
    for file in files:
        with fs.open(file, "rb") as handle:
            part = pq.read_table(handle, columns=names, partitioning=None)
        parts.append(part.append_column("shard", pa.array([shard] * len(part), pa.string())).select(REMOVALS.names))
    return pa.concat_tables([one.cast(REMOVALS) for one in parts]) if parts else REMOVALS.empty_table()
