"""Move regions from files by image to files by label, and read the rows of a label.

All embeddings of a run do not fit into memory, and a label can hold a million. So the rows are moved from Parquet to
Parquet: each task reads a batch of files (`BATCH_BYTES`, `BATCH_FILES`) and writes a file for each group of labels,
sorted by tag and key. A group is what a task decides on: a large label, or small ones up to `GROUP_ROWS` rows. No task
holds more than a batch or a group of small labels (about 300 MB with 512 float16 numbers a crop). A large label is only
read in chunks.

A batch writes at most `MAX_FILES` files. Where there are more groups, the rows are moved twice: to the square root of
as many sets of groups (`plan_sets`), then from each set to its groups. With B batches and G groups that is 2 B sqrt(G)
files in place of B G; G is at most the number of labels, so files grow with the batches alone.

File names follow from the contents, and files are written whole, so a run that was killed finds its finished work.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ram_ray.data_engine.crops import REGIONS, explode_regions
from ram_ray.runtime.artifacts import exists, write_bytes, write_table

BATCH_BYTES, BATCH_FILES = 128 << 20, 256  # of Parquet that a task moves
GROUP_ROWS = 250_000  # of small labels that a task holds
MIN_GROUP_ROWS = 500  # least rows of a group
CHUNK_ROWS = 16_384  # of a large label, held at once
MAX_FILES = 64  # that a batch writes

# Reads the rows of a label, again at each call: columns -> tables of at most CHUNK_ROWS rows.
Chunks = Callable[[Sequence[str]], Iterator[pa.Table]]


@dataclass(frozen=True)
class Group:
    """The labels that a task decides on."""

    name: str  # follows from the tags
    tags: tuple[int, ...]
    rows: int

    @property
    def large(self) -> bool:
        """Whether the group is a label that is only read in chunks."""
        return self.rows > GROUP_ROWS


@dataclass(frozen=True)
class FileBatch:
    """Files of IMAGE_REGIONS rows that a task moves."""

    name: str  # follows from the files' names
    files: tuple[str, ...]


@dataclass(frozen=True)
class Move:
    """A batch of files, and where its rows go."""

    batch: FileBatch
    groups: tuple[Group, ...]  # with every tag of the batch


def list_file_batches(uri: str, *, name: str = "") -> list[FileBatch]:
    """Group the files of a folder into batches of about `BATCH_BYTES`, and of at most `BATCH_FILES`.

    Args:
        uri: folder of IMAGE_REGIONS or REGIONS rows.
        name: of the folder, where batches of several folders are told apart by their names.

    Returns:
        The batches, with files in the order of their names.
    """
    fs, root = fsspec.url_to_fs(uri)
    sizes = {name: info["size"] for name, info in sorted(fs.find(root, detail=True).items())}
    batches: list[list[str]] = []
    free_bytes = 0
    for name, size in sizes.items():
        if not name.endswith(".parquet"):
            continue
        if not batches or size > free_bytes or len(batches[-1]) == BATCH_FILES:
            batches.append([])
            free_bytes = BATCH_BYTES
        batches[-1].append(name)
        free_bytes -= size
    relative = [[name.removeprefix(root) for name in files] for files in batches]
    return [
        FileBatch(
            _digest([name, *names] if name else names),
            tuple(fs.unstrip_protocol(file) if "://" in uri else file for file in files),
        )
        for names, files in zip(relative, batches, strict=True)
    ]


@dataclass
class RowCounts:
    """Number of rows of each tag."""

    images: int = 0  # with regions
    rows: Counter[int] = field(default_factory=Counter)
    mentioned: Counter[int] = field(default_factory=Counter)  # of these, rows whose tag a caption of the image mentions

    def add(self, other: RowCounts) -> None:
        """Add the counts of another batch.

        Args:
            other: counts of other images.
        """
        self.images += other.images
        self.rows.update(other.rows)
        self.mentioned.update(other.mentioned)


def count_tags(batch: FileBatch) -> RowCounts:
    """Count the rows of each tag in a batch; only two columns are read.

    Args:
        batch: files of IMAGE_REGIONS rows.

    Returns:
        The counts.
    """
    counts = RowCounts()
    columns = [f"regions.list.element.{name}" for name in ("tag", "mentioned")]
    for file in batch.files:
        with fsspec.open(file, "rb") as handle:
            table = pq.ParquetFile(handle).read(columns=columns, use_threads=False)
        lists = table["regions"].combine_chunks()
        counts.images += int(np.count_nonzero(pc.list_value_length(lists).to_numpy(zero_copy_only=False)))
        tags, mentioned = (pc.struct_field(pc.list_flatten(lists), name) for name in ("tag", "mentioned"))
        counts.rows.update(tags.to_pylist())
        counts.mentioned.update(tags.filter(mentioned).to_pylist())
    return counts


def plan_groups(counts: Mapping[int, int], *, groups: int) -> list[Group]:
    """Pack labels into groups.

    Args:
        counts: number of rows of each tag.
        groups: number of groups, if their size is then between `MIN_GROUP_ROWS` and `GROUP_ROWS`.

    Returns:
        The groups, largest first.
    """
    total = sum(counts.values())
    rows = min(GROUP_ROWS, max(MIN_GROUP_ROWS, math.ceil(total / groups)))
    packed: list[tuple[list[int], int]] = []
    for tag, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if not packed or packed[-1][1] + count > rows:
            packed.append(([], 0))
        tags, size = packed[-1]
        packed[-1] = ([*tags, tag], size + count)
    planned = [Group(_digest(sorted(tags)), tuple(sorted(tags)), size) for tags, size in packed]
    return sorted(planned, key=lambda group: (-group.rows, group.tags))


def plan_sets(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Pack groups into sets of about as many rows, if a file for each group were too many.

    Args:
        groups: as `plan_groups` returns them.

    Returns:
        The groups by the name of their set; empty if a batch can write them all.
    """
    if len(groups) <= MAX_FILES:
        return {}
    packed: list[list[Group]] = [[] for _ in range(math.ceil(math.sqrt(len(groups))))]
    smallest = [(0, index) for index in range(len(packed))]
    for group in groups:  # the largest first
        rows, index = heapq.heappop(smallest)
        packed[index].append(group)
        heapq.heappush(smallest, (rows + group.rows, index))
    return {_digest([group.name for group in members]): members for members in packed}


def first_moves(batches: Sequence[FileBatch], groups: Sequence[Group]) -> list[Move]:
    """The moves of the files of the stage `regions`.

    Args:
        batches: of the stage's files.
        groups: as `plan_groups` returns them.

    Returns:
        A move for each batch: to the sets of groups, or to the groups if there are no sets.
    """
    sets = plan_sets(groups)
    targets = [
        Group(name, tuple(tag for group in members for tag in group.tags), sum(group.rows for group in members))
        for name, members in sets.items()
    ]
    return [Move(batch, tuple(targets or groups)) for batch in batches]


def second_moves(groups: Sequence[Group], *, folder: str) -> list[Move]:
    """The moves from sets of groups to groups, when all first moves are done.

    Args:
        groups: as `plan_groups` returns them.
        folder: URI that `write_groups` wrote the sets to.

    Returns:
        A move for each batch of files of a set; empty if there are no sets.
    """
    return [
        Move(batch, tuple(members))
        for name, members in plan_sets(groups).items()
        for batch in list_file_batches(f"{folder}/{name}", name=name)
    ]


def write_groups(move: Move, *, folder: str) -> None:
    """Write the rows of a batch, sorted by tag and key, to `folder/<group>/<batch>.parquet`; skip a finished batch.

    Args:
        move: files of IMAGE_REGIONS rows, or of REGIONS rows that were moved before.
        folder: URI, the same for all batches.
    """
    batch, groups = move.batch, move.groups
    marker = f"{folder}/done/{batch.name}"
    if exists(marker):
        return
    group_of_tag = {tag: index for index, group in enumerate(groups) for tag in group.tags}
    tables = []
    for file in batch.files:
        with fsspec.open(file, "rb") as handle:
            table = pq.read_table(handle, partitioning=None)
        table = table if "shard" in table.column_names else _with_shard(table, file)
        tables.append(explode_regions(table) if "regions" in table.column_names else table)
    rows = pa.concat_tables(tables)
    group_indices = np.array([group_of_tag[tag] for tag in rows["tag"].to_pylist()], np.int64)
    rows = rows.append_column("group", pa.array(group_indices)).sort_by(
        [("group", "ascending"), ("tag", "ascending"), ("key", "ascending")]
    )
    edges = np.searchsorted(rows["group"].to_numpy(), np.arange(len(groups) + 1))
    for group, start, end in zip(groups, edges, edges[1:], strict=False):
        if end > start:
            table = rows.slice(start, end - start).select(REGIONS.names)
            write_table(table, f"{folder}/{group.name}/{batch.name}.parquet")
    write_bytes(marker, b"")


def read_regions(group: Group, *, folder: str) -> Iterator[tuple[int, Chunks]]:
    """Read the labels of a group.

    Args:
        group: a group that `write_groups` wrote.
        folder: URI that `write_groups` wrote to.

    Yields:
        A tag's id, and a function that reads its REGIONS rows in chunks.
    """
    fs, root = fsspec.url_to_fs(f"{folder}/{group.name}")
    files = sorted(name for name in fs.ls(root, detail=False) if name.endswith(".parquet"))
    if group.large:
        assert len(group.tags) == 1
        yield group.tags[0], lambda columns: _read(fs, files, columns)
        return
    rows = pa.concat_tables([*_read(fs, files, REGIONS.names), REGIONS.empty_table()]).sort_by("tag")
    tags = rows["tag"].to_numpy()
    for tag in group.tags:
        start, end = np.searchsorted(tags, [tag, tag + 1])
        yield tag, in_memory(rows.slice(start, end - start))


def in_memory(rows: pa.Table) -> Chunks:
    """Split a label that is in memory into chunks.

    Args:
        rows: the rows of a label.

    Returns:
        A function that gives the rows in chunks.
    """

    def chunks(columns: Sequence[str]) -> Iterator[pa.Table]:
        for start in range(0, len(rows), CHUNK_ROWS):
            yield rows.select(list(columns)).slice(start, CHUNK_ROWS)

    return chunks


def _read(fs: fsspec.AbstractFileSystem, files: Sequence[str], columns: Sequence[str]) -> Iterator[pa.Table]:
    for name in files:
        with fs.open(name, "rb") as handle:
            for batch in pq.ParquetFile(handle).iter_batches(CHUNK_ROWS, columns=list(columns), use_threads=False):
                yield pa.Table.from_batches([batch])


def _with_shard(table: pa.Table, file: str) -> pa.Table:
    """Add the column `shard` from the name of the folder, "shard=NAME"."""
    names = [name for name in file.split("/") if name.startswith("shard=")]
    shard = unquote(names[-1].removeprefix("shard="))
    return table.append_column("shard", pa.array([shard] * len(table), pa.string()))


def _digest(names: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()[:16]
