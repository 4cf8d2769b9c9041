"""How every annotation stage runs on Ray Data: rows in, rows out, resumable after a kill at any moment.

Ray Data's own checkpoint records the keys that were written, with a two-phase commit for each file, so a run that was
killed goes on with the missing rows and writes every row once. Output is partitioned by shard. Rows that an earlier
stage rejected are not read; rows rejected here stay in the output with their reason and are copied to
`rejected/<stage>/`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.data import Dataset, SaveMode

from ram_ray.records import REJECTED, conform
from ram_ray.runtime.artifacts import R, Stage
from ram_ray.runtime.metrics import REJECTED as REJECTED_ROWS
from ram_ray.runtime.metrics import count
from ram_ray.runtime.progress import progress
from ram_ray.runtime.ray_data_internals import write_counted_parquet
from ram_ray.runtime.storage import has_folders, make_folder, remove_folder
from ram_ray.runtime.worker_log import send_to_driver
from ram_ray.settings.runtime import Execution

Transform = Callable[[Dataset], Dataset]
Count = Callable[[pa.Table], dict[str, float]]  # of a block, numbers that add up, by name
logger = logging.getLogger(__name__)

_REASON = "reason "  # before the name of a count
COUNTED_ROWS = 16384  # rows of a block where rows are only counted: a few columns, some MB
NUM_CAPTION_BLOCKS, MAX_CAPTION_ROWS = 256, 4096  # blocks of a stage that reads captions and no images; rows of a block


@dataclass(frozen=True)
class Counted:
    """What a stage counts of the rows that it writes, for its result."""

    of_block: Count
    columns: tuple[str, ...]  # that it reads


def read_rows(
    path: str,
    *,
    execution: Execution,
    columns: list[str] | None = None,
    rows_per_block: int | None = None,
    partitioned: bool = True,
) -> Dataset:
    """Read the rows of a stage's folder.

    Args:
        path: folder or URI.
        execution: how the stages of the run are executed.
        columns: names of the columns that are read; None: all.
        rows_per_block: rows of a block; None: as `execution` has it.
        partitioned: whether the folder is partitioned by shard; shard names stay text ("00000").

    Returns:
        A lazy dataset.
    """
    from ray.data.datasource.partitioning import Partitioning, PartitionStyle

    dataset = ray.data.read_parquet(
        path,
        columns=columns,
        partitioning=Partitioning(PartitionStyle.HIVE, field_types={"shard": str}) if partitioned else None,
        file_extensions=["parquet"],
        num_cpus=execution.task_cpus,
    )
    buffer = execution.resources.buffer_mb * 10**6 if execution.resources.buffer_mb else None
    dataset.context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(
        cpu=execution.resources.max_cpus, object_store_memory=buffer
    )
    if buffer:
        dataset.context.target_max_block_size = buffer // 32  # Ray reserves this much for a task before it has run one
    return dataset.repartition(target_num_rows_per_block=rows_per_block or execution.rows_per_block)


def drop_rejected(block: pa.Table) -> pa.Table:
    """Drop the rows that an earlier stage rejected.

    Args:
        block: rows with or without the column `reason`.

    Returns:
        The rows without a reason.
    """
    if "reason" not in block.column_names:
        return block
    return block.filter(pc.is_null(block["reason"]))


def write_rows(dataset: Dataset, uri: str, *, execution: Execution, partition_cols: list[str] | None = None) -> None:
    """Write a dataset as Parquet files and keep the files that the folder has.

    Args:
        dataset: dataset to write.
        uri: URI of the folder; in an object store no object is made for it.
        execution: how the stages of the run are executed.
        partition_cols: columns that become folders, as "shard=00000".
    """
    dataset.write_parquet(
        uri,
        partition_cols=partition_cols,
        mode=SaveMode.APPEND,
        try_create_dir=has_folders(fsspec.url_to_fs(uri)[0]),
        ray_remote_args={"num_cpus": execution.task_cpus},
    )


def caption_rows_per_block(num_rows: int, *, execution: Execution) -> int:
    """Rows of a block where captions are read and no images: more than of images, if there are many rows.

    The driver keeps about 20 kB of every block until the stage ends.

    Args:
        num_rows: rows of the stage.
        execution: how the stages of the run are executed.

    Returns:
        Rows of a block.
    """
    return min(MAX_CAPTION_ROWS, max(execution.rows_per_block, num_rows // NUM_CAPTION_BLOCKS))


def map_captions(dataset: Dataset, transform: Callable[[pa.Table], pa.Table], *, execution: Execution) -> Dataset:
    """Map blocks of captions in tasks, so that Ray Data uses all CPUs, also those added later.

    Args:
        dataset: rows with captions.
        transform: function of a block.
        execution: how the stages of the run are executed.

    Returns:
        A lazy dataset.
    """
    return dataset.map_batches(
        transform, batch_format="pyarrow", batch_size=execution.rows_per_block, num_cpus=execution.task_cpus
    )


@contextmanager
def checkpointed(path: str, *, id_column: str) -> Iterator[None]:
    """Let datasets that are made and written inside resume from the checkpoint at `path`.

    Args:
        path: folder or URI of the checkpoint.
        id_column: column that identifies a row that was written.
    """
    from ray.data.checkpoint import CheckpointConfig

    context = ray.data.DataContext.get_current()
    fs, root = fsspec.url_to_fs(path)
    make_folder(fs, root)
    context.checkpoint_config = CheckpointConfig(
        id_column=id_column, checkpoint_path=path, delete_checkpoint_on_success=False
    )
    try:
        yield
    finally:
        context.checkpoint_config = None


def annotate(
    stage: Stage[R],
    transform: Transform,
    *,
    source: str,
    schema: pa.Schema,
    execution: Execution,
    rows_in: int,
    count: Counted | None = None,
    id_column: str = "key",
    rows_per_block: int | None = None,
    partitioned: bool = True,
) -> dict[str, float]:
    """Run `transform` over the good rows of `source` and write rows of `schema` to `stage.path`.

    The rows are counted in the tasks that write them. Only a stage that was killed after its first rows were written,
    and is run again, needs a pass over its rows to count them.

    Args:
        stage: the stage that gets the rows; its `work` folder has the checkpoint.
        transform: function from a lazy dataset to a lazy dataset; must keep `id_column`.
        source: folder or URI of rows, in Parquet.
        schema: schema of the rows that are written; each block is checked against it.
        execution: how the stages of the run are executed.
        rows_in: number of rows in all, for the progress line; 0: not known.
        count: what is counted of the rows that are written; None: `COUNTED_REASONS`.
        id_column: column that identifies a row that was written, when the stage is run again.
        rows_per_block: rows of a block; None: as `execution` has it.
        partitioned: whether `source` is partitioned by shard; the listing of shards is not.

    Returns:
        The sums by name over all rows of the stage.
    """
    cpus, count = execution.task_cpus, count or COUNTED_REASONS
    goes_on = _has_rows(stage.path)
    with checkpointed(f"{stage.work}/checkpoint", id_column=id_column), progress(stage.name, total=rows_in) as add:

        def select(block: pa.Table) -> pa.Table:
            send_to_driver()
            return drop_rejected(block)

        def check(block: pa.Table) -> pa.Table:
            send_to_driver()
            add(len(block))
            block = conform(block, schema)
            count_rejected(block)
            return block

        dataset = read_rows(source, execution=execution, rows_per_block=rows_per_block, partitioned=partitioned)
        dataset = dataset.map_batches(select, batch_format="pyarrow", num_cpus=cpus, batch_size=None)
        dataset = transform(dataset).map_batches(check, batch_format="pyarrow", num_cpus=cpus, batch_size=None)
        sums = write_counted_parquet(
            dataset,
            stage.path,
            partition_cols=["shard"],
            try_create_dir=has_folders(fsspec.url_to_fs(stage.path)[0]),
            count=count.of_block,
            num_cpus=cpus,
        )
    if goes_on:
        return sum_blocks(stage.path, count.of_block, columns=list(count.columns), execution=execution)
    return sums


def _has_rows(path: str) -> bool:
    """Whether an earlier call, which was killed, wrote rows to a folder."""
    fs, root = fsspec.url_to_fs(path)
    return any(name.endswith(".parquet") for name in fs.find(root))


def count_rejected(block: pa.Table) -> None:
    """Count the rejected rows of a block by their reason, for the metrics.

    Args:
        block: rows with or without the column `reason`.
    """
    if "reason" not in block.column_names or block["reason"].null_count == len(block):
        return
    for reason, number in Counter(pc.drop_null(block["reason"]).to_pylist()).items():
        count(REJECTED_ROWS, number, reason=reason)


def sum_blocks(path: str, count: Count, *, columns: list[str], execution: Execution) -> dict[str, float]:
    """Add up `count(block)` over the rows of a stage's folder; only the sums of each block come to the driver.

    Blocks are larger than those that a stage works on: what the driver keeps of a block grows with their number.

    Args:
        path: folder or URI.
        count: function from a block to numbers by name; blocks need not have the same names.
        columns: names of the columns that are read.
        execution: how the stages of the run are executed.

    Returns:
        The sums by name; empty without rows.
    """

    def count_block(block: pa.Table) -> pa.Table:
        counts = count(block)
        return pa.table(
            {"name": pa.array(list(counts), pa.string()), "value": pa.array(list(counts.values()), pa.float64())}
        )

    dataset = read_rows(path, execution=execution, columns=columns, rows_per_block=COUNTED_ROWS)
    partial = dataset.map_batches(count_block, batch_format="pyarrow", batch_size=None, num_cpus=execution.task_cpus)
    total: dict[str, float] = {}
    for row in partial.iter_rows():  # one for each block and name
        total[row["name"]] = total.get(row["name"], 0) + row["value"]
    return total


def write_rejected(stage: Stage[R], *, execution: Execution, num_rejected: int) -> None:
    """Copy the rows that a stage rejected to `rejected/<stage>/`.

    Args:
        stage: stage whose rows are written.
        execution: how the stages of the run are executed.
        num_rejected: number of rejected rows; with 0 nothing is read.
    """
    folder = stage.run.path("rejected", stage.name)
    fs, root = fsspec.url_to_fs(folder)
    remove_folder(fs, root)
    if not num_rejected:
        return

    def rejected(block: pa.Table) -> pa.Table:
        block = block.filter(pc.is_valid(block["reason"]))
        block = block.append_column("stage", pa.array([stage.name] * len(block), pa.string()))
        return conform(block, REJECTED)

    columns = ["key", "shard", "reason", "detail"]
    rows = read_rows(stage.path, execution=execution, columns=columns, rows_per_block=COUNTED_ROWS).map_batches(
        rejected, batch_format="pyarrow", num_cpus=execution.task_cpus
    )
    write_rows(rows, folder, execution=execution)


def reject_counted(stage: Stage[R], counts: Mapping[str, float], *, execution: Execution) -> tuple[int, int]:
    """Log what a stage rejected by reason, and copy the rejected rows to `rejected/<stage>/`.

    Args:
        stage: stage whose rows are written.
        counts: of its rows, as `COUNTED_REASONS` has them.
        execution: how the stages of the run are executed.

    Returns:
        Number of rows, and how many of them are rejected.
    """
    rows, rejected = int(counts.get("rows", 0)), int(counts.get("rejected", 0))
    if rejected:
        reasons = {name.removeprefix(_REASON): int(n) for name, n in counts.items() if name.startswith(_REASON)}
        listed = ", ".join(f"{n:,} {name}" for name, n in sorted(reasons.items(), key=lambda item: -item[1]))
        logger.info(
            "%s rejects %s; each with its detail in %s", stage.name, listed, stage.run.path("rejected", stage.name)
        )
    write_rejected(stage, execution=execution, num_rejected=rejected)
    return rows, rejected


def count_reasons(block: pa.Table) -> dict[str, float]:
    """Count the rows of a block, the rejected ones, and those of each reason.

    Args:
        block: rows with or without the column `reason`.

    Returns:
        Numbers by name.
    """
    if "reason" not in block.column_names:
        return {"rows": len(block)}
    reasons = Counter(reason for reason in block["reason"].to_pylist() if reason is not None)
    return {"rows": len(block), "rejected": reasons.total(), **{f"{_REASON}{name}": n for name, n in reasons.items()}}


COUNTED_REASONS = Counted(count_reasons, ("key", "reason"))
