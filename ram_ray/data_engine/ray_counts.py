"""Counting on Ray Data for the stages of the data engine: sums over rows, and the counts of a stage's annotations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from ray.data import Dataset

from ram_ray.runtime.annotate import write_rejected
from ram_ray.runtime.artifacts import R, Stage
from ram_ray.runtime.rows import write_rows
from ram_ray.runtime.storage import remove_folder
from ram_ray.settings.runtime import Execution


def sum_rows(
    rows: Dataset, count: Callable[[pa.Table], pa.Table], schema: pa.Schema, *, execution: Execution
) -> Iterator[pa.Table]:
    """Sum the rows that `count` makes of blocks by their first column.

    Args:
        rows: the dataset to count.
        count: turns a block of rows into rows of `schema`.
        schema: a key, then integer columns that are summed.
        execution: how the stages of the run are executed.

    Yields:
        Rows of `schema`; each key is in one row of all tables.
    """
    for batch in _sums(rows, count, schema, execution=execution).iter_batches(batch_format="pyarrow", batch_size=None):
        table: Any = batch
        yield _named(table, schema)


def write_sums(
    rows: Dataset, count: Callable[[pa.Table], pa.Table], schema: pa.Schema, uri: str, *, execution: Execution
) -> None:
    """Sum rows as `sum_rows` does, to Parquet files: for sums that the driver need not hold.

    Args:
        rows: the dataset to count.
        count: turns a block of rows into rows of `schema`.
        schema: a key, then integer columns that are summed.
        uri: folder or URI; what a killed call left there is removed.
        execution: how the stages of the run are executed.
    """
    remove_folder(*fsspec.url_to_fs(uri))
    sums = _sums(rows, count, schema, execution=execution).map_batches(
        lambda table: _named(table, schema), batch_format="pyarrow", batch_size=None, num_cpus=execution.task_cpus
    )
    write_rows(sums, uri, execution=execution)


def read_sums(uri: str) -> Iterator[pa.Table]:
    """Read what `write_sums` wrote.

    Args:
        uri: folder or URI.

    Yields:
        Rows of a file; no file is there where nothing was counted.
    """
    fs, root = fsspec.url_to_fs(uri)
    for file in sorted(fs.find(root)):
        if file.endswith(".parquet"):
            with fs.open(file, "rb") as handle:
                yield pq.read_table(handle, partitioning=None)


def _sums(rows: Dataset, count: Callable[[pa.Table], pa.Table], schema: pa.Schema, *, execution: Execution) -> Dataset:
    key, *names = schema.names
    return (
        rows.map_batches(count, batch_format="pyarrow", batch_size=None, num_cpus=execution.task_cpus)
        .groupby(key, num_partitions=execution.resources.shuffle_partitions)
        .sum(names)
    )


def _named(sums: pa.Table, schema: pa.Schema) -> pa.Table:
    return sums.rename_columns({f"sum({name})": name for name in schema.names[1:]}).select(schema.names).cast(schema)


def finish_counts(stage: Stage[R], sums: Mapping[str, float], *, rows_in: int, execution: Execution) -> dict[str, int]:
    """Check the counts of the annotations that a stage wrote, for its manifest, and copy the rows that it rejected.

    Args:
        stage: the stage, whose rows are written.
        sums: counts of its rows, as of `labels.stages.counted_annotations`.
        rows_in: rows that the stage read.
        execution: how the stages of the run are executed.

    Returns:
        Counts by name; `rows_in` is `rows_out` + `rejected`.
    """
    counts = {name: int(value) for name, value in sums.items()}
    rejected = counts.pop("rejected_rows")
    assert rows_in == counts["images"] + rejected, f"{stage.name}: {rows_in} in, {counts['images']} + {rejected} out"
    write_rejected(stage, execution=execution, num_rejected=rejected)
    return {"rows_in": rows_in, "rows_out": counts["images"], "rejected": rejected, **counts}
