"""Pairs among many rows: the hashes of a kind or a table are brought together by slice in one shuffle.

A task of `hash_table.write_pairs` reads all files of hashes and keeps its slice. That is quick for a few slices; with
S slices the bytes that are read grow with rows x S, and S grows with the rows. So with more than `MAX_SLICES` slices
each kind and each table is read once, and Ray Data's shuffle gives each task its slice. What is found is the same.

A near pair is found in up to 35 of 84 tables. Here, where pairs are many, a second shuffle leaves each of them once, so
that the task that decides holds no more than there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ram_ray.curation.groups import PAIR
from ram_ray.curation.hash_table import ROWS_PER_FILE, SIGNATURES, Work, find_pairs, slices
from ram_ray.curation.perceptual_hash import SIGNATURE
from ram_ray.runtime.artifacts import exists, write_text
from ram_ray.runtime.rows import read_rows, write_rows
from ram_ray.runtime.storage import remove_folder
from ram_ray.runtime.worker_log import send_to_driver
from ram_ray.settings.runtime import Execution

MAX_SLICES = 32  # that tasks read for themselves; with 84 tables each file of hashes is then read 2,700 times
# Ray hashes what is grouped by to the partitions, so a few times as many parts as partitions fill them evenly.
PARTS_A_PARTITION = 8
FIXED = pa.binary(SIGNATURE.itemsize)  # offsets of 32 bits would end at 2 GiB of a partition


def shuffle_pairs(
    plan: Sequence[Work],
    hashes: str,
    folder: str,
    *,
    max_distance: int | None,
    mirrored: bool,
    execution: Execution,
) -> None:
    """Write the pairs of all tasks of a plan, one kind or table after the other; a finished one is not written again.

    Args:
        plan: as of `plan_work`, with one kind or table a task.
        hashes: folder of HASHES rows.
        folder: gets a folder of PAIR rows for each kind and table.
        max_distance: as of `hash_table.write_pairs`.
        mirrored: as of `hash_table.write_pairs`.
        execution: how the stages of the run are executed.
    """
    for work in (work for work in plan if work.slice_index == 0):
        uri = f"{folder}/{work.name}"
        if not exists(f"{uri}.done"):
            remove_folder(*fsspec.url_to_fs(uri))  # a run that was killed may have written a part
            _shuffle(work, hashes, uri, max_distance=max_distance, mirrored=mirrored, execution=execution)
            write_text(f"{uri}.done", "")


def _shuffle(
    work: Work, hashes: str, uri: str, *, max_distance: int | None, mirrored: bool, execution: Execution
) -> None:
    (column,) = work.columns
    partitions, work = work.num_slices, replace(work, num_slices=PARTS_A_PARTITION * work.num_slices)

    def spread(block: pa.Table) -> pa.Table:
        send_to_driver()
        block = block.filter(pc.is_valid(block[column]))
        first, *others = slices(block[column], column, work)
        if column == SIGNATURES:
            block = block.set_column(block.schema.get_field_index(column), column, block[column].cast(FIXED))
        tables = [block.append_column("slice", pa.array(first))]
        for other in others if mirrored else ():
            elsewhere = np.flatnonzero(other != first)
            tables.append(block.take(pa.array(elsewhere)).append_column("slice", pa.array(other[elsewhere])))
        return pa.concat_tables(tables)

    def find(rows: pa.Table) -> pa.Table:
        send_to_driver()
        part = replace(work, slice_index=rows["slice"][0].as_py())
        return find_pairs(
            part, column, rows.drop_columns(["slice"]).sort_by("id"), max_distance=max_distance, mirrored=mirrored
        )

    rows = read_rows(
        hashes,
        execution=execution,
        columns=["id", "set", "source", column],
        rows_per_block=ROWS_PER_FILE,
        partitioned=False,
    )
    pairs = (
        rows.map_batches(spread, batch_format="pyarrow", batch_size=None, num_cpus=execution.task_cpus)
        .groupby("slice", num_partitions=partitions)
        .map_groups(find, batch_format="pyarrow", num_cpus=execution.task_cpus)
    )
    write_rows(pairs, uri, execution=execution)


def write_distinct(folder: str, uri: str, *, execution: Execution) -> None:
    """Write each pair once.

    Args:
        folder: folder with files of PAIR rows at any depth.
        uri: folder of the pairs; what a killed call left there is removed.
        execution: how the stages of the run are executed.
    """
    fs, root = fsspec.url_to_fs(folder)
    remove_folder(*fsspec.url_to_fs(uri))
    if not any(name.endswith(".parquet") for name in fs.find(root)):
        return
    parts = PARTS_A_PARTITION * execution.resources.shuffle_partitions

    def add_part(block: pa.Table) -> pa.Table:
        return block.append_column("part", pa.array(block["other_id"].to_numpy() % parts))

    rows = (
        read_rows(folder, execution=execution, rows_per_block=ROWS_PER_FILE, partitioned=False)
        .map_batches(add_part, batch_format="pyarrow", batch_size=None, num_cpus=execution.task_cpus)
        .groupby("part", num_partitions=execution.resources.shuffle_partitions)
        .map_groups(distinct_pairs, batch_format="pyarrow", num_cpus=execution.task_cpus)
    )
    write_rows(rows, uri, execution=execution)


def distinct_pairs(rows: pa.Table) -> pa.Table:
    """Leave each pair once for each kind, with its least distance.

    Args:
        rows: of PAIR.

    Returns:
        PAIR rows.
    """
    rows = rows.select(PAIR.names).cast(PAIR)
    keys = [rows[name].to_numpy() for name in ("id", "other_id", "kind")]
    order = np.lexsort((rows["distance"].to_numpy(), *keys[::-1]))
    new = np.any([np.diff(key[order], prepend=key[order][:1] - 1) != 0 for key in keys], axis=0)
    return rows.take(pa.array(order[new]))
