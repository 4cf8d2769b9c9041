"""Counting on Ray Data for the stages of the data engine: sums over rows, and the counts of a stage's annotations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
from ray.data import Dataset

from ram_ray.runtime.annotate import write_rejected
from ram_ray.runtime.artifacts import R, Stage
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
    key, *names = schema.names
    sums = (
        rows.map_batches(count, batch_format="pyarrow", batch_size=None, num_cpus=execution.task_cpus)
        .groupby(key, num_partitions=execution.resources.shuffle_partitions)
        .sum(names)
    )
    for batch in sums.iter_batches(batch_format="pyarrow", batch_size=None):
        table: Any = batch
        yield table.rename_columns({f"sum({name})": name for name in names}).select(schema.names).cast(schema)


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
