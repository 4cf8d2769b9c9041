"""The stage `shards`: from URIs to a checked and counted table of images and their locations.

If a run names no shards, the drawn scenes are written first, as ordinary shards of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data

from ram_ray.config import RunConfig
from ram_ray.data.hidden_captions import hide_captions
from ram_ray.data.shards import Shard, list_shards, scan_shard
from ram_ray.drawn_scenes import plan_corpus, write_shard
from ram_ray.records import SAMPLE, to_table
from ram_ray.runtime.annotate import annotate, count_and_reject
from ram_ray.runtime.artifacts import Manifest, Run, Stage
from ram_ray.runtime.storage import TASK_RETRIES, make_folder

ROWS_AT_ONCE = 1000


def collect(run: Run, config: RunConfig, *, name: str, uris: list[str], held_out: bool = False) -> Manifest:
    """Check the shards at `uris` and write `records.SAMPLE` rows.

    Args:
        run: the run that gets the stage's folder.
        config: configuration of the run; `data` sets how shards are read and checked.
        name: name of the stage.
        uris: paths, URIs or globs of shards, see `list_shards`.
        held_out: whether the shards are not trained on: then no caption of an image is hidden.

    Returns:
        The stage's manifest, with counts of shards and rows.

    Raises:
        ValueError: if a name is no shard, or no row is usable.
    """
    shards = list_shards(uris, folders=config.data.shard_folders)
    excluded = {"train", "eval", "shard_folders", "drawn", "rows_per_block", "measure"}  # the names are in `shards`
    data = config.data.model_dump(mode="json", exclude=excluded)
    num_shown = None if held_out else config.data.measure.captions_per_image
    if num_shown:
        data |= {"captions_per_image": num_shown, "seed": config.seed}
    stage = run.stage(name, kind="annotations", config={"data": data, "shards": _identity(shards)}, inputs=[])
    if stage.manifest:
        return stage.manifest
    limits = config.data.limits()
    check = config.data.check

    def read(source: dict[str, Any]) -> Iterator[dict[str, Any]]:
        rows = scan_shard(Shard(source["shard"], source["uri"], source["format"]), limits=limits, check=check)
        return (hide_captions(row, num_shown=num_shown, seed=config.seed) for row in rows) if num_shown else rows

    _scan(
        stage,
        config,
        sources=[{"shard": shard.name, "uri": shard.uri, "format": shard.format} for shard in shards],
        read=read,
    )
    rows, rejected = count_and_reject(stage, run=config)
    if rows == rejected:
        raise ValueError(f"{name}: none of the {rows} rows of {', '.join(uris)} is usable; see {run.path('rejected')}")
    return stage.finish(
        shards=len(shards), rows_in=rows, rows_out=rows - rejected, rejected=rejected, images=rows - rejected
    )


def _scan(
    stage: Stage,
    config: RunConfig,
    *,
    sources: list[dict[str, Any]],
    read: Callable[[dict[str, Any]], Iterator[dict[str, Any]]],
) -> None:
    """Write the `records.SAMPLE` rows of every source to the stage's folder.

    Args:
        stage: the stage that gets the rows.
        config: configuration of the run.
        sources: sources, each with the name of its `shard`; after a kill an unfinished source is read again whole.
        read: function from a source to its rows.
    """
    listing = f"{stage.work}/listing"
    fs, root = fsspec.url_to_fs(listing)
    make_folder(fs, root)
    with fs.open(f"{root}/shards.parquet", "wb") as file:
        pq.write_table(pa.Table.from_pylist(sources), file)

    def scan(block: pa.Table) -> Iterator[pa.Table]:
        for source in block.to_pylist():
            rows = read(source)
            while part := list(islice(rows, ROWS_AT_ONCE)):
                yield to_table(part, SAMPLE)

    annotate(
        stage,
        lambda dataset: dataset.map_batches(
            scan, batch_format="pyarrow", batch_size=1, num_cpus=config.resources.task_cpus
        ),
        source=listing,
        schema=SAMPLE,
        run=config,
        rows_in=0,
        id_column="shard",
        rows_per_block=1,
        partitioned=False,
    )


def draw_corpus(run: Run, config: RunConfig) -> tuple[list[str], list[str]]:
    """Write the drawn scenes as shards of the run, once.

    Args:
        run: the run that gets the stage's folder.
        config: configuration of the run.

    Returns:
        URIs of the training shards, and of the evaluation shards.
    """
    drawn = config.data.drawn
    stage = run.stage("scenes", kind="annotations", config={"drawn": drawn, "seed": config.seed}, inputs=[])
    plan = plan_corpus(f"{stage.path}/drawn", config=drawn)  # the folder is a part of the shards' names
    if stage.manifest is None:
        write: Any = ray.remote(num_cpus=config.resources.task_cpus, **TASK_RETRIES)(write_shard)  # type: ignore[arg-type]
        existing = {path.rpartition("/")[2] for path in _names(f"{stage.path}/drawn")}
        missing = [shard for shard in plan if shard.uri.rpartition("/")[2] not in existing]
        references = [
            write.remote(shard.uri, kind=shard.kind, index=shard.index, config=drawn, seed=config.seed)
            for shard in missing
        ]
        for reference in references:
            ray.get(reference)
        stage.finish(shards=len(plan), images=drawn.num_web + drawn.num_clean + drawn.num_eval)
    return [shard.uri for shard in plan if shard.kind != "eval"], [shard.uri for shard in plan if shard.kind == "eval"]


def _names(folder: str) -> list[str]:
    """Paths in a folder; none if it does not exist."""
    fs, root = fsspec.url_to_fs(folder)
    try:
        return fs.ls(root, detail=False)
    except FileNotFoundError:
        return []


def _identity(shards: list[Shard]) -> list[dict[str, Any]]:
    """What identifies the content of a shard: its name, URI, size and version."""
    return [{"name": shard.name, "uri": shard.uri, "size": shard.size, "changed": shard.version} for shard in shards]
