"""The stage `shards`: from URIs to a checked and counted table of images and their locations.

If a run names no shards, the drawn scenes are written first, as ordinary shards of the run.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Literal

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from ram_ray.config import RunConfig
from ram_ray.data.annotation_list import check_system
from ram_ray.data.shards import Format, Shard, list_shards, scan_shard
from ram_ray.data.unread import Unread
from ram_ray.drawn_scenes import plan_corpus, write_shard
from ram_ray.records import SAMPLE, Row, to_table
from ram_ray.results import DrawnShards, Samples
from ram_ray.runtime.annotate import annotate, reject_counted
from ram_ray.runtime.artifacts import Run, Stage
from ram_ray.runtime.storage import make_folder
from ram_ray.runtime.tasks import Task, wait_for
from ram_ray.settings.data import DrawnConfig, LayoutConfig, Limits
from ram_ray.settings.runtime import Execution
from ram_ray.settings.section import RUNTIME_ONLY, Section, StageSettings

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 1000


class ListedShard(Section):
    """A shard, and what identifies its content."""

    name: str
    uri: str
    size: int | None
    changed: str  # version of the storage
    format: Format = Field(json_schema_extra=RUNTIME_ONLY)  # follows from the URI


class SampleSettings(StageSettings):
    """All that the rows of the stage `shards` depend on."""

    shards: tuple[ListedShard, ...]
    check: Literal["decode", "header"]
    min_side: int
    max_pixels: int
    max_bytes: int
    images: str | None = None  # folder that the image paths of lists and tables start from; None: theirs
    layout: LayoutConfig

    @classmethod
    def from_config(cls, config: RunConfig, *, uris: list[str]) -> SampleSettings:
        """List the shards, and take the settings of their rows.

        Args:
            config: configuration of the run.
            uris: paths, URIs or globs of shards, see `list_shards`.

        Returns:
            The settings.

        Raises:
            ValueError: if a name is no shard, or a JSON list has label ids and `labels.system` does not name them.
        """
        data = config.data
        unread = Unread()
        shards = list_shards(uris, folders=data.shard_folders, images=data.images, layout=data.layout, unread=unread)
        if unread:
            logger.info("not read, for they are no shards: %s", unread)
        lists = [shard for shard in shards if shard.format == "json"]
        for shard in lists:
            check_system(shard.uri, config.labels.system)
        return cls(
            shards=tuple(
                ListedShard(name=shard.name, uri=shard.uri, size=shard.size, changed=shard.version, format=shard.format)
                for shard in shards
            ),
            check=data.check,
            min_side=data.min_side,
            max_pixels=data.max_pixels,
            max_bytes=data.max_bytes,
            images=shards[0].images,
            layout=data.layout,
        )

    @property
    def limits(self) -> Limits:
        """Limits of a usable image."""
        return Limits(self.min_side, self.max_pixels, self.max_bytes)

    def read(self, source: Row) -> Iterator[Row]:
        """Read the rows of a shard.

        Args:
            source: name, URI and format of the shard.

        Returns:
            An iterator of rows.
        """
        shard = Shard(source["shard"], source["uri"], source["format"], images=self.images)
        return scan_shard(shard, limits=self.limits, check=self.check, layout=self.layout)


class DrawnSettings(StageSettings):
    """All that the drawn scenes depend on."""

    drawn: DrawnConfig
    seed: int

    @classmethod
    def from_config(cls, config: RunConfig) -> DrawnSettings:
        """Take the settings out of the configuration of the run."""
        return cls(drawn=config.data.drawn, seed=config.seed)


def collect(run: Run, config: RunConfig, *, name: str, uris: list[str], held_out: bool = False) -> Samples:
    """Check the shards at `uris` and write `records.SAMPLE` rows.

    Args:
        run: the run that gets the stage's folder.
        config: configuration of the run; `data` sets how shards are read and checked.
        name: name of the stage.
        uris: paths, URIs or globs of shards, see `list_shards`.
        held_out: whether the shards are not trained on.

    Returns:
        The result of the stage.

    Raises:
        ValueError: if a name is no shard, or no row is usable; the message has the reason of a row.
    """
    settings = SampleSettings.from_config(config, uris=uris)
    stage = run.stage(name, Samples, settings=settings, inputs=[])
    if stage.result:
        return stage.result
    counts = _scan(stage, settings, execution=config.execution)
    rows, rejected = reject_counted(stage, counts, execution=config.execution)
    if rows == rejected:
        raise ValueError(
            f"{name}: none of the {rows} rows of {', '.join(uris)} is usable, such as {_first_rejected(stage)}; "
            f"see {run.path('rejected')}"
        )
    usable = rows - rejected
    return stage.finish(
        shards=len(settings.shards),
        rows_in=rows,
        rows_out=usable,
        rejected=rejected,
        images=usable,
        held_out=held_out,
    )


def _first_rejected(stage: Stage[Samples]) -> str:
    """The key, the reason and the detail of a rejected row, one of the most frequent reason in a file of them."""
    fs, root = fsspec.url_to_fs(stage.run.path("rejected", stage.name))
    with fs.open(sorted(fs.find(root))[0], "rb") as file:
        rows = pq.read_table(file, columns=["key", "reason", "detail"]).to_pylist()
    ((reason, _),) = Counter(row["reason"] for row in rows).most_common(1)
    row = next(row for row in rows if row["reason"] == reason)
    return f"{row['key']}: {reason}: {row['detail']}"


def _scan(stage: Stage[Samples], settings: SampleSettings, *, execution: Execution) -> dict[str, float]:
    """Write the `records.SAMPLE` rows of every shard to the stage's folder.

    Args:
        stage: the stage that gets the rows.
        settings: of the stage; after a kill an unfinished shard is read again whole.
        execution: how the stages of the run are executed.

    Returns:
        The counts of the rows, see `rows.COUNTED_REASONS`.
    """
    listing = f"{stage.work}/listing"
    fs, root = fsspec.url_to_fs(listing)
    make_folder(fs, root)
    sources = [{"shard": shard.name, "uri": shard.uri, "format": shard.format} for shard in settings.shards]
    with fs.open(f"{root}/shards.parquet", "wb") as file:
        pq.write_table(pa.Table.from_pylist(sources), file)
    read = settings.model_copy(update={"shards": ()}).read  # a task has its shard in its row

    def scan(block: pa.Table) -> Iterator[pa.Table]:
        for source in block.to_pylist():
            rows = read(source)
            while part := list(islice(rows, ROWS_AT_ONCE)):
                yield to_table(part, SAMPLE)

    return annotate(
        stage,
        lambda dataset: dataset.map_batches(scan, batch_format="pyarrow", batch_size=1, num_cpus=execution.task_cpus),
        source=listing,
        schema=SAMPLE,
        execution=execution,
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
    settings, execution = DrawnSettings.from_config(config), config.execution
    stage = run.stage("scenes", DrawnShards, settings=settings, inputs=[])
    drawn = settings.drawn
    plan = plan_corpus(f"{stage.path}/drawn", config=drawn)  # the folder is a part of the shards' names
    if stage.result is None:
        write = Task(write_shard, num_cpus=execution.task_cpus)
        existing = {path.rpartition("/")[2] for path in _names(f"{stage.path}/drawn")}
        missing = [shard for shard in plan if shard.uri.rpartition("/")[2] not in existing]
        wait_for(
            [
                write.start(shard.uri, kind=shard.kind, index=shard.index, config=drawn, seed=settings.seed)
                for shard in missing
            ]
        )
        stage.finish(shards=len(plan), images=drawn.num_web + drawn.num_clean + drawn.num_eval)
    return [shard.uri for shard in plan if shard.kind != "eval"], [shard.uri for shard in plan if shard.kind == "eval"]


def _names(folder: str) -> list[str]:
    """Paths in a folder; none if it does not exist."""
    fs, root = fsspec.url_to_fs(folder)
    try:
        return fs.ls(root, detail=False)
    except FileNotFoundError:
        return []
