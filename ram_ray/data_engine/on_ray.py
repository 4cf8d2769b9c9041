"""What the engine's stages share on Ray Data: sums over rows, and the counts of a stage at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
from ray.data import Dataset

from ram_ray.config import RunConfig
from ram_ray.label_system import LabelSystem
from ram_ray.labels.stages import annotation_counts, label_system_uri
from ram_ray.runtime.annotate import write_rejected
from ram_ray.runtime.artifacts import Manifest, Stage

Count = Callable[[pa.Table], dict[str, float]]


def sum_rows(
    rows: Dataset, count: Callable[[pa.Table], pa.Table], schema: pa.Schema, *, config: RunConfig
) -> Iterator[pa.Table]:
    """The rows that `count` makes of blocks, added up by their first column; each value of it comes once.

    Args:
        rows: to count.
        count: a block of rows to rows of `schema`.
        schema: a key, then integer columns that are added up.
        config: of the run.

    Yields:
        Rows of `schema`.
    """
    key, *names = schema.names
    sums = (
        rows.map_batches(count, batch_format="pyarrow", batch_size=None, num_cpus=config.resources.task_cpus)
        .groupby(key, num_partitions=config.resources.shuffle_partitions)
        .sum(names)
    )
    for batch in sums.iter_batches(batch_format="pyarrow", batch_size=None):
        table: Any = batch
        yield table.rename_columns({f"sum({name})": name for name in names}).select(schema.names).cast(schema)


def tally(stage: Stage, config: RunConfig, labels: Manifest, *, rows_in: int, also: Count | None = None) -> dict:
    """Count the annotations that a stage left, for its manifest, and copy what it rejected.

    Args:
        stage: whose rows are there already.
        config: of the run.
        labels: stage that built the label system.
        rows_in: rows that the stage read.
        also: counts more of each block, see `annotate.sum_blocks`.

    Returns:
        Counts by name; `rows_in` is `rows_out` + `rejected`.
    """
    system = LabelSystem.load(label_system_uri(labels.path))
    counts = annotation_counts(stage.path, config=config, system=system, also=also)
    rejected = counts.pop("rejected_rows")
    assert rows_in == counts["images"] + rejected, f"{stage.name}: {rows_in} in, {counts['images']} + {rejected} out"
    write_rejected(stage, run=config, num_rejected=rejected)
    return {"rows_in": rows_in, "rows_out": counts["images"], "rejected": rejected, **counts}
