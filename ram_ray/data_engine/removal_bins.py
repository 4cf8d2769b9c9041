"""The removals of a round in bins of shards.

Removals are decided label by label and applied shard by shard. A file for each shard and group of labels would be
shards x groups files. So a bin is a file: all removals of some shards, sorted by shard and key. A shard's bin follows
from its name, and there are as many bins as files of `BIN_ROWS` removals need.
"""

from __future__ import annotations

import functools
import math

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ram_ray.data_engine.clean import REMOVALS
from ram_ray.runtime.artifacts import write_table
from ram_ray.runtime.key_hash import hash_key
from ram_ray.runtime.rows import COUNTED_ROWS, read_rows
from ram_ray.runtime.worker_log import send_to_driver
from ram_ray.settings.runtime import Execution

BIN_ROWS = 100_000  # about 5 MB


def count_bins(removals: int) -> int:
    """Compute the number of bins.

    Args:
        removals: number of removed tags.

    Returns:
        At least 1.
    """
    return max(1, math.ceil(removals / BIN_ROWS))


def write_bins(source: str, path: str, *, bins: int, execution: Execution) -> None:
    """Sort removals into the bins of their shards; what a killed call wrote is written again.

    Args:
        source: folder or URI of REMOVALS rows in any order.
        path: folder or URI of the stage; a bin without removals has no file.
        bins: number of bins.
        execution: how the stages of the run are executed.
    """

    def add_bin(block: pa.Table) -> pa.Table:
        send_to_driver()
        numbers = [_bin_of(shard, bins=bins) for shard in block["shard"].to_pylist()]
        return block.append_column("bin", pa.array(numbers, pa.int32()))

    def write(rows: pa.Table) -> pa.Table:
        order = [("shard", "ascending"), ("key", "ascending"), ("tag", "ascending")]
        table = rows.select(REMOVALS.names).cast(REMOVALS).sort_by(order)
        write_table(table, _file(path, rows["bin"][0].as_py()))
        return pa.table({"removals": pa.array([len(table)], pa.int64())})

    rows = read_rows(source, execution=execution, rows_per_block=COUNTED_ROWS, partitioned=False)
    written = (
        rows.map_batches(add_bin, batch_format="pyarrow", batch_size=None, num_cpus=execution.task_cpus)
        .groupby("bin", num_partitions=min(bins, execution.resources.shuffle_partitions))
        .map_groups(write, batch_format="pyarrow", num_cpus=execution.task_cpus)
    )
    for _ in written.iter_batches(batch_format="pyarrow", batch_size=None):  # a row for each bin
        pass


@functools.lru_cache(maxsize=64)
def read_bin(path: str, shard: str, *, bins: int) -> pa.Table:
    """Read the removals of a shard.

    Args:
        path: folder or URI that `write_bins` wrote to.
        shard: name of the shard.
        bins: number of bins.

    Returns:
        REMOVALS rows, sorted by key.
    """
    fs, file = fsspec.url_to_fs(_file(path, _bin_of(shard, bins=bins)))
    try:
        with fs.open(file, "rb") as handle:
            rows = pq.read_table(handle, columns=REMOVALS.names, partitioning=None)
    except FileNotFoundError:  # nothing was removed in this bin
        return REMOVALS.empty_table()
    return rows.filter(pc.equal(rows["shard"], shard))


def _bin_of(shard: str, *, bins: int) -> int:
    return hash_key(shard, purpose="bin") % bins


def _file(path: str, number: int) -> str:
    return f"{path}/removals/{number:06d}.parquet"
