"""How many tasks, blocks and files a stage over rows makes, as Ray Data 2.60 divides them.

A stage reads Parquet files and writes a file for each block and shard (`runtime.annotate`). Its blocks come about in
four steps, and so do their numbers here:

    read tasks    the files in their order, in as many parts as `Cluster.read_tasks` says (Ray's autodetection)
    split         if there are fewer read tasks than Ray asks for, each part is split
    repartition   each part into blocks of `rows_per_block` rows and a rest (`Dataset.repartition`, not strict)
    bundles       neighbours together until they have `batch_size` rows, where a step maps batches of that size

It is arithmetic on runs of rows; `tests/test_pipeline.py` compares it with the files of a real run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

BLOCK_BYTES = 128 << 20  # of a block that Ray Data reads (`DataContext.target_max_block_size`)
SPLIT_FROM = 1.5  # times `BLOCK_BYTES` from which Ray splits a block (`MAX_SAFE_BLOCK_SIZE_FACTOR`)
MOST_BLOCKS = 12_000  # that are counted one by one; more are counted on a part of the shards


@dataclass(frozen=True)
class Rows:
    """Neighbouring rows of one shard: of a file, or of a block."""

    shard: int
    count: int


Files = tuple[Rows, ...]  # of a stage, in the order of their names


@dataclass(frozen=True)
class Pass:
    """How a stage passes over rows.

    Args:
        rows_per_block: rows of a block after reading.
        batch_sizes: rows of the batches of the steps that map batches of a size, in their order.
        row_bytes: bytes of a row in memory, as it is read.
    """

    rows_per_block: int
    batch_sizes: tuple[int, ...] = ()
    row_bytes: float = 0.0


@dataclass(frozen=True)
class Layout:
    """What a pass makes: its tasks, its blocks, and the files that it writes."""

    read_tasks: float
    blocks: float
    files: Files
    scale: int = 1  # the files are those of one of so many equal parts

    @property
    def num_files(self) -> int:
        """Number of files of all parts."""
        return len(self.files) * self.scale

    @property
    def num_shards(self) -> int:
        """Number of shards of all parts."""
        return len({rows.shard for rows in self.files}) * self.scale


def count_read_tasks(num_files: int, nbytes: float, *, cpus: float) -> tuple[int, int]:
    """Compute the number of read tasks, and into how many parts each splits what it reads.

    Args:
        num_files: files of the folder.
        nbytes: bytes of all rows in memory.
        cpus: CPUs of the cluster when the stage begins.

    Returns:
        Read tasks, and the split factor, at least 1.
    """
    wanted = max(1, int(nbytes / BLOCK_BYTES), int(cpus) * 2)
    tasks = max(1, min(num_files, wanted))
    by_size = max(1, round(nbytes / tasks / BLOCK_BYTES))
    return tasks, math.ceil(wanted / (tasks * by_size)) if tasks * by_size < wanted else 1


def pass_over(files: Sequence[Rows], step: Pass, *, cpus: float) -> Layout:
    """Divide the rows of files as a stage does.

    Args:
        files: that the stage reads, in the order of their names.
        step: how it passes over them.
        cpus: CPUs of the cluster.

    Returns:
        Tasks, blocks and files of the stage.
    """
    total = sum(file.count for file in files)
    tasks, split = count_read_tasks(len(files), total * step.row_bytes, cpus=cpus)
    blocks = [
        block
        for part in divide(files, tasks)
        for piece in split_rows(part, split=split, row_bytes=step.row_bytes)
        for block in cut(piece, step.rows_per_block)
    ]
    for size in step.batch_sizes:
        blocks = list(bundle(blocks, size))
    return Layout(tasks, len(blocks), tuple(rows for block in blocks for rows in block))


def pass_over_parts(files: Sequence[Rows], step: Pass, *, cpus: float, scale: int) -> Layout:
    """`pass_over` where `files` are one of `scale` equal parts of all files.

    Args:
        files: of one part.
        step: as of `pass_over`.
        cpus: CPUs of the cluster, for all parts.
        scale: number of parts.

    Returns:
        As of `pass_over`; tasks and blocks are those of all parts.
    """
    layout = pass_over(files, step, cpus=cpus / scale)
    return replace(layout, read_tasks=layout.read_tasks * scale, blocks=layout.blocks * scale, scale=scale)


def choose_scale(num_rows: int, num_shards: int, *, rows_per_block: int) -> int:
    """The number of equal parts of the shards, of which one is enough to count with.

    Args:
        num_rows: rows of all shards.
        num_shards: number of shards.
        rows_per_block: smallest rows of a block in any stage.

    Returns:
        1 where there are few blocks.
    """
    return max(1, min(num_shards, math.ceil((num_rows / rows_per_block + num_shards) / MOST_BLOCKS)))


def even_shards(num_rows: int, num_shards: int) -> Files:
    """Shards of as many rows each as possible.

    Args:
        num_rows: rows of all shards.
        num_shards: number of shards.

    Returns:
        The shards.
    """
    edges = [num_rows * index // num_shards for index in range(num_shards + 1)]
    return tuple(Rows(index, end - start) for index, (start, end) in enumerate(zip(edges, edges[1:], strict=False)))


def divide(files: Sequence[Rows], parts: int) -> Iterator[list[Rows]]:
    """Divide files into parts of as many files each, as numpy's array_split does.

    Args:
        files: in their order.
        parts: at most the number of files.

    Yields:
        The files of a part.
    """
    small, larger = divmod(len(files), parts)
    sizes = [small + 1] * larger + [small] * (parts - larger)
    for end, size in zip(accumulate(sizes), sizes, strict=True):
        yield list(files[end - size : end])


def split_rows(rows: Sequence[Rows], *, split: int, row_bytes: float) -> Iterator[list[Rows]]:
    """Split what a read task has read: by bytes, then into a number of parts.

    Args:
        rows: of a read task.
        split: number of parts of each block.
        row_bytes: bytes of a row in memory.

    Yields:
        The rows of a block.
    """
    total = sum(part.count for part in rows)
    large = total * row_bytes >= SPLIT_FROM * BLOCK_BYTES
    blocks = cut(rows, max(1, math.ceil(BLOCK_BYTES / row_bytes))) if large else iter([list(rows)])
    for block in blocks:
        count = sum(part.count for part in block)
        small, larger = divmod(count, split)
        yield from take(block, [small + 1] * larger + [small] * (split - larger) if small else [1] * count)


def cut(rows: Sequence[Rows], size: int) -> Iterator[list[Rows]]:
    """Cut rows into blocks of a size, and a rest.

    Args:
        rows: neighbours.
        size: rows of a block.

    Yields:
        A block.
    """
    total = sum(part.count for part in rows)
    yield from take(rows, [size] * (total // size) + ([total % size] if total % size else []))


def take(rows: Sequence[Rows], sizes: Iterable[int]) -> Iterator[list[Rows]]:
    """Take blocks of given sizes from the front of rows.

    Args:
        rows: neighbours, as many as all blocks together.
        sizes: rows of each block.

    Yields:
        The rows of a block.
    """
    index, used = 0, 0
    for size in sizes:
        block: list[Rows] = []
        while size:
            count = min(size, rows[index].count - used)
            if count and block and block[-1].shard == rows[index].shard:
                block[-1] = Rows(block[-1].shard, block[-1].count + count)
            elif count:
                block.append(Rows(rows[index].shard, count))
            size, used = size - count, used + count
            if used == rows[index].count:
                index, used = index + 1, 0
        yield block


def bundle(blocks: Iterable[list[Rows]], size: int) -> Iterator[list[Rows]]:
    """Put neighbouring blocks together until they have a number of rows.

    Args:
        blocks: in their order.
        size: least rows of a bundle but the last.

    Yields:
        The rows of a bundle.
    """
    pending: list[Rows] = []
    count = 0
    for block in blocks:
        pending, count = [*pending, *block], count + sum(part.count for part in block)
        if count >= size:
            yield from take(pending, [count])
            pending, count = [], 0
    if pending:
        yield from take(pending, [count])
