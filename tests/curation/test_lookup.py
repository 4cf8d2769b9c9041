"""Contract: every pair of images whose hashes differ in at most 6 bits is found, as by comparing all with all, and the
result does not depend on how the search is divided into tables and slices."""

from __future__ import annotations

import numpy as np
import pytest

from ram_ray.curation.hash_table import Work, plan_work
from ram_ray.curation.lookup import MANY, TABLES, WIDE_TABLES, Table, pair_equal, pair_near, select_slice
from ram_ray.curation.perceptual_hash import SIGNATURE


def near_signatures() -> np.ndarray:
    """2,000 random signatures, and 200 copies of some with 0 to 9 bits changed."""
    rng = np.random.default_rng(0)
    signatures = np.zeros(2200, SIGNATURE)
    for name in ("coarse", "mirrored_coarse"):
        signatures[name] = rng.integers(0, 2**63, 2200, dtype=np.uint64) << np.uint64(1)
    signatures["fine"] = rng.integers(0, 2**63, (2200, 4), dtype=np.uint64)
    signatures["colour"] = rng.integers(-40, 40, (2200, 32))
    for copy in range(200):
        signatures[2000 + copy] = signatures[copy]
        for bit in rng.choice(np.arange(1, 64), copy % 10, replace=False):
            signatures["coarse"][2000 + copy] ^= np.uint64(1) << np.uint64(bit)
    return signatures


@pytest.fixture(scope="module")
def planted() -> np.ndarray:
    return near_signatures()


def to_set(pairs: tuple[np.ndarray, np.ndarray, np.ndarray]) -> set[tuple[int, ...]]:
    return set(zip(*(column.tolist() for column in pairs), strict=True))


@pytest.mark.parametrize("tables", [TABLES, WIDE_TABLES], ids=["pairs", "triples"])
def test_all_pairs_up_to_six_bits_are_found(planted: np.ndarray, tables: tuple[Table, ...]) -> None:
    distances = np.bitwise_count(planted["coarse"][:, None] ^ planted["coarse"][None])
    left, right = np.nonzero(np.triu(distances <= 6, 1))
    compared = {(int(a), int(b), int(distances[a, b])) for a, b in zip(left, right, strict=True)}
    assert {pair for pair in to_set(pair_near(planted, max_distance=6, tables=tables))} == compared
    assert len(compared) == 140
    more = to_set(pair_near(planted, max_distance=8, tables=tables))
    assert more > compared and max(distance for _, _, distance in more) == 8


@pytest.mark.parametrize("tables", [TABLES, WIDE_TABLES], ids=["pairs", "triples"])
def test_the_division_does_not_change_the_result(planted: np.ndarray, tables: tuple[Table, ...]) -> None:
    found: set[tuple[int, ...]] = set()
    for table in tables:
        for index in range(3):
            mask = select_slice(planted, tables=(table,), slice_index=index, num_slices=3)
            rows = np.flatnonzero(mask)
            assert len(rows) < 0.7 * len(planted)
            left, right, distances = pair_near(
                planted[rows], max_distance=8, tables=(table,), slice_index=index, num_slices=3
            )
            found |= to_set((rows[left], rows[right], distances))
    assert found == to_set(pair_near(planted, max_distance=8, tables=tables))


def test_equal_values_are_paired_with_the_first_of_them() -> None:
    firsts, others = pair_equal(np.array([5, -3, 5, -3, 9, 5]), np.array([10, 9, 2, 1, 0, 3]))
    assert set(zip(firsts.tolist(), others.tolist(), strict=True)) == {(2, 0), (2, 5), (3, 1)}
    assert pair_equal(np.zeros(0, np.int64), np.zeros(0, np.int64))[0].size == 0


def test_the_plan_covers_every_kind_table_and_slice_once() -> None:
    assert plan_work(100, kinds=["url"], near=True) == [Work(("url",), TABLES, 0, 1)]
    for num_rows in (1_000_000, 5_000_000):
        plan = plan_work(num_rows, kinds=["url", "bytes"], near=True)
        slices, family = max(1, -(-num_rows // 2_000_000)), WIDE_TABLES if num_rows > MANY else TABLES
        parts = [(part, work.slice_index) for work in plan for part in (*work.kinds, *work.tables)]
        expected = [(part, index) for part in ("url", "bytes", *family) for index in range(slices)]
        assert sorted(parts, key=str) == sorted(expected, key=str)
        assert len({work.name for work in plan}) == len(plan)
