"""Rows of a stage in Parquet files: read, written, and counted where they are written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from ray.data import Dataset, SaveMode

from ram_ray.runtime.key_hash import hash_key
from ram_ray.runtime.ray_data_internals import write_counted_parquet
from ram_ray.runtime.storage import has_folders
from ram_ray.settings.runtime import Execution

Count = Callable[[pa.Table], dict[str, float]]  # of a block, numbers that add up, by name
REASON = "reason "  # before the name of a count
COUNTED_ROWS = 16384  # rows of a block where rows are only counted: a few columns, some MB


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
    share: float = 1.0,
) -> Dataset:
    """Read the rows of a stage's folder.

    Args:
        path: folder or URI.
        execution: how the stages of the run are executed.
        columns: names of the columns that are read; None: all.
        rows_per_block: rows of a block; None: as `execution` has it.
        partitioned: whether the folder is partitioned by shard; shard names stay text ("00000").
        share: of the shards that are read, above 0; 1: all. For statistics that need no more rows.

    Returns:
        A lazy dataset.
    """
    from ray.data.datasource.partitioning import Partitioning, PartitionStyle

    dataset = ray.data.read_parquet(
        path if share >= 1 else sample_shards(path, share=share),
        columns=columns,
        partitioning=Partitioning(PartitionStyle.HIVE, field_types={"shard": str}) if partitioned else None,
        file_extensions=["parquet"],
        num_cpus=execution.task_cpus,
    )
    set_limits(dataset, execution=execution)
    return dataset.repartition(target_num_rows_per_block=rows_per_block or execution.rows_per_block)


def sample_shards(path: str, *, share: float) -> list[str]:
    """Choose shards of a stage's folder by a hash of their names.

    Args:
        path: folder or URI, partitioned by shard.
        share: of the shards, above 0 and at most 1.

    Returns:
        Folders or URIs, at least one if there are any; those of a larger share contain those of a smaller one.
    """
    fs, root = fsspec.url_to_fs(path)
    names = (folder.rstrip("/").rpartition("/")[2] for folder in fs.ls(root, detail=False))
    shards = sorted(
        (name for name in names if name.startswith("shard=")), key=lambda name: (hash_key(name, purpose="sample"), name)
    )
    return [f"{path.rstrip('/')}/{name}" for name in shards[: math.ceil(share * len(shards))]]


def set_limits(dataset: Dataset, *, execution: Execution) -> None:
    """Bound the CPUs and the part of the object store that a dataset's operators take (`resources`).

    Args:
        dataset: that was made from a source; what is made from it has the same bounds.
        execution: how the stages of the run are executed.
    """
    buffer = execution.resources.buffer_mb * 10**6 if execution.resources.buffer_mb else None
    dataset.context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(
        cpu=execution.resources.max_cpus, object_store_memory=buffer
    )
    if buffer:
        dataset.context.target_max_block_size = buffer // 32  # Ray reserves this much for a task before it has run one


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


def write_counted_rows(
    dataset: Dataset, uri: str, *, count: Count, execution: Execution, partition_cols: list[str]
) -> dict[str, float]:
    """Write a dataset as `write_rows` does, and count its rows in the tasks that write them.

    Args:
        dataset: dataset to write.
        uri: URI of the folder.
        count: function of a block.
        execution: how the stages of the run are executed.
        partition_cols: columns that become folders.

    Returns:
        The sums by name over the rows that were written now.
    """
    return write_counted_parquet(
        dataset,
        uri,
        partition_cols=partition_cols,
        try_create_dir=has_folders(fsspec.url_to_fs(uri)[0]),
        count=count,
        num_cpus=execution.task_cpus,
    )


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
    dataset = read_rows(path, execution=execution, columns=columns, rows_per_block=COUNTED_ROWS)
    return add_up(
        dataset.map_batches(
            lambda block: to_pairs(count(block)),
            batch_format="pyarrow",
            batch_size=None,
            num_cpus=execution.task_cpus,
        )
    )


def to_pairs(counts: dict[str, float]) -> pa.Table:
    """Make rows of counts, for `add_up`.

    Args:
        counts: numbers by name.

    Returns:
        Columns name (string) and value (float64).
    """
    return pa.table(
        {"name": pa.array(list(counts), pa.string()), "value": pa.array(list(counts.values()), pa.float64())}
    )


def add_up(dataset: Dataset) -> dict[str, float]:
    """Add up the counts of a dataset on the driver.

    Args:
        dataset: rows of `to_pairs`, few for each task.

    Returns:
        The sums by name; empty without rows.
    """
    total: dict[str, float] = {}
    for row in dataset.iter_rows():
        total[row["name"]] = total.get(row["name"], 0) + row["value"]
    return total


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
    return {"rows": len(block), "rejected": reasons.total(), **{f"{REASON}{name}": n for name, n in reasons.items()}}


COUNTED_REASONS = Counted(count_reasons, ("key", "reason"))
