"""Contract: the training table, and so the order of training, depends on its rows and the seed, and on nothing that
only says how a run is executed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ram_ray.config import load
from ram_ray.records import ANNOTATION, to_table
from ram_ray.training.rows import tagged_rows
from ram_ray.training.table import LARGE_BUCKET, SMALL_BUCKET, count_buckets, make_table
from tests.data_engine.test_generate import annotation

TINY = Path(__file__).parents[1] / "tiny_run.yaml"


@pytest.mark.parametrize(
    ("num_rows", "num_buckets"),
    [(0, 1), (1, 1), (250, 1), (251, 2), (9_000, 36), (250_000, 1000), (1_024_000, 1000), (14_000_000, 13_672)],
)
def test_the_number_of_buckets_follows_from_the_number_of_rows(num_rows: int, num_buckets: int) -> None:
    assert count_buckets(num_rows) == num_buckets


def test_buckets_are_neither_too_small_nor_too_large() -> None:
    for num_rows in range(1_000, 3_000_000, 99_999):
        assert SMALL_BUCKET * 0.8 <= num_rows / count_buckets(num_rows) <= LARGE_BUCKET


def test_the_table_is_the_same_however_its_rows_are_read(ray_cluster: None, tmp_path: Path) -> None:
    rows = [annotation(f"s/{number}") for number in range(600)]
    folder = tmp_path / "rows" / "shard=s"
    folder.mkdir(parents=True)
    for part in range(3):
        table = to_table(rows[part::3], ANNOTATION).drop_columns(["shard"])
        pq.write_table(table, folder / f"{part}.parquet")
    execution = load(TINY).execution
    tables = [
        make_table(
            f"{tmp_path}/table_{rows_per_block}",
            {str(tmp_path / "rows"): tagged_rows},
            num_rows=len(rows),
            seed=7,
            execution=replace(execution, rows_per_block=rows_per_block),
        )
        for rows_per_block in (40, 1000)
    ]
    first, second = tables
    assert first.buckets == second.buckets and len(first.buckets) == 3 and first.num_rows == len(rows)
    for bucket in range(3):
        assert first.read(bucket).equals(second.read(bucket))
