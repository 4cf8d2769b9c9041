"""The scores of one system on one evaluation set, in files: what every measure and every comparison reads.

A folder holds Parquet parts and, written last, `manifest.json`. A row of a part has the scores of one batch of images
for one block of classes, and the rows of a block are a row group: who measures a block of classes reads that block
alone, and no process holds all scores. The truth stands beside the scores, so a folder can be measured by itself.

A target is 1 (the class is true of the image), 0 (it is not) or -1 (the image does not count for the class: nobody
knows, or the set's rule leaves it out).

Letters: N images, C classes, b classes of a block.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from ram_ray.records import Json
from ram_ray.runtime.artifacts import write_bytes, write_text
from ram_ray.runtime.location import locate, uri_of
from ram_ray.runtime.storage import remove_folder

CLASSES_PER_BLOCK = 64
MANIFEST = "manifest.json"

# One batch of images and one block of classes; scores and targets are (images, b), flattened in row order.
SCORE_BLOCK = pa.schema(
    [
        ("block", pa.int32()),
        ("keys", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
        ("targets", pa.list_(pa.int8())),
    ]
)


class ScoreManifest(BaseModel, extra="forbid"):
    """What a folder of scores is about."""

    set_name: str
    system: str
    identity: str  # digest of all that the scores depend on
    images: int
    classes: list[str]  # that the system scores, in the order of the columns
    matched_by: list[str]  # of each class: how the system answers for it
    unsupported: list[str] = []  # classes of the set that the system does not score
    thresholds: list[float] | None = None  # of each class, where the system has its own
    notes: list[str] = []  # what a reader has to know: images without a prediction, and the like
    seconds: float = 0.0


class ClassBlock(NamedTuple):
    """All images of one block of classes."""

    first: int  # index of the first class
    keys: list[str]
    scores: np.ndarray  # (N, b) float32
    targets: np.ndarray  # (N, b) int8


def to_score_blocks(keys: Sequence[str], scores: np.ndarray, targets: np.ndarray) -> pa.Table:
    """Cut one batch into blocks of classes.

    Args:
        keys: of N images.
        scores: (N, C) float.
        targets: (N, C) int8: 1, 0 or -1.

    Returns:
        SCORE_BLOCK rows, one for each block; none without images.
    """
    assert scores.shape == targets.shape == (len(keys), scores.shape[1]), (scores.shape, targets.shape, len(keys))
    rows = []
    for block in range(num_blocks(scores.shape[1]) if len(keys) else 0):
        columns = slice(block * CLASSES_PER_BLOCK, (block + 1) * CLASSES_PER_BLOCK)
        flat = {
            "scores": scores[:, columns].astype(np.float32).ravel(),
            "targets": targets[:, columns].astype(np.int8).ravel(),
        }
        rows.append({"block": block, "keys": list(keys), **flat})
    return pa.Table.from_pylist(rows, schema=SCORE_BLOCK)


def num_blocks(num_classes: int) -> int:
    """Number of blocks.

    Args:
        num_classes: C.

    Returns:
        At least 0.
    """
    return -(-num_classes // CLASSES_PER_BLOCK)


def write_part(table: pa.Table, folder: str) -> int:
    """Write one part, in one step; a task that runs again writes the same file.

    Args:
        table: SCORE_BLOCK rows of any batches.
        folder: path or URI.

    Returns:
        The number of images.
    """
    if not len(table):
        return 0
    table = table.sort_by("block")
    blocks = table["block"].to_numpy()
    keys = table.slice(0, int((blocks == blocks[0]).sum()))["keys"].to_pylist()
    name = hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:16]
    buffer = pa.BufferOutputStream()
    with pq.ParquetWriter(buffer, table.schema) as writer:
        ends = np.append(np.flatnonzero(np.diff(blocks)) + 1, len(blocks))
        for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
            writer.write_table(table.slice(start, end - start))
    write_bytes(f"{folder}/part-{name}.parquet", buffer.getvalue().to_pybytes())
    return sum(map(len, keys))


def read_block(folder: str, block: int, *, num_classes: int) -> ClassBlock:
    """Read all images of one block of classes, in the order of their keys.

    Args:
        folder: path or URI.
        block: its index.
        num_classes: C.

    Returns:
        The block.

    Raises:
        ValueError: if an image has two rows.
    """
    width = min(CLASSES_PER_BLOCK, num_classes - block * CLASSES_PER_BLOCK)
    keys: list[str] = []
    scores, targets = [np.zeros((0, width), np.float32)], [np.zeros((0, width), np.int8)]
    for row in _rows(folder, block):
        keys += row["keys"].as_py()
        for arrays, name in ((scores, "scores"), (targets, "targets")):
            arrays.append(row[name].values.to_numpy(zero_copy_only=False).reshape(-1, width))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    ordered = [keys[index] for index in order]
    if twice := next((key for key, other in zip(ordered, ordered[1:], strict=False) if key == other), None):
        raise ValueError(f"{folder}: the image {twice!r} has two rows; keys of an evaluation set are unique")
    return ClassBlock(block * CLASSES_PER_BLOCK, ordered, np.concatenate(scores)[order], np.concatenate(targets)[order])


def read_part(path: str, *, num_classes: int) -> ClassBlock:
    """Read all classes of the images of one part, in the order of the file.

    Args:
        path: path or URI of the part.
        num_classes: C.

    Returns:
        The images as one block of C classes.
    """
    fs, local = locate(path)
    with fs.open(local, "rb") as file:
        table = pq.read_table(file)
    keys: list[str] = []
    scores: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    for block in range(num_blocks(num_classes)):
        width = min(CLASSES_PER_BLOCK, num_classes - block * CLASSES_PER_BLOCK)
        rows = table.filter(pc.equal(table["block"], block))
        of_block = [key for keys_of_row in rows["keys"].to_pylist() for key in keys_of_row]
        keys = keys or of_block
        assert keys == of_block, f"{path}: the images of its blocks lie in one order"
        for arrays, name in ((scores, "scores"), (targets, "targets")):
            arrays.append(rows[name].combine_chunks().flatten().to_numpy().reshape(-1, width))
    return ClassBlock(0, keys, np.concatenate(scores, axis=1), np.concatenate(targets, axis=1))


def _rows(folder: str, block: int) -> Iterator[dict[str, pa.Scalar]]:
    for path in part_files(folder):
        fs, local = locate(path)
        with fs.open(local, "rb") as file:
            parquet = pq.ParquetFile(file)
            for group in range(parquet.metadata.num_row_groups):  # a row group is a block
                statistics = parquet.metadata.row_group(group).column(0).statistics
                if statistics.min == block:
                    table = parquet.read_row_group(group)
                    for index in range(len(table)):
                        yield {name: table[name][index] for name in table.column_names}


def part_files(folder: str) -> list[str]:
    """List the parts of a folder.

    Args:
        folder: path or URI.

    Returns:
        Their paths or URIs, sorted.
    """
    fs, path = locate(folder)
    return [uri_of(fs, name) for name in sorted(fs.glob(f"{path}/part-*.parquet"))]


def start_folder(folder: str, identity: Json) -> tuple[str, ScoreManifest | None]:
    """Look at a folder before it is written: what is done is read, and anything else in it is removed.

    Args:
        folder: path or URI.
        identity: all that the scores depend on.

    Returns:
        The digest of `identity`, and the manifest if the folder is done with it.
    """
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    try:
        manifest = read_manifest(folder)
    except ValueError:
        manifest = None
    if manifest and manifest.identity == digest:
        return digest, manifest
    fs, path = locate(folder)
    if fs.exists(path):
        remove_folder(fs, path)
    return digest, None


def write_manifest(folder: str, manifest: ScoreManifest) -> None:
    """Write the manifest: from now on the folder is done.

    Args:
        folder: path or URI.
        manifest: its content.
    """
    write_text(f"{folder}/{MANIFEST}", manifest.model_dump_json(indent=1))


def read_manifest(folder: str) -> ScoreManifest:
    """Read the manifest of a folder.

    Args:
        folder: path or URI.

    Returns:
        Its content.

    Raises:
        ValueError: if there is none, or it cannot be read.
    """
    fs, path = locate(f"{folder}/{MANIFEST}")
    try:
        return ScoreManifest.model_validate_json(fs.cat_file(path))
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no finished scores: it has no {MANIFEST}") from None
    except ValidationError as error:
        raise ValueError(f"{folder}/{MANIFEST} cannot be read: {error.errors()[0]['msg']}") from None


def write_scores(batches: Iterable[tuple[Sequence[str], np.ndarray, np.ndarray]], folder: str) -> int:
    """Write batches of scores in this process.

    Args:
        batches: keys, scores (N, C) and targets (N, C), as of `to_score_blocks`.
        folder: path or URI.

    Returns:
        The number of images.
    """
    return sum(write_part(to_score_blocks(*batch), folder) for batch in batches)
