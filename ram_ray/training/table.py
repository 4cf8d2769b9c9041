"""The training table: the rows to train on, shuffled and in buckets, made once by tasks of Ray Data.

What runs in those tasks is defined here and in `rows`, which load no torch: each of the workers would, for seconds.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import fsspec
import pyarrow as pa
import pyarrow.compute as pc

from ram_ray.config import RunConfig
from ram_ray.data.parts import Part
from ram_ray.data.shards import shard_matches
from ram_ray.runtime.annotate import read_rows, write_rows
from ram_ray.runtime.artifacts import write_text
from ram_ray.runtime.storage import remove_folder
from ram_ray.settings.training import TrainConfig
from ram_ray.training.feed import Table
from ram_ray.training.rows import tag_worth, tagged_rows, to_table

RowMaker = Callable[[pa.Table], list[dict]]


@dataclass(frozen=True)
class Chosen:
    """Which rows are trained on: those of the shards that a glob names, but for a part that is left out."""

    shards: str = "*"
    left_out: Part | None = None

    def __call__(self, block: pa.Table) -> pa.Table:
        """The rows of a block that are trained on."""
        if self.shards != "*":
            names = {one: shard_matches(one, self.shards) for one in block["shard"].unique().to_pylist()}
            block = block.filter(pa.array([names[one] for one in block["shard"].to_pylist()], pa.bool_()))
        if self.left_out:
            block = block.filter(pc.invert(self.left_out.mask(block["key"].to_pylist())))
        return block


def row_maker(annotations: str, *, config: TrainConfig, chosen: Chosen, run: RunConfig) -> RowMaker:
    """Makes training rows of annotations, weighed by their tags where `tag_cap` asks for it.

    Args:
        annotations: folder of ANNOTATION rows.
        config: of the training.
        chosen: which rows are trained on.
        run: the run's configuration.
    """
    if config.tag_cap is None:
        return tagged_rows
    counts, num_pictures = count_tags(annotations, chosen=chosen, run=run)
    return functools.partial(tagged_rows, worth=tag_worth(counts, num_pictures=num_pictures, cap=config.tag_cap))


def count_tags(annotations: str, *, chosen: Chosen, run: RunConfig) -> tuple[dict[int, int], int]:
    """Pictures of each tag, and pictures with any, among those to be trained on.

    Args:
        annotations: folder of ANNOTATION rows.
        chosen: which rows are trained on.
        run: the run's configuration.
    """
    total: Counter[int] = Counter()
    rows = read_rows(annotations, run=run).map_batches(
        functools.partial(count_block, chosen=chosen),
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=run.resources.task_cpus,
    )
    for row in rows.iter_rows():  # at most one a block and tag
        total[row["id"]] += row["count"]
    num_pictures = total.pop(-1, 0)
    return dict(total), num_pictures


def count_block(block: pa.Table, *, chosen: Chosen) -> pa.Table:
    """Pictures of each tag in a block of annotations; those with any tag under the id -1."""
    tags = [row["tags"] for row in tagged_rows(chosen(block))]
    counts = Counter(id for one in tags for id in one)
    counts[-1] = len(tags)
    return pa.table({"id": pa.array(list(counts), pa.int32()), "count": pa.array(list(counts.values()), pa.int64())})


def make_table(
    path: str, sources: Mapping[str, RowMaker], *, chosen: Chosen | None = None, num_rows: int, run: RunConfig
) -> Table:
    """Write the shuffled training table once and return it.

    Args:
        path: folder or URI of the table.
        sources: folders of rows, each with the function that makes training rows of a block.
        chosen: which rows are trained on; None: all.
        num_rows: rows of all sources, from which the number of buckets follows.
        run: its configuration.

    Returns:
        The table; one that was written already is not written again.

    Raises:
        ValueError: if no row is left to train on.
    """
    chosen = chosen or Chosen()
    done = f"{path}.json"
    try:
        with fsspec.open(done, "r") as file:
            return Table(path, tuple(json.load(file)["buckets"]))
    except FileNotFoundError:
        pass
    num_buckets = max(1, -(-num_rows // run.data.rows_per_block))
    cpus = run.resources.task_cpus

    def rows_of(make_rows: RowMaker) -> Callable[[pa.Table], pa.Table]:
        def rows(block: pa.Table) -> pa.Table:
            return to_table(make_rows(chosen(block)), seed=run.seed, num_buckets=num_buckets)

        return rows

    parts = [
        read_rows(source, run=run).map_batches(rows_of(make), batch_format="pyarrow", num_cpus=cpus)
        for source, make in sources.items()
    ]
    dataset = (parts[0].union(*parts[1:]) if parts[1:] else parts[0]).sort("order").materialize()
    counts = (
        dataset.groupby("bucket", num_partitions=min(num_buckets, run.resources.shuffle_partitions))
        .count()
        .take(num_buckets)
    )
    if not counts:
        raise ValueError(
            f"no row of {', '.join(sources)} in shards {chosen.shards!r} has a tag: there is nothing to train on"
        )
    buckets = [0] * num_buckets
    for one in counts:
        buckets[one["bucket"]] = one["count()"]
    fs, root = fsspec.url_to_fs(path)
    remove_folder(fs, root)  # half written by a run that was killed
    write_rows(dataset, path, run=run, partition_cols=["bucket"])
    write_text(done, json.dumps({"buckets": buckets}))
    return Table(path, tuple(buckets))
