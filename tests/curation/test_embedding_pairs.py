"""Contract: pairs over a cosine are those of comparing all with all, whatever the blocks; cells lose few of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ram_ray.curation.embedding_pairs import VECTOR, pair_vectors, to_cells, to_vectors, write_cell_pairs
from ram_ray.curation.groups import EMBEDDING, KINDS

NUM, PLANTED, WIDTH = 1200, 60, 24


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Random unit vectors; the last are copies of the first, turned a little."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((NUM, WIDTH))
    vectors[-PLANTED:] = vectors[:PLANTED] + 0.2 * rng.standard_normal((PLANTED, WIDTH))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def to_table(vectors: np.ndarray) -> pa.Table:
    columns = [np.arange(len(vectors)), np.zeros(len(vectors), np.int8), np.zeros(len(vectors), np.int64)]
    return pa.table([*columns, pa.array([vector.tobytes() for vector in vectors], pa.binary())], schema=VECTOR)


@pytest.mark.parametrize("block", [100, 5000])
def test_all_pairs_over_the_cosine_are_found(vectors: np.ndarray, block: int) -> None:
    table = to_table(vectors)
    unit = to_vectors(table["embedding"])
    expected = {(int(a), int(b)) for a, b in zip(*np.nonzero(np.triu(unit @ unit.T >= 0.9, 1)), strict=True)}
    assert len(expected) >= PLANTED - 5
    found = [
        (left, right)
        for lefts, rights, cosines in pair_vectors(table["embedding"], min_cosine=0.9, block=block)
        for left, right, cosine in zip(lefts.tolist(), rights.tolist(), cosines.tolist(), strict=True)
        if cosine >= 0.9
    ]
    assert len(found) == len(set(found)) and set(found) == expected


def test_pairs_share_a_cell(vectors: np.ndarray) -> None:
    centres = to_vectors(to_table(vectors)["embedding"])[100:108]
    rows = to_cells(to_table(vectors), centres)
    cells: dict[int, set[int]] = {}
    for row in rows.select(["id", "cell"]).to_pylist():
        cells.setdefault(row["id"], set()).add(row["cell"])
    assert all(len(of_row) == 2 for of_row in cells.values()) and len(cells) == NUM
    together = sum(bool(cells[index] & cells[NUM - PLANTED + index]) for index in range(PLANTED))
    assert together >= 0.95 * PLANTED


def test_a_task_writes_its_pairs_once(vectors: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "cell=0").mkdir()
    pq.write_table(to_table(vectors), tmp_path / "cell=0/0.parquet")
    path = tmp_path / "pairs.parquet"
    write_cell_pairs(str(tmp_path / "cell=0"), str(path), min_cosine=0.9)
    pairs = pq.read_table(path)
    assert len(pairs) >= PLANTED - 5 and set(pairs["kind"].to_pylist()) == {KINDS.index(EMBEDDING)}
    assert min(pairs["distance"].to_pylist()) > 0 and max(pairs["distance"].to_pylist()) <= 100
    written = path.stat().st_mtime_ns
    write_cell_pairs(str(tmp_path / "cell=0"), str(path), min_cosine=0.5)
    assert path.stat().st_mtime_ns == written
    write_cell_pairs(str(tmp_path / "cell=7"), str(tmp_path / "none.parquet"), min_cosine=0.9)
    assert sorted(file.name for file in tmp_path.glob("none*")) == ["none.parquet.done"], "no file without rows"
