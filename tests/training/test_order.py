"""Contract: an epoch has every row once, in an order that does not depend on the workers; with many buckets a bucket is
read by one worker, so that what a row costs in requests and bytes is the same for 8 and for 256 workers; in a large
table, images that are neighbours in their file are read by one request."""

from __future__ import annotations

import itertools
import os
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ram_ray.data.images import Limits
from ram_ray.settings.training import TrainConfig
from ram_ray.training.feed import DECODED_ROWS, EMPTY, TaggerFeed
from ram_ray.training.image_columns import read_contents
from ram_ray.training.order import (
    MAX_LANES,
    NEIGHBOUR_LANES,
    EpochOrder,
    Table,
    count_lanes,
    keeps_neighbours,
    list_spans,
    shuffle_neighbours,
)
from ram_ray.training.rows import IMAGE_LOCATION, NEIGHBOUR_BYTES, neighbourhood, to_training_table

SEED = 3
IMAGE_BYTES = 64 << 10


@dataclass(frozen=True)
class CountedTable(Table):
    """Rows of keys alone, made where they are read; each read is counted."""

    reads: Counter[int] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, bucket: int) -> pa.Table:
        with self.lock:
            self.reads[bucket] += 1
        keys = [f"{bucket}/{row}" for row in range(self.buckets[bucket])]
        columns = {name: pa.nulls(len(keys), EMPTY.schema.field(name).type) for name in EMPTY.column_names}
        images = pa.array([[{"uri": "a.tar", "offset": 0, "nbytes": 1}]] * len(keys), pa.list_(IMAGE_LOCATION))
        own = {"key": pa.array(keys, pa.string()), "order": pa.array(range(len(keys))), "images": images}
        return pa.table(columns | own)


@dataclass(frozen=True)
class TableInMemory(Table):
    """The rows of each bucket."""

    rows: list[pa.Table] = field(default_factory=list)

    def read(self, bucket: int) -> pa.Table:
        return self.rows[bucket].drop(["bucket"]).sort_by([("order", "ascending"), ("key", "ascending")])


def make_feed(buckets: int, *, rows: int, batch: int) -> TaggerFeed:
    sizes = np.random.default_rng(0).integers(rows - 2, rows + 3, buckets)
    config = TrainConfig(image_size=32, batch_size=batch)
    return TaggerFeed(CountedTable("", tuple(sizes.tolist())), config, SEED, Limits(1, 10, 10), "")


def make_neighbours(folder: Path, *, buckets: int, rows: int) -> TableInMemory:
    """A table of images of `IMAGE_BYTES` that lie one after another in a file."""
    (folder / "images.tar").touch()
    os.truncate(folder / "images.tar", buckets * rows * IMAGE_BYTES)
    made = [
        {
            "key": f"s/{number}",
            "shard": "s",
            "images": [{"uri": f"{folder}/images.tar", "offset": number * IMAGE_BYTES, "nbytes": IMAGE_BYTES}],
        }
        for number in range(buckets * rows)
    ]
    whole = to_training_table(made, seed=SEED, num_buckets=buckets, keeps_neighbours=keeps_neighbours(buckets))
    parts = [whole.filter(pc.equal(whole["bucket"], bucket)) for bucket in range(buckets)]
    return TableInMemory("", tuple(map(len, parts)), parts)


def read_run(feed: TaggerFeed, *, world: int, end: int, first: int = 0) -> list[str]:
    """The keys of rows first .. end in the order of the run, put together from the workers."""
    keys = np.full(end - first, "", object)
    spans = list_spans(feed.table, seed=SEED, first_row=first, end_row=end)
    for rank in range(world):
        mine = replace(feed, rank=rank, world_size=world, first_row=first, end_row=end)
        rows = np.arange(first, end)
        own = rows[rows % feed.config.batch_size % world == rank]
        read = [row for span in spans for row in mine.read(span).to_pylist() if not row["is_padding"]]
        keys[own - first] = [f"{row['epoch']}:{row['key']}" for row in read]
    return keys.tolist()


def test_lanes_follow_from_the_buckets_alone() -> None:
    assert [count_lanes(number) for number in (1, 22, 31, 32, 63, 64, 1000, 13_672, 10**6)] == [
        *(1, 1, 1, 2, 2, 4),
        *(32, MAX_LANES, MAX_LANES),
    ]


@pytest.mark.parametrize("buckets", [1, 5, 70, 140])
def test_an_epoch_has_every_row_once_and_is_cut_into_spans(buckets: int) -> None:
    feed = make_feed(buckets, rows=6, batch=8)
    order, total = EpochOrder(feed.table, SEED, 0), feed.table.num_rows
    visits, places = order.find(np.arange(total))
    assert len(set(zip(visits.tolist(), places.tolist(), strict=True))) == total
    assert all(place < feed.table.buckets[order.visits[visit]] for visit, place in zip(visits, places, strict=True))
    cuts = order.cuts()
    assert cuts[0] == 0 and cuts[-1] == total and (np.diff(cuts) > 0).all()
    lanes = feed.table.lanes
    if lanes > 1:
        ends = np.diff(cuts)[:-1] / lanes
        assert (ends <= 8).all(), "about a bucket of each lane"
        first = visits[:lanes]
        assert len(set(first.tolist())) == lanes, "a batch has rows of many buckets"


@pytest.mark.parametrize("world", [2, 3, 4, 7])
def test_the_order_does_not_depend_on_the_workers_or_on_interruptions(world: int) -> None:
    feed = make_feed(70, rows=6, batch=16)
    end = 2 * feed.table.num_rows // 16 * 16
    whole = read_run(feed, world=1, end=end)
    assert read_run(feed, world=world, end=end) == whole
    assert read_run(feed, world=world, first=160, end=end) == whole[160:]
    epoch = [key for key in whole if key.startswith("0:")]
    assert len(epoch) == len(set(epoch)) == feed.table.num_rows
    later = [key[2:] for key in whole if key.startswith("1:")]
    assert later[:50] != [key[2:] for key in epoch[:50]], "epochs differ"


def test_requests_and_bytes_of_a_row_are_the_same_for_8_64_and_256_workers() -> None:
    costs = []
    for world in (8, 64, 256):
        feed = make_feed(MAX_LANES * 16, rows=6, batch=512)
        end = feed.table.num_rows // 512 * 512
        spans = list_spans(feed.table, seed=SEED, first_row=0, end_row=end)
        for rank in {0, world // 2, world - 1}:
            mine = replace(feed, rank=rank, world_size=world, end_row=end)
            for span in spans:
                mine.read(span)
        assert isinstance(feed.table, CountedTable)
        rows = end / world * len({0, world // 2, world - 1})
        costs.append(feed.table.reads.total() / rows)
        shared = [reads for reads in feed.table.reads.values() if reads > 3]
        assert not shared, "a bucket is read by the worker of its lane, once or where two spans meet in it"
    assert max(costs) < 1.1 * min(costs), costs
    assert max(costs) < 3 / 6, "reads of a row: about two a bucket of 6 rows"


def test_neighbours_in_a_file_are_read_by_one_request_and_are_few_in_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make_neighbours(tmp_path, buckets=16 * NEIGHBOUR_LANES, rows=16)
    feed = replace(make_feed(1, rows=6, batch=512), table=table)
    run = read_run(feed, world=8, end=table.num_rows)
    assert len(set(run)) == table.num_rows and run == read_run(feed, world=1, end=table.num_rows)
    assert run != read_run(feed, world=8, first=table.num_rows, end=2 * table.num_rows)
    parts = [int(key.partition("/")[2]) * IMAGE_BYTES // NEIGHBOUR_BYTES for key in run]
    for start in range(0, table.num_rows, NEIGHBOUR_LANES):
        assert max(Counter(parts[start : start + NEIGHBOUR_LANES]).values()) <= 2, "one of each lane"

    counted: Counter[str] = Counter()
    count = lambda kind, *, num_bytes, requests: counted.update({"bytes": num_bytes, "requests": requests})  # noqa: E731
    monkeypatch.setattr("ram_ray.data.fetch.count_request", count)
    for world in (8, 64):
        counted.clear()
        mine = replace(feed, rank=1, world_size=world, end_row=table.num_rows)
        spans = list_spans(table, seed=SEED, first_row=0, end_row=table.num_rows)
        rows = [row for span in spans for row in mine.read(span).to_pylist()]
        for start in range(0, len(rows), DECODED_ROWS):
            read_contents([mine.views(row) for row in rows[start : start + DECODED_ROWS]])
        assert counted["requests"] < len(rows) / 8, (world, counted)
        assert counted["bytes"] < 1.1 * len(rows) * IMAGE_BYTES, "what lies between two of them is not read"


def test_a_small_table_is_shuffled_row_by_row(tmp_path: Path) -> None:
    table = make_neighbours(tmp_path, buckets=4, rows=64)
    assert not table.keeps_neighbours
    orders = [order for part in table.rows for order in part["order"].to_pylist()]
    assert len(set(orders)) == table.num_rows, "a hash of each key"


def test_a_neighbourhood_is_a_part_of_a_tar_or_some_rows_of_a_parquet_file() -> None:
    places = [("a.tar", 0), ("a.tar", NEIGHBOUR_BYTES - 1), ("a.tar", NEIGHBOUR_BYTES), ("b.tar", 0), ("c.jpg", 0)]
    places += [("d.parquet", 15), ("d.parquet", 16), ("d.parquet", NEIGHBOUR_BYTES)]
    names = [neighbourhood({"uri": uri, "offset": offset, "nbytes": 1}) for uri, offset in places]
    assert names[0] == names[1] and len(set(names)) == len(names) - 1


def test_rows_drawn_by_weight_stay_with_their_neighbours() -> None:
    places = [(7, 30), (7, 10), (8, 0), (8, 5), (9, 2), (9, 1)]
    orders, offsets = zip(*places, strict=True)
    images = [[{"uri": "a.tar", "offset": offset, "nbytes": 1}] for offset in offsets]
    bucket = pa.table({"order": orders, "images": pa.array(images, pa.list_(IMAGE_LOCATION))})
    shuffled = {tuple(shuffle_neighbours([0, 0, 1, 3, 4, 5, 5], bucket, seed=str(seed))) for seed in range(20)}
    parts = [(1, 0, 0), (3,), (5, 5, 4)]
    assert shuffled == {sum(order, ()) for order in itertools.permutations(parts)}, "each as it lies in its file"


def test_empty_buckets_are_skipped(tmp_path: Path) -> None:
    table = Table(str(tmp_path), (0, 3, 0, 2))
    assert sorted(list_spans(table, seed=0, first_row=0, end_row=10), key=lambda span: span.epoch)[0].first == 0
    for epoch in range(2):
        spans = list_spans(table, seed=0, first_row=5 * epoch, end_row=5 * epoch + 5)
        assert sorted(span.end - span.first for span in spans) == [2, 3] and {span.epoch for span in spans} == {epoch}
