"""Contract: every row of an epoch is read exactly once, in an order that depends only on the seed, for any number of
workers and interruptions; all workers read equally many rows; an unreadable image gives a reason, not a black image.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch

from ram_ray.data.images import Limits
from ram_ray.models.losses import UNKNOWN, caption_targets
from ram_ray.settings.training import AugmentConfig, TrainConfig
from ram_ray.training.caption_text import clean_caption
from ram_ray.training.feed import TaggerFeed
from ram_ray.training.feed_blocks import block_size
from ram_ray.training.micro_batches import split_step
from ram_ray.training.order import Table, list_spans
from ram_ray.training.rows import to_training_table
from ram_ray.training.text_column import read_texts
from tests.tiny import NAMES, jpeg, photo, tokenizer

NUM_ROWS, NUM_BUCKETS, SEED = 61, 8, 5
STEP = 10  # rows of an optimizer step
PROMPT = "a picture of "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("feed")


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict]:
    """Training rows of JPEGs that are concatenated in a single file."""
    rows, offset = [], 0
    with (folder / "images.bin").open("wb") as file:
        for number in range(NUM_ROWS):
            data = jpeg(number % 7)
            file.write(data)
            location = {"uri": str(folder / "images.bin"), "offset": offset, "nbytes": len(data)}
            offset += len(data)
            captions = [{"text": "a red dog", "tags": [0, 2]}, {"text": "a beach", "tags": [1]}]
            tags = [number % 6]
            rows.append({"key": f"s/{number}", "shard": "s", "images": [location], "tags": tags, "captions": captions})
    return rows


def write_table_of(rows: list[dict], folder: Path, *, num_buckets: int) -> Table:
    """Write a training table; each bucket has several Parquet files."""
    whole = to_training_table(rows, seed=SEED, num_buckets=num_buckets)
    buckets = whole["bucket"].to_pylist()
    for bucket in set(buckets):
        target = folder / f"bucket={bucket}"
        target.mkdir(parents=True)
        part = whole.filter(np.array(buckets) == bucket).drop(["bucket"])
        half = len(part) // 2
        pq.write_table(part.slice(half), target / "a.parquet")
        pq.write_table(part.slice(0, half), target / "b.parquet")
    return Table(str(folder), tuple(buckets.count(bucket) for bucket in range(num_buckets)))


@pytest.fixture(scope="module")
def table(folder: Path, rows: list[dict]) -> Table:
    tokenizer().save(folder)
    return write_table_of(rows, folder / "table", num_buckets=NUM_BUCKETS)


@pytest.fixture(scope="module")
def feed(folder: Path, table: Table) -> TaggerFeed:
    return TaggerFeed(
        table=table,
        config=TrainConfig(image_size=32, batch_size=STEP),
        seed=SEED,
        limits=Limits(8, 10_000, 100_000),
        tokenizer=str(folder),
        tag_names=NAMES,
        prompt=PROMPT,
        max_caption_tokens=12,
        max_tag_tokens=10,
    )


def _read(feed: TaggerFeed, *, rank: int, world: int, first: int, end: int) -> list[tuple[int, str] | None]:
    """Read (epoch, key) of a worker's rows first .. end of the run; None for a padding row."""
    mine = replace(feed, rank=rank, world_size=world, first_row=first, end_row=end)
    spans = list_spans(feed.table, seed=SEED, first_row=first, end_row=end)
    rows = [row for span in spans for row in mine.read(span).to_pylist()]
    return [None if row["is_padding"] else (row["epoch"], row["key"]) for row in rows]


def _run(feed: TaggerFeed, *, world: int, first: int, end: int) -> list[tuple[int, str]]:
    """Merge the rows of all workers in the order of the run; each step of a worker has equally many rows."""
    micro_batch, num_micro = split_step(STEP, workers=world, limit=feed.config.micro_batch_size)
    size = micro_batch * num_micro
    workers = [_read(feed, rank=rank, world=world, first=first, end=end) for rank in range(world)]
    assert {len(rows) for rows in workers} == {size * (end - first) // STEP}
    merged = []
    for step in range((end - first) // STEP):
        shares = [rows[step * size : (step + 1) * size] for rows in workers]
        step_rows = [shares[index % world][index // world] for index in range(size * world)]
        assert None not in step_rows[:STEP] and set(step_rows[STEP:]) <= {None}
        merged += step_rows[:STEP]
    return merged


def test_the_table_is_shuffled_by_hash_into_all_buckets(table: Table) -> None:
    assert table.num_rows == NUM_ROWS and len(table.buckets) == NUM_BUCKETS and min(table.buckets) > 0
    keys = [key for bucket in range(NUM_BUCKETS) for key in table.read(bucket)["key"].to_pylist()]
    assert sorted(keys) == sorted(f"s/{n}" for n in range(NUM_ROWS)) and keys != sorted(keys)
    orders = [table.read(bucket)["order"].to_pylist() for bucket in range(NUM_BUCKETS)]
    assert all(order == sorted(order) for order in orders)
    assert all(order[-1] < following[0] for order, following in zip(orders, orders[1:], strict=False)), (
        "buckets are ranges of the order"
    )


def test_the_hash_depends_on_seed_and_key_and_fills_buckets_evenly() -> None:
    def rows(number: int) -> list[dict]:
        return [{"key": f"k/{n}", "shard": "s", "images": [], "tags": [], "captions": []} for n in range(number)]

    first, again, other = (
        to_training_table(rows(2000), seed=seed, num_buckets=5)["bucket"].to_pylist() for seed in (1, 1, 2)
    )
    assert first == again != other
    assert set(first) == set(range(5)) and max(Counter(first).values()) < 1.25 * 400


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_every_epoch_holds_every_row_once_for_any_number_of_workers(feed: TaggerFeed, world: int) -> None:
    end = 140
    run = _run(feed, world=world, first=0, end=end)
    assert run == _run(feed, world=1, first=0, end=end), "the order does not depend on the number of workers"
    for epoch in range(2):
        rows = run[epoch * NUM_ROWS : (epoch + 1) * NUM_ROWS]
        assert {row_epoch for row_epoch, _ in rows} == {epoch}
        assert sorted(key for _, key in rows) == sorted(f"s/{n}" for n in range(NUM_ROWS))
    tail = [key for _, key in run[2 * NUM_ROWS :]]
    assert len(tail) == len(set(tail)) == 140 - 2 * NUM_ROWS
    assert [key for _, key in run[:NUM_ROWS]] != [key for _, key in run[NUM_ROWS : 2 * NUM_ROWS]], "epochs differ"


def test_interruptions_and_changes_of_the_cluster_do_not_change_the_run(feed: TaggerFeed) -> None:
    end = 180
    uninterrupted = _run(feed, world=1, first=0, end=end)
    for trial in range(6):
        rng = random.Random(trial)
        config = feed.config.model_copy(update={"micro_batch_size": rng.choice([None, 1, 3])})
        cuts = sorted({0, end, *(rng.randrange(0, end, STEP) for _ in range(4))})
        parts = [
            _run(replace(feed, config=config), world=rng.choice([1, 2, 3, 4, 8]), first=first, end=last)
            for first, last in zip(cuts, cuts[1:], strict=False)
        ]
        assert [row for part in parts for row in part] == uninterrupted, cuts


def test_a_resumed_run_does_not_read_earlier_buckets(feed: TaggerFeed) -> None:
    spans = list_spans(feed.table, seed=SEED, first_row=NUM_ROWS, end_row=2 * NUM_ROWS)
    assert {span.epoch for span in spans} == {1} and sum(span.end - span.first for span in spans) == NUM_ROWS
    assert list_spans(feed.table, seed=SEED, first_row=50, end_row=50) == []
    (span,) = list_spans(feed.table, seed=SEED, first_row=0, end_row=1)
    assert (span.epoch, span.first) == (0, 0)


@pytest.mark.parametrize("num_buckets", [NUM_BUCKETS, 64])
def test_a_stream_has_the_rows_of_its_worker_in_the_order_of_training(
    ray_cluster: None, feed: TaggerFeed, rows: list[dict], tmp_path: Path, num_buckets: int
) -> None:
    table = write_table_of(rows, tmp_path / "table", num_buckets=num_buckets)
    assert table.lanes == (1 if num_buckets == NUM_BUCKETS else 4)
    mine = replace(feed, table=table, rank=1, world_size=2, first_row=10, end_row=120)
    dataset = mine.dataset(num_cpus=0.5)
    assert dataset and dataset.context.override_object_store_memory_limit_fraction == 0.25, (
        "half of it for both workers"
    )
    assert dataset.context.target_max_block_size == int(0.25 * ray.cluster_resources()["object_store_memory"]) // 16
    batches = list(mine.stream(num_cpus=0.5))
    assert {len(batch["key"]) for batch in batches} == {5}
    spans = list_spans(table, seed=SEED, first_row=10, end_row=120)
    expected = [row["key"] for span in spans for row in mine.read(span).to_pylist()]
    assert [key for batch in batches for key in batch["key"].tolist()] == expected and len(expected) == 55


def test_blocks_are_small_in_a_small_store_and_no_batch_is_cut() -> None:
    assert block_size(256 << 20, batch_bytes=1 << 20) == 16 << 20
    assert block_size(256 << 20, batch_bytes=20 << 20) == 20 << 20, "a batch"
    assert block_size(100 << 30, batch_bytes=20 << 20) == 128 << 20, "as Ray Data has it"


def test_bytes_of_a_row(feed: TaggerFeed) -> None:
    batch = feed.batch(_rows(feed))
    assert len(batch["key"]) * feed.row_bytes == batch["pixels"].nbytes
    assert replace(feed, token_shape=(5, 8)).row_bytes == 5 * 8 * 2  # float16


def test_a_table_that_lost_rows_is_not_trained_on(table: Table) -> None:
    wrong = replace(table, buckets=tuple(count + 1 for count in table.buckets))
    with pytest.raises(AssertionError):
        wrong.read(0)


def _rows(feed: TaggerFeed, number: int = 6) -> list[dict]:
    spans = list_spans(feed.table, seed=SEED, first_row=0, end_row=60)
    reader = replace(feed, end_row=60)
    return [row for span in spans for row in reader.read(span).to_pylist()][:number]


def test_a_batch_has_the_declared_columns(feed: TaggerFeed) -> None:
    rows = _rows(feed)
    batch = feed.batch(rows)
    text_columns = {"key", "shard", "reason", "detail"}
    assert batch.keys() == {"pixels", "weight", *text_columns, "targets", "caption_ids", "tag_ids"}
    assert batch["weight"].tolist() == [1] * 6 and batch["weight"].dtype == np.float32
    assert batch["pixels"].shape == (6, 1, 32, 32, 3) and batch["pixels"].dtype == np.uint8
    assert batch["key"].tolist() == [row["key"] for row in rows] and set(batch["reason"]) == {""}
    targets = np.zeros((6, len(NAMES)), np.uint8)
    targets[range(6), [int(row["key"][2:]) % 6 for row in rows]] = 1
    np.testing.assert_array_equal(batch["targets"], targets)
    assert batch["caption_ids"].shape == (6, 12) and batch["tag_ids"].shape == (6, 10)
    assert batch["caption_ids"].dtype == batch["tag_ids"].dtype == np.int32


def test_the_tag_list_is_that_of_the_learned_caption(feed: TaggerFeed) -> None:
    decoder, seen = tokenizer(), set()
    for epoch in range(6):
        batch = feed.batch([{**row, "epoch": epoch} for row in _rows(feed)])
        for caption, tags in zip(batch["caption_ids"], batch["tag_ids"], strict=True):
            pair = (decoder.decode(caption.tolist()), decoder.decode(tags.tolist()))
            assert pair in {("a picture of a red dog", "dog | red"), ("a picture of a beach", "beach")}
            seen.add(pair)
    assert len(seen) == 2, "another caption in another epoch"


def test_captions_are_cleaned_where_the_settings_say_so(feed: TaggerFeed) -> None:
    rows = [{**row, "captions": [{"text": 'A (red)  DOG!: "dog".', "tags": [0]}]} for row in _rows(feed, 2)]
    clean = replace(feed, config=feed.config.model_copy(update={"clean_captions": True}))
    decoder = tokenizer()
    texts = [decoder.decode(ids.tolist()) for ids in clean.batch(rows)["caption_ids"]]
    assert texts == ["a picture of a red dog dog"] * 2
    assert clean_caption("A man's T-shirt, red; ~1:2. *") == "a man's t-shirt, red 1 2"
    assert clean_caption(" word" * 40) == " ".join(["word"] * 30)


def test_crops_depend_on_seed_epoch_and_key_and_not_on_their_batch(feed: TaggerFeed) -> None:
    rows = _rows(feed)
    together = feed.batch(rows)
    for index, row in enumerate(rows):
        alone = replace(feed, rank=1, world_size=3).batch([row])
        for name in ("pixels", "caption_ids", "tag_ids", "targets"):
            np.testing.assert_array_equal(alone[name][0], together[name][index])
    later = feed.batch([{**row, "epoch": 1} for row in rows])
    other = replace(feed, seed=SEED + 1).batch(rows)
    for changed in (later, other):
        assert all((changed["pixels"][index] != together["pixels"][index]).any() for index in range(len(rows)))


def test_a_crop_shows_its_own_image(feed: TaggerFeed) -> None:
    whole = AugmentConfig(crop_scale=(0.95, 1.0), flip=False, randaugment=None)
    plain = replace(feed, config=TrainConfig(image_size=32, augment=whole))
    rows = _rows(feed, 20)
    pixels = plain.batch(rows)["pixels"][:, 0].astype(int)
    images = [np.asarray(photo(number).resize((32, 32))).astype(int) for number in range(7)]
    for row, crop in zip(rows, pixels, strict=True):
        distances = [np.abs(crop - image).mean() for image in images]
        assert int(np.argmin(distances)) == int(row["key"][2:]) % 7


def test_a_broken_image_becomes_a_reason_and_zeros(feed: TaggerFeed, folder: Path) -> None:
    (folder / "broken.jpg").write_bytes(jpeg(0)[:300])
    rows = _rows(feed, 4)
    location = {"uri": str(folder / "broken.jpg"), "offset": 0, "nbytes": 300}
    rows[1] = {**rows[1], "images": [location]}
    rows[2] = {**rows[2], "images": [{**location, "uri": str(folder / "gone.jpg")}]}
    batch, intact = feed.batch(rows), feed.batch(_rows(feed, 4))
    assert batch["reason"].tolist() == ["", "truncated", "broken_archive", ""]
    assert [bool(detail) for detail in batch["detail"]] == [False, True, True, False]
    assert not batch["pixels"][[1, 2]].any() and batch["weight"].tolist() == [1, 0, 0, 1]
    for index in (0, 3):
        np.testing.assert_array_equal(batch["pixels"][index], intact["pixels"][index])


def test_a_padding_row_has_weight_0_and_no_key(feed: TaggerFeed) -> None:
    rows = _rows(feed, 3)
    batch = feed.batch([*rows[:2], {**rows[2], "is_padding": True}])
    assert batch["weight"].tolist() == [1, 1, 0] and batch["key"].tolist()[2] == "" and batch["reason"][2] == ""
    np.testing.assert_array_equal(batch["pixels"][2], feed.batch(rows)["pixels"][2])


def test_without_the_caption_loss_there_are_no_ids_and_the_alignment_loss_has_texts(feed: TaggerFeed) -> None:
    tags_only = replace(feed, config=TrainConfig(image_size=32, caption_loss=False))
    assert tags_only.batch(_rows(feed, 2)).keys() == {"pixels", "weight", "key", "shard", "reason", "detail", "targets"}
    column = replace(tags_only, aligns=True).batch(_rows(feed, 6))["caption_text"]
    assert set(read_texts(torch.from_numpy(column))) == {"a red dog", "a beach"}


def test_a_removed_tag_is_unknown_or_negative_as_configured(feed: TaggerFeed) -> None:
    (row,) = _rows(feed, 1)
    row = {**row, "tags": [1, 3], "removed": [0, 3]}
    unknown = replace(feed, config=TrainConfig(image_size=32, removed="unknown"))
    targets = unknown.batch([row])["targets"][0]
    assert {id: int(value) for id, value in enumerate(targets) if value} == {0: UNKNOWN, 1: 1, 3: 1}, (
        "3 was added again"
    )
    assert np.flatnonzero(feed.batch([row])["targets"][0]).tolist() == [1, 3], "as in the paper, it is negative"


def test_labels_of_a_partial_row_are_unknown_but_for_those_that_a_person_names(feed: TaggerFeed) -> None:
    (row,) = _rows(feed, 1)
    row = {**row, "tags": [1], "removed": [0, 4], "absent": [2, 4], "partial": True}
    expected = {"negative": [0, 1, 0, UNKNOWN, 0, UNKNOWN], "unknown": [UNKNOWN, 1, 0, UNKNOWN, 0, UNKNOWN]}
    for removed, targets in expected.items():
        configured = replace(feed, config=TrainConfig(image_size=32, removed=removed))
        assert configured.batch([row])["targets"][0].tolist() == targets
    complete = replace(feed, config=TrainConfig(image_size=32, removed="unknown")).batch([{**row, "partial": False}])
    assert complete["targets"][0].tolist() == [UNKNOWN, 1, 0, 0, 0, 0]


def test_an_image_without_captions_has_no_token_to_learn(feed: TaggerFeed) -> None:
    first, second = _rows(feed, 2)
    rows = [{**first, "captions": []}, {**second, "captions": [{"text": "a", "tags": []}]}]
    ids = torch.from_numpy(feed.batch(rows)["caption_ids"]).long()
    start = tokenizer().prompt_length(PROMPT)
    assert [int((row != -100).sum()) for row in caption_targets(ids, start=start)] == [0, 2], "a word and the end"


def test_a_weighted_bucket_keeps_its_position_in_the_run(feed: TaggerFeed) -> None:
    class Weighted(Table):
        def read(self, bucket: int) -> pa.Table:
            table = super().read(bucket)
            weights = [0.1 + int(key[2:]) % 3 for key in table["key"].to_pylist()]
            return table.set_column(table.column_names.index("weight"), "weight", pa.array(weights, pa.float32()))

    weighted = replace(feed, table=Weighted(feed.table.path, feed.table.buckets))
    whole = _run(weighted, world=1, first=0, end=60)
    assert len(whole) == 60 and whole != _run(feed, world=1, first=0, end=60)
    assert _run(weighted, world=1, first=20, end=60) == whole[20:]
    assert _run(weighted, world=2, first=0, end=60) == whole
