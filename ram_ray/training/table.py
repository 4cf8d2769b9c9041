"""The training table: the rows to train on, shuffled into buckets, written once by Ray Data tasks.

The order of training follows from the seed, the keys and the number of buckets (`feed`), so the buckets follow from the
number of rows alone and not from how a run is executed.

This file and `rows` define what runs in those tasks. They do not import torch, which takes each Ray worker seconds.
"""

from __future__ import annotations

import functools
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import fsspec
import pyarrow as pa
import pyarrow.compute as pc

from ram_ray.data.folds import Fold
from ram_ray.data.shards import shard_matches
from ram_ray.runtime.artifacts import write_text
from ram_ray.runtime.rows import read_rows, write_counted_rows
from ram_ray.runtime.storage import remove_folder
from ram_ray.settings.runtime import Execution
from ram_ray.settings.training import TrainConfig
from ram_ray.training.order import Table, keeps_neighbours
from ram_ray.training.rows import tag_weights, tagged_rows, to_training_table

RowMaker = Callable[[pa.Table], list[dict]]
SMALL_BUCKET, LARGE_BUCKET = 250, 1024  # rows of a bucket, at least and at most


@dataclass(frozen=True)
class RowSelection:
    """The rows to train on: the rows of the shards that a glob matches, without the fold `left_out`."""

    shards: str = "*"
    left_out: Fold | None = None

    def __call__(self, block: pa.Table) -> pa.Table:
        """Select the rows of a block.

        Args:
            block: rows with `shard` and `key`.

        Returns:
            The selected rows, in order.
        """
        if self.shards != "*":
            matches = {shard: shard_matches(shard, self.shards) for shard in block["shard"].unique().to_pylist()}
            block = block.filter(pa.array([matches[shard] for shard in block["shard"].to_pylist()], pa.bool_()))
        if self.left_out:
            block = block.filter(pc.invert(self.left_out.mask(block["key"].to_pylist())))
        return block


def row_maker(annotations: str, *, config: TrainConfig, selection: RowSelection, execution: Execution) -> RowMaker:
    """Make the function that turns annotations into training rows; with `tag_cap`, rows are weighted by their tags.

    Args:
        annotations: folder of ANNOTATION rows.
        config: settings of the training.
        selection: the rows to train on.
        execution: how the stages of the run are executed.

    Returns:
        A function from a block of ANNOTATION rows to rows for `to_table`.
    """
    if config.tag_cap is None:
        return tagged_rows
    counts, num_images = count_tags(annotations, selection=selection, execution=execution)
    return functools.partial(tagged_rows, weights=tag_weights(counts, num_images=num_images, cap=config.tag_cap))


def count_tags(annotations: str, *, selection: RowSelection, execution: Execution) -> tuple[dict[int, int], int]:
    """Count the images of each tag, and the images that are trained on, among the selected rows.

    Args:
        annotations: folder of ANNOTATION rows.
        selection: the rows to train on.
        execution: how the stages of the run are executed.

    Returns:
        Tag id -> number of images with the tag, and the number of images that are trained on.
    """
    total: Counter[int] = Counter()
    rows = read_rows(annotations, execution=execution).map_batches(
        functools.partial(count_block, selection=selection),
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=execution.task_cpus,
    )
    for row in rows.iter_rows():  # at most one for each block and tag
        total[row["id"]] += row["count"]
    num_images = total.pop(-1, 0)
    return dict(total), num_images


def count_block(block: pa.Table, *, selection: RowSelection) -> pa.Table:
    """Count the images of each tag in a block of annotations.

    Args:
        block: ANNOTATION rows.
        selection: the rows to train on.

    Returns:
        Columns id (int32) and count (int64); the id -1 has the number of images that are trained on.
    """
    tags = [row["tags"] for row in tagged_rows(selection(block))]
    counts = Counter(id for ids in tags for id in ids)
    counts[-1] = len(tags)
    return pa.table({"id": pa.array(list(counts), pa.int32()), "count": pa.array(list(counts.values()), pa.int64())})


def count_buckets(num_rows: int) -> int:
    """Compute the number of buckets of a training table.

    A bucket is a file, and is decoded by one task. So buckets of small data are small, to give each CPU some of them,
    and those of large data are large, since every file costs a request.

    Args:
        num_rows: rows of all sources.

    Returns:
        1,000 buckets, or fewer of `SMALL_BUCKET` rows, or more of `LARGE_BUCKET` rows; at least 1.
    """
    rows = min(max(SMALL_BUCKET, math.ceil(num_rows / 1000)), LARGE_BUCKET)
    return max(1, math.ceil(num_rows / rows))


def make_table(
    path: str,
    sources: Mapping[str, RowMaker],
    *,
    selection: RowSelection | None = None,
    num_rows: int,
    seed: int,
    execution: Execution,
) -> Table:
    """Write the shuffled training table; a finished table is not written again.

    Args:
        path: folder or URI of the table.
        sources: folder of rows -> function that makes training rows of a block.
        selection: the rows to train on; None: all rows.
        num_rows: rows of all sources; sets the number of buckets.
        seed: seed of the order of the rows.
        execution: how the stages of the run are executed.

    Returns:
        The table.

    Raises:
        ValueError: if there is no row to train on.
    """
    selection = selection or RowSelection()
    done_marker = f"{path}.json"
    try:
        with fsspec.open(done_marker, "r") as file:
            return Table(path, tuple(json.load(file)["buckets"]))
    except FileNotFoundError:
        pass
    num_buckets, cpus = count_buckets(num_rows), execution.task_cpus

    def rows_of(make_rows: RowMaker) -> Callable[[pa.Table], pa.Table]:
        def rows(block: pa.Table) -> pa.Table:
            made, together = make_rows(selection(block)), keeps_neighbours(num_buckets)
            return to_training_table(made, seed=seed, num_buckets=num_buckets, keeps_neighbours=together)

        return rows

    parts = [
        read_rows(source, execution=execution).map_batches(rows_of(make), batch_format="pyarrow", num_cpus=cpus)
        for source, make in sources.items()
    ]
    dataset = (parts[0].union(*parts[1:]) if parts[1:] else parts[0]).sort("order")
    fs, root = fsspec.url_to_fs(path)
    remove_folder(fs, root)  # a killed run may have written a part
    counts = write_counted_rows(
        dataset, path, count=count_rows_of_buckets, execution=execution, partition_cols=["bucket"]
    )
    if not counts:
        raise ValueError(
            f"no row of {', '.join(sources)} in shards {selection.shards!r} has a tag: there is nothing to train on; "
            "set the `shards` of this training, or set labels.min_count lower"
        )
    buckets = [int(counts.get(str(bucket), 0)) for bucket in range(num_buckets)]
    write_text(done_marker, json.dumps({"buckets": buckets}))
    return Table(path, tuple(buckets))


def count_rows_of_buckets(block: pa.Table) -> dict[str, float]:
    """Count the rows of each bucket in a block, for `rows.write_counted_rows`.

    Args:
        block: rows of the table.

    Returns:
        Bucket -> number of rows; a sorted block has few buckets.
    """
    counted = block["bucket"].value_counts()
    return {str(item["values"]): float(item["counts"]) for item in counted.to_pylist()}
