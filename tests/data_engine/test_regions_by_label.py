"""Contract: every region comes out once, in the group of its label, whatever files it came from; finished
work is not repeated."""

from collections import Counter
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ram_ray.data_engine import regions_by_label as module
from ram_ray.data_engine.crops import IMAGE_REGIONS, REGIONS, explode_regions
from ram_ray.data_engine.regions_by_label import (
    FileBatch,
    Group,
    RowCounts,
    count_tags,
    first_moves,
    in_memory,
    list_file_batches,
    plan_groups,
    plan_sets,
    read_regions,
    second_moves,
    write_groups,
)

SHARDS = ("web-00", "a%b c")  # a name that a folder's name must escape


@pytest.fixture
def regions(tmp_path: Path) -> tuple[Path, pa.Table]:
    """A folder as Ray writes it, partitioned by shard, and the same rows."""
    rng = np.random.default_rng(0)
    tables = []
    for file in range(4):
        rows = []
        for image in range(30):
            image_regions = [
                {
                    "tag": int(id),
                    "positive": bool(positive := rng.random() < 0.8),
                    "mentioned": bool(positive and rng.random() < 0.7),
                    "confirmed": False,
                    "human": False,
                    "box": [0, 0, 1, 1],
                    "detected": True,
                    "detector_score": 0.5,
                    "image_score": float(rng.random()),
                    "region_score": float(rng.random()),
                    "other_mentions": [9, 10],
                    "embedding": rng.normal(size=4).astype("<f2").tobytes(),
                }
                for id in rng.choice(9, rng.integers(0, 6), replace=False)
                if id < 8 or file == 0  # tag 8 is in a single file
            ]
            rows.append({"key": f"{file}/{image:02d}", "shard": SHARDS[file % 2], "regions": image_regions})
        table = pa.Table.from_pylist(rows, schema=IMAGE_REGIONS)
        folder = tmp_path / "regions" / f"shard={quote(SHARDS[file % 2], safe='')}"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.drop_columns("shard"), folder / f"{file}.parquet")
        tables.append(explode_regions(table))
    return tmp_path / "regions", pa.concat_tables(tables)


def sorted_rows(table: pa.Table) -> pa.Table:
    return table.combine_chunks().sort_by([("tag", "ascending"), ("key", "ascending")])


def read(groups: list[Group], folder: Path, columns: list[str] = REGIONS.names) -> pa.Table:
    tables = [
        table
        for group in groups
        for tag, chunks in read_regions(group, folder=str(folder))
        for table in chunks(columns)
        if "tag" not in columns or set(table["tag"].to_pylist()) == {tag}
    ]
    return pa.concat_tables(tables)


def move(batches: list[FileBatch], groups: list[Group], folder: Path) -> int:
    """Move all rows to their groups; the number of moves that a second call would repeat."""
    for step in range(2):
        for each in second_moves(groups, folder=str(folder)) if step else first_moves(batches, groups):
            write_groups(each, folder=str(folder))
    return len(second_moves(groups, folder=str(folder)))


@pytest.mark.parametrize("max_files", [64, 2])
@pytest.mark.parametrize("batch_bytes, group_rows", [(1 << 30, 1000), (1, 60), (1, 5)])
def test_every_region_comes_out_once_with_its_label(regions, tmp_path, monkeypatch, batch_bytes, group_rows, max_files):
    monkeypatch.setattr(module, "MAX_FILES", max_files)
    monkeypatch.setattr(module, "BATCH_BYTES", batch_bytes)
    monkeypatch.setattr(module, "GROUP_ROWS", group_rows)
    monkeypatch.setattr(module, "MIN_GROUP_ROWS", 1)
    monkeypatch.setattr(module, "CHUNK_ROWS", 16)
    folder, rows = regions
    batches = list_file_batches(str(folder))
    assert len(batches) == (1 if batch_bytes > 1 else 4)
    counts = RowCounts()
    for batch in batches:
        counts.add(count_tags(batch))
    assert counts.rows == Counter(rows["tag"].to_pylist())
    assert counts.mentioned == Counter(rows.filter(rows["mentioned"])["tag"].to_pylist())
    assert counts.images == len(set(rows["key"].to_pylist()))
    groups = plan_groups(counts.rows, groups=1)
    assert [group.rows for group in groups] == sorted((group.rows for group in groups), reverse=True)
    assert sorted(tag for group in groups for tag in group.tags) == list(range(9))
    assert any(group.large for group in groups) == (group_rows == 5)
    assert bool(move(batches, groups, tmp_path / "layout")) == (len(groups) > max_files)
    written = read(groups, tmp_path / "layout")
    assert sorted_rows(written).equals(sorted_rows(rows))
    keys = read(groups, tmp_path / "layout", ["key"])
    assert sorted(keys["key"].to_pylist()) == sorted(rows["key"].to_pylist())


@pytest.mark.parametrize("max_files", [64, 1])
def test_a_finished_batch_is_not_written_again(regions, tmp_path, monkeypatch, max_files):
    monkeypatch.setattr(module, "MIN_GROUP_ROWS", 1)
    (batch,) = list_file_batches(str(regions[0]))
    groups = plan_groups(count_tags(batch).rows, groups=3)
    assert len(groups) > 2
    monkeypatch.setattr(module, "MAX_FILES", max_files)
    move([batch], groups, tmp_path / "layout")
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "layout").rglob("*.parquet")}
    move([batch], groups, tmp_path / "layout")
    assert files and {file: file.stat().st_mtime_ns for file in files} == files


def test_groups_are_few_for_few_rows_and_many_for_many():
    few = plan_groups({tag: 10 for tag in range(50)}, groups=200)
    assert len(few) == 1
    many = plan_groups({tag: 1_000 for tag in range(4_000)}, groups=200)
    assert len(many) == 200
    uneven = plan_groups({0: 3_000_000, **{tag: 100 for tag in range(1, 100)}}, groups=4)
    assert uneven[0].tags == (0,) and uneven[0].large and not uneven[1].large
    orders = ({2: 9, 1: 9}, {1: 9, 2: 9})
    names = [[group.name for group in plan_groups(counts, groups=1)] for counts in orders]
    assert names[0] == names[1]


def test_a_table_in_memory_is_read_like_files():
    table = pa.table({"a": np.arange(40_000), "b": np.arange(40_000)})
    parts = list(in_memory(table)(["b"]))
    assert max(len(part) for part in parts) <= module.CHUNK_ROWS
    assert pa.concat_tables(parts)["b"].to_pylist() == list(range(40_000))


def test_a_batch_writes_few_files_whatever_the_number_of_groups():
    for num_groups in (65, 560, 4_585):
        groups = [Group(str(index), (index,), 1_000_000 // (index + 1)) for index in range(num_groups)]
        sets = plan_sets(groups)
        assert sorted(group.tags for members in sets.values() for group in members) == [(i,) for i in range(num_groups)]
        first = first_moves([FileBatch("a", ("a.parquet",))], groups)
        assert [len(each.groups) for each in first] == [len(sets)] and len(sets) <= num_groups**0.5 + 1
        total, largest = sum(group.rows for group in groups), groups[0].rows
        assert max(sum(group.rows for group in members) for members in sets.values()) <= total / len(sets) + largest
    assert not plan_sets(groups[:64])
