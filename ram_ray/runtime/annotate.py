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

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.data import Dataset

from ram_ray.records import REJECTED, conform
from ram_ray.runtime.artifacts import R, Stage
from ram_ray.runtime.metrics import REJECTED as REJECTED_ROWS
from ram_ray.runtime.metrics import count
from ram_ray.runtime.progress import progress
from ram_ray.runtime.rows import (
    COUNTED_REASONS,
    COUNTED_ROWS,
    REASON,
    Counted,
    drop_rejected,
    read_rows,
    sum_blocks,
    write_counted_rows,
    write_rows,
)
from ram_ray.runtime.storage import make_folder, remove_folder
from ram_ray.runtime.worker_log import send_to_driver
from ram_ray.settings.runtime import Execution

Transform = Callable[[Dataset], Dataset]
logger = logging.getLogger(__name__)

NUM_CAPTION_BLOCKS, MAX_CAPTION_ROWS = 256, 4096  # blocks of a stage that reads captions and no images; rows of a block


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
        sums = write_counted_rows(
            dataset, stage.path, count=count.of_block, execution=execution, partition_cols=["shard"]
        )
    if goes_on:
        return sum_blocks(stage.path, count.of_block, columns=list(count.columns), execution=execution)
    return sums


def _has_rows(path: str) -> bool:
    """Whether an earlier call, which was killed, wrote rows to a folder."""
    fs, root = fsspec.url_to_fs(path)
    fs.invalidate_cache()
    has_rows = any(name.endswith(".parquet") for name in fs.find(root))
    fs.invalidate_cache()  # the listing is not that of the stage when it is done
    return has_rows


def count_rejected(block: pa.Table) -> None:
    """Count the rejected rows of a block by their reason, for the metrics.

    Args:
        block: rows with or without the column `reason`.
    """
    if "reason" not in block.column_names or block["reason"].null_count == len(block):
        return
    for reason, number in Counter(pc.drop_null(block["reason"]).to_pylist()).items():
        count(REJECTED_ROWS, number, reason=reason)


def write_rejected(stage: Stage[R], *, execution: Execution, num_rejected: int, partitioned: bool = True) -> None:
    """Copy the rows that a stage rejected to `rejected/<stage>/`.

    Args:
        stage: stage whose rows are written.
        execution: how the stages of the run are executed.
        num_rejected: number of rejected rows; with 0 nothing is read.
        partitioned: whether the stage's rows are partitioned by shard.
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
    rows = read_rows(
        stage.path, execution=execution, columns=columns, rows_per_block=COUNTED_ROWS, partitioned=partitioned
    ).map_batches(rejected, batch_format="pyarrow", num_cpus=execution.task_cpus)
    write_rows(rows, folder, execution=execution)


def reject_counted(
    stage: Stage[R], counts: Mapping[str, float], *, execution: Execution, partitioned: bool = True
) -> tuple[int, int]:
    """Log what a stage rejected by reason, and copy the rejected rows to `rejected/<stage>/`.

    Args:
        stage: stage whose rows are written.
        counts: of its rows, as `COUNTED_REASONS` has them.
        execution: how the stages of the run are executed.
        partitioned: whether the stage's rows are partitioned by shard.

    Returns:
        Number of rows, and how many of them are rejected.
    """
    rows, rejected = int(counts.get("rows", 0)), int(counts.get("rejected", 0))
    if rejected:
        reasons = {name.removeprefix(REASON): int(n) for name, n in counts.items() if name.startswith(REASON)}
        listed = ", ".join(f"{n:,} {name}" for name, n in sorted(reasons.items(), key=lambda item: -item[1]))
        logger.info(
            "%s rejects %s; each with its detail in %s", stage.name, listed, stage.run.path("rejected", stage.name)
        )
    write_rejected(stage, execution=execution, num_rejected=rejected, partitioned=partitioned)
    return rows, rejected
