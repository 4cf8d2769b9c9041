"""The hashes of all rows in a few files, and the tasks that look for pairs in them.

Fingerprints lie in as many files as there are blocks of rows. Their hashes alone, about 200 bytes a row, are written
anew into files of `ROWS_PER_FILE` rows. Then each task reads the columns it needs, keeps its slice, and writes the
pairs it finds to one file, whose name follows from its work: a task that was killed is the only one that runs again.
With many slices this would be read too often, see `hash_shuffle`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ram_ray.curation.fingerprints import hash_bytes
from ram_ray.curation.groups import EMBEDDING, KINDS, NEAR, PAIR
from ram_ray.curation.lookup import MANY, TABLES, WIDE_TABLES, Table, pair_equal, pair_near, select_slice, slices_of
from ram_ray.curation.perceptual_hash import SIGNATURE
from ram_ray.data.shards import shard_matches
from ram_ray.data.sources import source_of
from ram_ray.runtime.artifacts import write_table, write_text
from ram_ray.runtime.key_hash import hash_key
from ram_ray.runtime.rows import drop_rejected, read_rows, write_rows
from ram_ray.runtime.storage import make_folder, remove_folder
from ram_ray.settings.runtime import Execution

ROWS_PER_FILE = 250_000
ROWS_PER_SLICE = 2_000_000  # that a task holds, about 150 bytes each and as much again while they are sorted
_RANK_BITS = 3  # a row's id begins with the rank of its shard, so that ids are in the order of preference
_HASHES = [f"{kind}_hash" for kind in KINDS if kind not in (NEAR, EMBEDDING)]
SIGNATURES = "signature"
HASHES = pa.schema(
    [
        ("id", pa.int64()),
        ("set", pa.int8()),
        ("source", pa.int64()),
        *((name, pa.int64()) for name in _HASHES),
        (SIGNATURES, pa.binary()),
    ]
)


@dataclass(frozen=True)
class Work:
    """What one task looks for."""

    kinds: tuple[str, ...]  # of equal values
    tables: tuple[Table, ...]  # of near hashes
    slice_index: int
    num_slices: int

    @property
    def name(self) -> str:
        """Name of its file."""
        tables = f"{''.join(map(str, self.tables[0]))}-{len(self.tables)}" if self.tables else ""
        return f"{'_'.join(self.kinds)}{tables}_{self.slice_index}of{self.num_slices}"

    @property
    def columns(self) -> list[str]:
        """Columns of HASHES that it compares."""
        return [*(f"{kind}_hash" for kind in self.kinds), *([SIGNATURES] if self.tables else [])]


def plan_work(num_rows: int, *, kinds: Sequence[str], near: bool, rows_per_slice: int = ROWS_PER_SLICE) -> list[Work]:
    """Divide the search into tasks: one for little data, one for each kind or table and slice for much.

    Args:
        num_rows: rows of all sets.
        kinds: of equal values that make two rows one image.
        near: whether near duplicates are looked for.
        rows_per_slice: rows that a task holds.

    Returns:
        The work of each task.
    """
    num_slices = math.ceil(num_rows / rows_per_slice)
    if 4 * num_rows <= rows_per_slice:
        return [Work(tuple(kinds), TABLES if near else (), 0, 1)]
    together = 7 if num_slices <= 1 else 1  # tables of a task
    family = WIDE_TABLES if num_rows > MANY else TABLES
    tables = [family[start : start + together] for start in range(0, len(family), together)] if near else []
    num_slices = max(1, num_slices)
    equal = [Work((kind,), (), index, num_slices) for kind in kinds for index in range(num_slices)]
    return equal + [Work((), part, index, num_slices) for part in tables for index in range(num_slices)]


def make_ids(keys: Sequence[str], shards: Sequence[str], *, set_index: int, prefer: Sequence[str]) -> np.ndarray:
    """Number rows, in the order in which they are preferred, the same on every machine.

    Two of 14 million rows have the same number with a probability of 1 in 10,000.

    Args:
        keys: keys of N rows.
        shards: their shards.
        set_index: 0 for training, from 1 on for held-out sets.
        prefer: globs of shards; the rows of an earlier glob are preferred.

    Returns:
        int64 (N,), at least 0: the rank of the shard, then a hash of the key.
    """
    ranks = {
        shard: next((rank for rank, glob in enumerate(prefer) if shard_matches(shard, glob)), len(prefer))
        for shard in dict.fromkeys(shards)
    }
    bits = 63 - _RANK_BITS
    return np.array(
        [
            ranks[shard] << bits | hash_key(f"{set_index}/{key}", purpose="row") >> 64 - bits
            for key, shard in zip(keys, shards, strict=True)
        ],
        np.int64,
    )


def describe_rows(block: pa.Table, *, set_index: int, prefer: Sequence[str]) -> dict[str, np.ndarray]:
    """What pairs say of their rows.

    Args:
        block: rows (N) with key and shard.
        set_index: 0 for training, from 1 on for held-out sets.
        prefer: as of `make_ids`.

    Returns:
        `id`, `set` and `source`, each (N,).
    """
    shards = block["shard"].to_pylist()
    sources = {shard: hash_bytes(source_of(shard).encode()) for shard in dict.fromkeys(shards)}
    return {
        "id": make_ids(block["key"].to_pylist(), shards, set_index=set_index, prefer=prefer),
        "set": np.full(len(block), set_index, np.int8),
        "source": np.array([sources[shard] for shard in shards], np.int64),
    }


def to_hashes(block: pa.Table, *, set_index: int, prefer: Sequence[str]) -> pa.Table:
    """Select what rows are compared by.

    Args:
        block: FINGERPRINT rows.
        set_index: 0 for training, from 1 on for held-out sets.
        prefer: as of `make_ids`.

    Returns:
        HASHES rows.
    """
    block = drop_rejected(block)
    columns = describe_rows(block, set_index=set_index, prefer=prefer)
    rest = [name for name in HASHES.names if name not in columns]
    return pa.table({**columns, **{name: block[name] for name in rest}}, schema=HASHES)


def write_hashes(paths: Sequence[str], folder: str, *, prefer: Sequence[str], execution: Execution) -> None:
    """Write the hashes of all sets to a folder, once.

    Args:
        paths: folders of FINGERPRINT rows: the training set, then the held-out sets.
        folder: URI of the hashes.
        prefer: as of `make_ids`.
        execution: how the stages of the run are executed.
    """
    done = f"{folder}.done"
    fs, root = fsspec.url_to_fs(folder)
    if fs.exists(fsspec.url_to_fs(done)[1]):
        return
    remove_folder(fs, root)  # a run that was killed may have written a part
    columns = ["key", "shard", "reason", *_HASHES, SIGNATURES]
    parts = [
        read_rows(path, execution=execution, columns=columns, rows_per_block=ROWS_PER_FILE).map_batches(
            partial(to_hashes, set_index=set_index, prefer=tuple(prefer)),
            batch_format="pyarrow",
            batch_size=None,
            num_cpus=execution.task_cpus,
        )
        for set_index, path in enumerate(paths)
    ]
    write_rows(parts[0].union(*parts[1:]) if parts[1:] else parts[0], folder, execution=execution)
    make_folder(fs, root)
    write_text(done, "")


def write_pairs(work: Work, hashes: str, path: str, *, max_distance: int | None, mirrored: bool) -> None:
    """A task: find the pairs of its work and write them as PAIR rows; a finished file is not written again.

    Args:
        work: of the task.
        hashes: folder of HASHES rows.
        path: of the file.
        max_distance: most bits in which the coarse hashes of near duplicates differ.
        mirrored: whether mirrored images are near duplicates.
    """
    fs, file = fsspec.url_to_fs(path)
    if fs.exists(file):
        return
    found = [
        find_pairs(work, column, _read(hashes, column, work), max_distance=max_distance, mirrored=mirrored)
        for column in work.columns
    ]
    write_table(pa.concat_tables([PAIR.empty_table(), *found]), path)


def find_pairs(work: Work, column: str, rows: pa.Table, *, max_distance: int | None, mirrored: bool) -> pa.Table:
    """Find the pairs of a task's slice.

    Args:
        work: of the task.
        column: one of `work.columns`.
        rows: HASHES rows of the slice, in the order of their ids, that have a value in the column.
        max_distance: as of `write_pairs`.
        mirrored: as of `write_pairs`.

    Returns:
        PAIR rows.
    """
    if column != SIGNATURES:
        return _pair_equal(rows, column)
    assert max_distance is not None
    return _pair_near(work, rows, max_distance=max_distance, mirrored=mirrored)


def slices(values: pa.ChunkedArray, column: str, work: Work) -> np.ndarray:
    """The slices that rows are in.

    Args:
        values: of N rows.
        column: that they are of; that of signatures is for work with one table.
        work: of a task.

    Returns:
        int64 (1 or 2, N), 0 to `work.num_slices` - 1; a row is in one, or in that of its mirror image too.
    """
    if column == SIGNATURES:
        return slices_of(_signatures(values), *work.tables, num_slices=work.num_slices)
    return values.to_numpy()[None] % work.num_slices


def read_pairs(folder: str) -> pa.Table:
    """Read what all tasks found.

    Args:
        folder: of the files.

    Returns:
        PAIR rows.
    """
    fs, root = fsspec.url_to_fs(folder)
    tables = [PAIR.empty_table()]
    for name in sorted(fs.glob(f"{root}/*.parquet")):
        with fs.open(name, "rb") as file:
            tables.append(pq.read_table(file, partitioning=None))
    return pa.concat_tables(tables)


def _read(hashes: str, column: str, work: Work) -> pa.Table:
    """The rows of a task's slice that have a value in a column, in the order of their ids."""
    fs, root = fsspec.url_to_fs(hashes)
    names = ["id", "set", "source", column]
    tables = [HASHES.empty_table().select(names)]
    for name in sorted(fs.glob(f"{root}/*.parquet")):
        with fs.open(name, "rb") as file:
            table = pq.read_table(file, columns=names, partitioning=None).cast(tables[0].schema)
        table = table.filter(pc.is_valid(table[column]))
        if work.num_slices > 1:
            table = table.filter(pa.array(_in_slice(table[column], column, work), pa.bool_()))
        tables.append(table)
    return pa.concat_tables(tables).sort_by("id")


def _in_slice(values: pa.ChunkedArray, column: str, work: Work) -> np.ndarray:
    if column != SIGNATURES:
        return slices(values, column, work)[0] == work.slice_index
    return select_slice(
        _signatures(values), tables=work.tables, slice_index=work.slice_index, num_slices=work.num_slices
    )


def _signatures(values: pa.ChunkedArray) -> np.ndarray:
    """A column of signatures as `SIGNATURE` (N,)."""
    fixed = values.cast(pa.binary(SIGNATURE.itemsize)).combine_chunks()
    buffer = fixed.buffers()[1]
    if not len(fixed) or buffer is None:
        return np.zeros(0, SIGNATURE)
    return np.frombuffer(buffer, SIGNATURE, len(fixed), fixed.offset * SIGNATURE.itemsize)


def _pair_equal(rows: pa.Table, column: str) -> pa.Table:
    firsts, others = pair_equal(rows[column].to_numpy(), rows["id"].to_numpy())
    kind = column.removesuffix("_hash")
    return _to_pairs(rows, firsts, others, kind=kind, distances=np.zeros(len(firsts), np.int16))


def _pair_near(work: Work, rows: pa.Table, *, max_distance: int, mirrored: bool) -> pa.Table:
    left, right, distances = pair_near(
        _signatures(rows[SIGNATURES]),
        max_distance=max_distance,
        mirrored=mirrored,
        tables=work.tables,
        slice_index=work.slice_index,
        num_slices=work.num_slices,
    )
    return _to_pairs(rows, left, right, kind=NEAR, distances=distances)


def _to_pairs(rows: pa.Table, left: np.ndarray, right: np.ndarray, *, kind: str, distances: np.ndarray) -> pa.Table:
    columns = {name: rows[name].to_numpy() for name in ("id", "set", "source")}
    return pa.table(
        {
            **{name: values[left] for name, values in columns.items()},
            **{f"other_{name}": values[right] for name, values in columns.items()},
            "kind": np.full(len(left), KINDS.index(kind), np.int8),
            "distance": distances.astype(np.int16),
        },
        schema=PAIR,
    )
