"""Contract: a share of a stage's rows is that of whole shards, which follow from their names alone."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from ram_ray.config import load
from ram_ray.runtime.artifacts import write_table
from ram_ray.runtime.rows import read_rows, sample_shards

NUM_SHARDS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("stage")
    for shard in range(NUM_SHARDS):
        for part in range(2):
            write_table(pa.table({"key": [f"{shard}/{part}"]}), f"{path}/shard={shard:05d}/{part}.parquet")
    (path / "curve.json").write_text("{}")
    return str(path)


def test_a_larger_share_contains_a_smaller_one(folder: str) -> None:
    shares = [sample_shards(folder, share=share) for share in (1e-9, 0.1, 0.25, 1.0)]
    assert [len(share) for share in shares] == [1, 4, 10, NUM_SHARDS]
    for smaller, larger in zip(shares, shares[1:], strict=False):
        assert set(smaller) < set(larger)
    assert sorted(shares[2]) != sorted(shares[3])[:10], "not the first ones"
    assert sample_shards(f"{folder}/", share=0.25) == shares[2]


def test_all_rows_of_the_chosen_shards_are_read(ray_cluster: None, folder: str) -> None:
    execution = load(sets=["resources.task_cpus=0.5"]).execution
    rows = read_rows(folder, execution=execution, share=0.25).take_all()
    shards = {Path(path).name.removeprefix("shard=") for path in sample_shards(folder, share=0.25)}
    assert {row["shard"] for row in rows} == shards and len(rows) == 2 * len(shards)
    assert read_rows(folder, execution=execution).count() == 2 * NUM_SHARDS
