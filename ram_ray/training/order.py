"""The order of training: which row of the table is row g of the run, and which rows a task reads together.

A resumed run must continue with exactly the unseen rows, on any number of workers, without a list of seen keys. So the
order is computed from the table and the seed. Rows are in buckets by a hash of seed and key; seed and epoch give the
order of the buckets in an epoch, and of the rows in a bucket. That sequence of an epoch's rows is cut into lanes of
equal length, and training takes a row of each lane in turn: row p of the epoch is row p // L of lane p % L.

A worker of W has the rows g with g % batch_size % W equal to its rank (`feed`). Where W divides the lanes and the batch
size, as powers of two do, all its rows are in lanes of its own, so a bucket is read by the worker of its lane alone.
More workers than lanes share them, as do other numbers of workers. Small tables have one lane: their buckets are read
by every worker.

Of a table of more than a million rows, neighbours in a file of the data (`rows.neighbourhood`) stay together: they are
in one bucket, and follow one another in its lane as they do in the file. So they are read by one request, and a batch,
which takes turns between the lanes, has few of them. With a request for each image an epoch of 14 million images would
be 14 million requests.

Letters: N rows of an epoch, L lanes, W workers.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ram_ray.training.copies import with_copies
from ram_ray.training.rows import ROWS

BUCKETS_A_LANE = 16  # fewest
MAX_LANES = 256
NEIGHBOUR_LANES = 64  # fewest: a batch has a row of each lane before it has the next of the same neighbours


@dataclass(frozen=True)
class Table:
    """A written training table: its folder and the number of rows of each bucket."""

    path: str
    buckets: tuple[int, ...]
    copies: str | None = field(default=None, kw_only=True)  # URI of copies that are read in place of the images

    @property
    def num_rows(self) -> int:
        """N."""
        return sum(self.buckets)

    @property
    def lanes(self) -> int:
        """L, see `count_lanes`."""
        return count_lanes(len(self.buckets))

    @property
    def keeps_neighbours(self) -> bool:
        """Whether the rows of a neighbourhood stay together, see `keeps_neighbours`."""
        return keeps_neighbours(len(self.buckets))

    def read(self, bucket: int) -> pa.Table:
        """Read the rows of a bucket, in a fixed order.

        Args:
            bucket: its index.

        Returns:
            Rows of `rows.ROWS` without the column `bucket`, sorted by `order` and `key`, before these are replaced by
            those of copies.
        """
        fs, root = fsspec.url_to_fs(f"{self.path}/bucket={bucket}")
        files = [path for path in fs.ls(root, detail=False) if path.endswith(".parquet")] if fs.exists(root) else []
        names = [name for name in ROWS.names if name != "bucket"]
        parts = []
        for file in files:
            with fs.open(file, "rb") as handle:
                parts.append(pq.read_table(handle, columns=names, partitioning=None))
        table = pa.concat_tables(parts)
        assert len(table) == self.buckets[bucket], (bucket, len(table), self.buckets[bucket])
        table = table.sort_by([("order", "ascending"), ("key", "ascending")])
        return with_copies(table, self.copies, bucket) if self.copies else table


def count_lanes(num_buckets: int) -> int:
    """Compute the number of lanes: of the table alone, so that every number of workers has the same order.

    Args:
        num_buckets: of the table.

    Returns:
        L, a power of two.
    """
    lanes = 1
    while 2 * lanes * BUCKETS_A_LANE <= num_buckets and 2 * lanes <= MAX_LANES:
        lanes *= 2
    return lanes


def keeps_neighbours(num_buckets: int) -> bool:
    """Say whether a table keeps neighbours in a file of the data together.

    Args:
        num_buckets: of the table.

    Returns:
        True from `NEIGHBOUR_LANES` lanes on: more than a million rows.
    """
    return count_lanes(num_buckets) >= NEIGHBOUR_LANES


def shuffle_neighbours(rows: Sequence[int], bucket: pa.Table, *, seed: str) -> list[int]:
    """Shuffle the neighbourhoods of a bucket.

    Args:
        rows: indices of rows, in their order.
        bucket: its rows, as `Table.read` gives them.
        seed: of the order.

    Returns:
        The indices; neighbours are next to each other, as they lie in their file.
    """
    orders = bucket["order"].to_pylist()
    offsets = [images[0]["offset"] for images in bucket["images"].to_pylist()]
    neighbourhoods = [
        sorted(neighbours, key=offsets.__getitem__) for _, neighbours in itertools.groupby(rows, key=orders.__getitem__)
    ]
    random.Random(seed).shuffle(neighbourhoods)
    return [row for neighbours in neighbourhoods for row in neighbours]


@dataclass(frozen=True)
class Span:
    """Rows first .. end of an epoch, in the order of training: what a task reads."""

    epoch: int
    first: int
    end: int


@dataclass(frozen=True)
class EpochOrder:
    """The order of an epoch: where row p of its training is."""

    table: Table
    seed: int
    epoch: int

    @functools.cached_property
    def visits(self) -> tuple[int, ...]:
        """The buckets in the order of the epoch."""
        order = list(range(len(self.table.buckets)))
        random.Random(f"{self.seed}/{self.epoch}").shuffle(order)
        return tuple(order)

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """Number of rows before each visit, and N: int64 (buckets + 1,)."""
        return np.cumsum([0, *(self.table.buckets[bucket] for bucket in self.visits)])

    def cuts(self) -> np.ndarray:
        """Where the epoch is cut into spans, 0 and N included.

        A span has about a bucket of each lane. With one lane its ends are those of the buckets.
        """
        num_rows, lanes = self.table.num_rows, self.table.lanes
        if lanes == 1:
            return np.unique(self.starts)
        rows = -(-num_rows // len(self.table.buckets)) * lanes
        return np.append(np.arange(0, num_rows, rows), num_rows)

    def find(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find rows of the epoch.

        Args:
            rows: positions p in the order of training, int64 (n,).

        Returns:
            The index of the visit of each, and the row's position in that visit: int64 (n,).
        """
        size, longer = divmod(self.table.num_rows, self.table.lanes)  # the first lanes have a row more
        lane, offset = rows % self.table.lanes, rows // self.table.lanes
        place = lane * size + np.minimum(lane, longer) + offset
        visit = np.searchsorted(self.starts, place, side="right") - 1
        return visit, place - self.starts[visit]


def list_spans(table: Table, *, seed: int, first_row: int, end_row: int) -> list[Span]:
    """List the spans of a run that have rows in first_row .. end_row, in their order.

    Args:
        table: the training table.
        seed: seed of the order in each epoch.
        first_row: first row to read, counted over all epochs.
        end_row: the row after the last row to read.

    Returns:
        The spans.
    """
    spans = []
    num_rows = table.num_rows
    for epoch in range(first_row // num_rows, -(-end_row // num_rows)):
        start, cuts = epoch * num_rows, EpochOrder(table, seed, epoch).cuts().tolist()
        for first, end in zip(cuts, cuts[1:], strict=False):
            if max(start + first, first_row) < min(start + end, end_row):
                spans.append(Span(epoch, first, end))
    return spans
