"""Contract: pairs that are found by shuffling rows to their slices are those that tasks find which read all rows; each
is there once, and what was finished before a kill is not found again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ram_ray.config import load
from ram_ray.curation.groups import KINDS, PAIR
from ram_ray.curation.hash_shuffle import distinct_pairs, shuffle_pairs, write_distinct
from ram_ray.curation.hash_table import HASHES, Work, read_pairs, write_pairs
from ram_ray.curation.lookup import TABLES
from tests.curation.test_lookup import near_signatures

SLICES = 5
OPTIONS = {"max_distance": 8, "mirrored": True}
PLAN = [
    *(Work(("bytes",), (), index, SLICES) for index in range(SLICES)),
    *(Work((), (table,), index, SLICES) for table in TABLES[:2] for index in range(SLICES)),
]


@pytest.fixture(scope="module")
def hashes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two files of rows, some without a hash, some with the hash of another."""
    folder = tmp_path_factory.mktemp("hashes")
    rng = np.random.default_rng(0)
    signatures = near_signatures()
    count = len(signatures)
    columns = {name: pa.nulls(count, HASHES.field(name).type) for name in HASHES.names}
    columns["id"] = pa.array(rng.permutation(count))
    columns["set"], columns["source"] = pa.array(np.zeros(count, np.int8)), pa.array(np.zeros(count, np.int64))
    values = rng.integers(-(2**62), 2**62, count)
    values[1::7] = values[0]
    columns["bytes_hash"] = pa.array(values, mask=rng.random(count) < 0.1)
    columns["signature"] = pa.array([signature.tobytes() for signature in signatures], pa.binary())
    table = pa.table(columns, schema=HASHES)
    for number, part in enumerate((table.slice(0, count // 3), table.slice(count // 3))):
        pq.write_table(part, folder / f"{number}.parquet")
    return str(folder)


def rows_of(pairs: pa.Table) -> list[str]:
    return sorted(map(repr, pairs.to_pylist()))


def test_the_pairs_are_those_of_tasks_that_read_all_rows(ray_cluster: None, hashes: str, tmp_path: Path) -> None:
    execution, folder = load().execution, str(tmp_path / "shuffled")
    shuffle_pairs(PLAN, hashes, folder, **OPTIONS, execution=execution)
    for work in PLAN:
        write_pairs(work, hashes, f"{tmp_path}/read/{work.name}.parquet", **OPTIONS)
    expected = rows_of(distinct_pairs(read_pairs(f"{tmp_path}/read")))
    write_distinct(folder, f"{tmp_path}/distinct", execution=execution)
    assert rows_of(read_pairs(f"{tmp_path}/distinct")) == expected and len(expected) > 100
    assert {row["kind"] for row in read_pairs(f"{tmp_path}/distinct").to_pylist()} == {
        KINDS.index("bytes"),
        KINDS.index("near"),
    }
    found = [pq.read_metadata(file).num_rows for file in Path(folder).rglob("*.parquet")]
    assert sum(found) > len(expected), "two tables find the same pairs"
    assert min(found) > 0, "Ray Data would read a file without rows as one without columns"

    times = {file: file.stat().st_mtime_ns for file in Path(folder, PLAN[0].name).iterdir()}
    killed = Path(folder, PLAN[-1].name)
    Path(f"{folder}/{PLAN[SLICES * 2].name}.done").unlink()  # as if killed before the last table was finished
    next(killed.parent.glob(f"{PLAN[SLICES * 2].name}/*.parquet")).unlink()
    shuffle_pairs(PLAN, hashes, folder, **OPTIONS, execution=execution)
    write_distinct(folder, f"{tmp_path}/distinct", execution=execution)
    assert rows_of(read_pairs(f"{tmp_path}/distinct")) == expected
    assert {file: file.stat().st_mtime_ns for file in Path(folder, PLAN[0].name).iterdir()} == times


def test_a_pair_is_left_once_for_each_kind_with_its_least_distance() -> None:
    def pair(id: int, other: int, kind: str, distance: int) -> dict:
        row = {"id": id, "set": 0, "source": 1, "other_id": other, "other_set": 0, "other_source": 1}
        return {**row, "kind": KINDS.index(kind), "distance": distance}

    rows = [pair(1, 2, "near", 4), pair(1, 2, "near", 2), pair(1, 3, "near", 4), pair(1, 2, "url", 0)]
    left = distinct_pairs(pa.Table.from_pylist(rows, schema=PAIR)).to_pylist()
    assert left == [rows[3], rows[1], rows[2]]
    assert distinct_pairs(PAIR.empty_table()).schema == PAIR


def test_without_pairs_nothing_is_written(ray_cluster: None, tmp_path: Path) -> None:
    write_distinct(str(tmp_path / "none"), str(tmp_path / "distinct"), execution=load().execution)
    assert not len(read_pairs(str(tmp_path / "distinct")))
