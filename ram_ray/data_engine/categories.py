"""Regions come a picture at a time and are judged a category at a time: how they are laid out anew, and read.

All embeddings of a run fit nowhere in one piece, and one category can hold a million. So the rows are moved once, from
Parquet to Parquet: each task takes a part of the regions (`PART_BYTES`) and writes its rows into one file a group of
categories, sorted by tag and key. A group is what one task decides on: one large category, or as many small ones as
make `GROUP_ROWS` rows, so that the small ones cost one read and not one each. Everything is linear in rows, no task
holds more than a part or a group of small categories (about 300 MB at 512 float16 numbers a crop), and a category
larger than a group is only ever read in chunks, as often as it is needed.

What is written has a name that follows from what is in it, and is there whole or not at all: work that was done before
a run was killed is found and kept.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ram_ray.data_engine.crops import REGIONS, explode_regions
from ram_ray.runtime.artifacts import write_bytes, write_table

PART_BYTES = 128 << 20  # of Parquet that one task lays out
GROUP_ROWS = 250_000  # of small categories that one task holds
MIN_GROUP_ROWS = 500  # fewer are not worth a task of their own
CHUNK_ROWS = 16_384  # of a large category, held at once

# The rows of one category, read again at each call: columns -> tables of at most CHUNK_ROWS rows.
Chunks = Callable[[Sequence[str]], Iterator[pa.Table]]


@dataclass(frozen=True)
class Group:
    """The categories that one task decides on."""

    name: str  # follows from the tags
    tags: tuple[int, ...]
    rows: int

    @property
    def large(self) -> bool:
        """One category that is not held in memory."""
        return self.rows > GROUP_ROWS


@dataclass(frozen=True)
class Part:
    """Files of IMAGE_REGIONS rows that one task lays out."""

    name: str  # follows from the files' names
    files: tuple[str, ...]


def list_parts(uri: str) -> list[Part]:
    """The files of a finished stage, in the order of their names, in parts of about `PART_BYTES`."""
    fs, root = fsspec.url_to_fs(uri)
    sizes = {name: info["size"] for name, info in sorted(fs.find(root, detail=True).items())}
    parts: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not name.endswith(".parquet"):
            continue
        if not parts or size > room:
            parts.append([])
            room = PART_BYTES
        parts[-1].append(name)
        room -= size
    inside = [[name.removeprefix(root) for name in files] for files in parts]
    return [
        Part(_digest(names), tuple(fs.unstrip_protocol(one) if "://" in uri else one for one in files))
        for names, files in zip(inside, parts, strict=True)
    ]


@dataclass
class Sizes:
    """How many rows there are of each tag."""

    images: int = 0  # with regions
    rows: Counter[int] = field(default_factory=Counter)
    said: Counter[int] = field(default_factory=Counter)  # of them, those that a caption of the image says

    def add(self, other: Sizes) -> None:
        """Take in what was counted elsewhere."""
        self.images += other.images
        self.rows.update(other.rows)
        self.said.update(other.said)


def count_tags(part: Part) -> Sizes:
    """Rows of each tag in a part; only the columns for it are read."""
    sizes = Sizes()
    columns = [f"regions.list.element.{name}" for name in ("tag", "said")]
    for file in part.files:
        with fsspec.open(file, "rb") as handle:
            table = pq.ParquetFile(handle).read(columns=columns, use_threads=False)
        lists = table["regions"].combine_chunks()
        sizes.images += int(np.count_nonzero(pc.list_value_length(lists).to_numpy(zero_copy_only=False)))
        tags, said = (pc.struct_field(pc.list_flatten(lists), name) for name in ("tag", "said"))
        sizes.rows.update(tags.to_pylist())
        sizes.said.update(tags.filter(said).to_pylist())
    return sizes


def plan_groups(counts: Mapping[int, int], *, groups: int) -> list[Group]:
    """Groups of categories, largest first.

    Args:
        counts: rows of each tag.
        groups: how many to make, where the rows are neither too few nor too many for that.
    """
    total = sum(counts.values())
    rows = min(GROUP_ROWS, max(MIN_GROUP_ROWS, math.ceil(total / groups)))
    packed: list[tuple[list[int], int]] = []
    for tag, count in sorted(counts.items(), key=lambda one: (-one[1], one[0])):
        if not packed or packed[-1][1] + count > rows:
            packed.append(([], 0))
        tags, held = packed[-1]
        packed[-1] = ([*tags, tag], held + count)
    made = [Group(_digest(sorted(tags)), tuple(sorted(tags)), held) for tags, held in packed]
    return sorted(made, key=lambda one: (-one.rows, one.tags))


def lay_out(part: Part, *, groups: Sequence[Group], folder: str) -> None:
    """Write the rows of a part as `folder/<group>/<part>.parquet`, sorted by tag and key; done parts are left alone.

    Args:
        part: files of IMAGE_REGIONS rows.
        groups: of tags, that together hold every tag.
        folder: URI, the same for all parts.
    """
    done = f"{folder}/done/{part.name}"
    if exists(done):
        return
    group_of = {tag: place for place, group in enumerate(groups) for tag in group.tags}
    tables = []
    for file in part.files:
        with fsspec.open(file, "rb") as handle:
            table = pq.read_table(handle, partitioning=None)
        tables.append(explode_regions(table if "shard" in table.column_names else _with_shard(table, file)))
    rows = pa.concat_tables(tables)
    places = np.array([group_of[tag] for tag in rows["tag"].to_pylist()], np.int64)
    rows = rows.append_column("group", pa.array(places)).sort_by(
        [("group", "ascending"), ("tag", "ascending"), ("key", "ascending")]
    )
    edges = np.searchsorted(rows["group"].to_numpy(), np.arange(len(groups) + 1))
    for group, start, end in zip(groups, edges, edges[1:], strict=False):
        if end > start:
            table = rows.slice(start, end - start).select(REGIONS.names)
            write_table(table, f"{folder}/{group.name}/{part.name}.parquet")
    write_bytes(done, b"")


def categories(group: Group, *, folder: str) -> Iterator[tuple[int, Chunks]]:
    """The categories of a group that `lay_out` wrote, each with a way to read its rows.

    Args:
        group: of tags.
        folder: that `lay_out` wrote to.

    Yields:
        A tag's id, and what reads its REGIONS rows in chunks.
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
    """The chunks of a category that is at hand."""

    def chunks(columns: Sequence[str]) -> Iterator[pa.Table]:
        for start in range(0, len(rows), CHUNK_ROWS):
            yield rows.select(list(columns)).slice(start, CHUNK_ROWS)

    return chunks


def _read(fs: Any, files: Sequence[str], columns: Sequence[str]) -> Iterator[pa.Table]:
    for name in files:
        with fs.open(name, "rb") as handle:
            for batch in pq.ParquetFile(handle).iter_batches(CHUNK_ROWS, columns=list(columns), use_threads=False):
                yield pa.Table.from_batches([batch])


def _with_shard(table: pa.Table, file: str) -> pa.Table:
    """The column that the folder's name holds: "shard=NAME"."""
    (shard,) = [unquote(one.removeprefix("shard=")) for one in file.split("/") if one.startswith("shard=")][-1:]
    return table.append_column("shard", pa.array([shard] * len(table), pa.string()))


def exists(uri: str) -> bool:
    """Whether a file is there."""
    fs, path = fsspec.url_to_fs(uri)
    return fs.exists(path)


def _digest(names: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()[:16]
