"""Contract: rows are divided as Ray Data divides them; `tests/test_pipeline.py` compares with a real run."""

from __future__ import annotations

import pytest

from ram_ray.planning.layout import (
    BLOCK_BYTES,
    Pass,
    Rows,
    bundle,
    choose_scale,
    count_read_tasks,
    cut,
    even_shards,
    pass_over,
    pass_over_parts,
)


@pytest.mark.parametrize(
    ("files", "nbytes", "cpus", "expected"),
    [
        (10, 0, 3, (6, 1)),  # twice the CPUs
        (4, 0, 3, (4, 2)),  # fewer files than that: what each reads is split
        (1, 0, 3, (1, 6)),
        (1000, 50 * BLOCK_BYTES, 3, (50, 1)),  # a task for each block
        (2, 8 * BLOCK_BYTES, 2, (2, 1)),  # large files are split by their size
    ],
)
def test_read_tasks(files: int, nbytes: float, cpus: float, expected: tuple[int, int]) -> None:
    assert count_read_tasks(files, nbytes, cpus=cpus) == expected


def test_a_block_ends_where_its_part_does() -> None:
    blocks = list(cut([Rows(0, 600), Rows(1, 600)], 512))
    assert blocks == [[Rows(0, 512)], [Rows(0, 88), Rows(1, 424)], [Rows(1, 176)]]


def test_bundles_have_at_least_their_rows() -> None:
    blocks = [[Rows(0, 10)] for _ in range(7)] + [[Rows(1, 10)]]
    assert list(bundle(blocks, 64)) == [[Rows(0, 70)], [Rows(1, 10)]]


def test_no_row_is_lost_or_made() -> None:
    files = even_shards(10_007, 13)
    layout = pass_over(files, Pass(300, (64, 300), row_bytes=500_000.0), cpus=3)  # blocks are split by their bytes
    assert sum(rows.count for rows in layout.files) == 10_007
    assert {rows.shard for rows in layout.files} == set(range(13))


def test_files_grow_with_blocks_and_shards() -> None:
    """A file for each block and shard: never more than blocks + shards."""
    for shards in (1, 10, 1000):
        layout = pass_over(even_shards(100_000, shards), Pass(512), cpus=8)
        assert max(shards, layout.blocks) <= layout.num_files < layout.blocks + shards


def test_one_part_of_the_shards_is_counted_for_all() -> None:
    step, rows, shards = Pass(1024, row_bytes=800.0), 14_000_000, 1400
    scale = choose_scale(rows, shards, rows_per_block=step.rows_per_block)
    assert scale > 1 and choose_scale(10_000, 10, rows_per_block=1024) == 1
    whole = pass_over(even_shards(rows, shards), step, cpus=512)
    part = pass_over_parts(even_shards(rows // scale, shards // scale), step, cpus=512, scale=scale)
    assert part.num_files == pytest.approx(whole.num_files, rel=0.02)
    assert part.blocks == pytest.approx(whole.blocks, rel=0.02)
