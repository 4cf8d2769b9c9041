"""Near duplicates by embeddings: pairs of images whose vectors have a cosine over a threshold, found with FAISS.

    embeddings -> vectors by cell -> pairs of each cell (tasks)

Comparing all with all grows with the square of the images. So vectors are divided into cells of about `ROWS_PER_CELL`:
those nearest to the centres of a k-means over a sample. Each vector is in its nearest `PROBES` cells, so that a pair on
the border of two cells is found. A task holds one cell, in blocks of `BLOCK` rows, whose memory does not grow with the
data; the work is linear in the images. Of a vector the `NEIGHBOURS` nearest of a block are compared with the threshold.

Letters: N rows, E embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from ram_ray.curation.groups import EMBEDDING, KINDS, PAIR
from ram_ray.curation.hash_table import describe_rows
from ram_ray.results import Duplicates, Fingerprints
from ram_ray.runtime.artifacts import Stage, exists, write_table, write_text
from ram_ray.runtime.rows import read_rows, write_rows
from ram_ray.runtime.storage import make_folder, remove_folder
from ram_ray.runtime.tasks import Task, wait_for
from ram_ray.settings.curation import DuplicatesConfig
from ram_ray.settings.runtime import Execution

ROWS_PER_CELL = 50_000
PROBES = 2
BLOCK = 65_536  # rows that are compared at once
NEIGHBOURS = 32  # of a row in a block
SAMPLES_PER_CELL = 100  # vectors from which a centre is learned, about
TOLERANCE = 1e-6  # of a cosine of float32 vectors
_MAX_ID = 1 << 20
VECTOR = pa.schema([("id", pa.int64()), ("set", pa.int8()), ("source", pa.int64()), ("embedding", pa.binary())])


def find_embedding_pairs(
    stage: Stage[Duplicates],
    sets: Sequence[Fingerprints],
    config: DuplicatesConfig,
    *,
    folder: str,
    num_rows: int,
    execution: Execution,
    rows_per_cell: int = ROWS_PER_CELL,
) -> None:
    """Find the near duplicates by embeddings, in tasks.

    Args:
        stage: its `work` folder has the vectors.
        sets: FINGERPRINT rows with embeddings: the training data, then the held-out sets.
        config: which rows are duplicates.
        folder: gets the PAIR rows.
        num_rows: rows of all sets.
        execution: how the stages of the run are executed.
        rows_per_cell: rows of a cell, about.
    """
    num_cells, vectors = math.ceil(num_rows / rows_per_cell), f"{stage.work}/vectors"
    fs, root = fsspec.url_to_fs(vectors)
    if not fs.exists(fsspec.url_to_fs(f"{vectors}.done")[1]):
        remove_folder(fs, root)  # a run that was killed may have written a part
        centres = ray.put(
            _learn_centres(stage, sets, config, num_cells, num_rows, execution) if num_cells > 1 else None
        )

        def assign(block: pa.Table) -> pa.Table:
            return to_cells(block, ray.get(centres))

        rows = _vectors(sets, config, execution).map_batches(
            assign, batch_format="pyarrow", batch_size=None, num_cpus=execution.task_cpus
        )
        if num_cells > 1:
            rows = rows.repartition(min(num_cells, execution.resources.shuffle_partitions), keys=["cell"])
        write_rows(rows, vectors, execution=execution, partition_cols=["cell"])
        make_folder(fs, root)
        write_text(f"{vectors}.done", "")
    assert config.embedding is not None
    task = Task(write_cell_pairs, num_cpus=execution.task_cpus)
    wait_for(
        [
            task.start(f"{vectors}/cell={cell}", f"{folder}/embedding_{cell}.parquet", min_cosine=config.embedding)
            for cell in range(num_cells)
        ]
    )


def to_cells(block: pa.Table, centres: np.ndarray | None) -> pa.Table:
    """Give each vector its nearest cells.

    Args:
        block: VECTOR rows.
        centres: float32 (cells, E); None: there is one cell.

    Returns:
        The rows with `cell`: each row once for each of its cells.
    """
    if centres is None or not len(block):
        return block.append_column("cell", pa.array(np.zeros(len(block), np.int32)))
    import faiss

    index = faiss.IndexFlatIP(centres.shape[1])
    index.add(centres)
    _, nearest = index.search(to_vectors(block["embedding"]), min(PROBES, len(centres)))
    rows = np.repeat(np.arange(len(block)), nearest.shape[1])
    return block.take(pa.array(rows)).append_column("cell", pa.array(nearest.ravel().astype(np.int32)))


def to_vectors(column: pa.ChunkedArray) -> np.ndarray:
    """A column of embeddings as float32 (N, E).

    Args:
        column: float16 bytes, all of one length.

    Returns:
        The vectors, of unit length again.
    """
    contents = column.to_pylist()
    vectors = np.frombuffer(b"".join(contents), np.float16).reshape(len(contents), -1).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_cell_pairs(cell: str, path: str, *, min_cosine: float) -> None:
    """A task: find the pairs of a cell and write them as PAIR rows; a finished cell is not searched again.

    Args:
        cell: folder of its VECTOR rows.
        path: of the file; without pairs there is none, since Ray Data takes the columns of an empty file away.
        min_cosine: least cosine of a pair.
    """
    done = f"{path}.done"
    if exists(done):
        return
    tables = [VECTOR.empty_table()]
    fs, root = fsspec.url_to_fs(cell)
    for name in sorted(fs.glob(f"{root}/*.parquet")):
        with fs.open(name, "rb") as opened:
            tables.append(pq.read_table(opened, columns=VECTOR.names, partitioning=None).cast(VECTOR))
    rows = pa.concat_tables(tables).sort_by("id")
    parts = [_to_pairs(rows, *found) for found in pair_vectors(rows["embedding"], min_cosine=min_cosine)]
    pairs = pa.concat_tables([PAIR.empty_table(), *parts])
    if len(pairs):
        write_table(pairs, path)
    write_text(done, "")


def pair_vectors(
    column: pa.ChunkedArray, *, min_cosine: float, block: int = BLOCK
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pair vectors over a cosine, block by block.

    Args:
        column: embeddings of N rows, of unit length.
        min_cosine: least cosine of a pair.
        block: rows that are compared at once.

    Yields:
        Positions of both, the lower first, and their cosines.
    """
    import faiss

    for start in range(0, len(column), block):
        vectors = to_vectors(column.slice(start, block))
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        for other in range(start, len(column), block):
            queries = vectors if other == start else to_vectors(column.slice(other, block))
            cosines, found = index.search(queries, min(NEIGHBOURS, len(vectors)))
            query, rank = np.nonzero(cosines >= min_cosine - TOLERANCE)
            left, right = found[query, rank] + start, query + other
            is_pair = (left < right) if other == start else np.ones(len(left), bool)
            yield left[is_pair], right[is_pair], cosines[query, rank][is_pair]


def _vectors(sets: Sequence[Fingerprints], config: DuplicatesConfig, execution: Execution) -> ray.data.Dataset:
    """VECTOR rows of all sets."""
    columns = ["key", "shard", "reason", "embedding"]
    parts = []
    for set_index, fingerprints in enumerate(sets):

        def select(block: pa.Table, set_index: int = set_index) -> pa.Table:
            block = block.filter(pc.and_(pc.is_null(block["reason"]), pc.is_valid(block["embedding"])))
            columns = describe_rows(block, set_index=set_index, prefer=tuple(config.prefer))
            return pa.table({**columns, "embedding": block["embedding"]}, schema=VECTOR)

        rows = read_rows(fingerprints.path, execution=execution, columns=columns, rows_per_block=4096)
        parts.append(rows.map_batches(select, batch_format="pyarrow", batch_size=None, num_cpus=execution.task_cpus))
    return parts[0].union(*parts[1:]) if parts[1:] else parts[0]


def _learn_centres(
    stage: Stage[Duplicates],
    sets: Sequence[Fingerprints],
    config: DuplicatesConfig,
    num_cells: int,
    num_rows: int,
    execution: Execution,
) -> np.ndarray:
    """Centres of the cells, float32 (cells, E), from a sample that the ids decide."""
    folder = f"{stage.work}/sample"
    fs, root = fsspec.url_to_fs(folder)
    remove_folder(fs, root)
    limit = math.ceil(min(1.0, SAMPLES_PER_CELL * num_cells / num_rows) * _MAX_ID)

    def draw(block: pa.Table) -> pa.Table:
        return block.filter(pa.array(block["id"].to_numpy() % _MAX_ID < limit))

    rows = _vectors(sets, config, execution).map_batches(
        draw, batch_format="pyarrow", batch_size=None, num_cpus=execution.task_cpus
    )
    write_rows(rows, folder, execution=execution)
    return Task(_cluster, num_cpus=execution.task_cpus).run(folder, num_cells)


def _cluster(folder: str, num_cells: int) -> np.ndarray:
    import faiss

    fs, root = fsspec.url_to_fs(folder)
    tables = [VECTOR.empty_table()]
    for name in sorted(fs.glob(f"{root}/*.parquet")):
        with fs.open(name, "rb") as file:
            tables.append(pq.read_table(file, partitioning=None).cast(VECTOR))
    vectors = to_vectors(pa.concat_tables(tables).sort_by("id")["embedding"])
    num_cells = min(num_cells, len(vectors))
    kmeans = faiss.Kmeans(
        vectors.shape[1], num_cells, niter=10, spherical=True, seed=0, min_points_per_centroid=1, verbose=False
    )
    kmeans.train(vectors)
    return np.asarray(kmeans.centroids, np.float32)


def _to_pairs(rows: pa.Table, left: np.ndarray, right: np.ndarray, cosines: np.ndarray) -> pa.Table:
    columns = {name: rows[name].to_numpy() for name in ("id", "set", "source")}
    return pa.table(
        {
            **{name: values[left] for name, values in columns.items()},
            **{f"other_{name}": values[right] for name, values in columns.items()},
            "kind": np.full(len(left), KINDS.index(EMBEDDING), np.int8),
            "distance": np.rint(1000 * (1 - cosines)).clip(0).astype(np.int16),
        },
        schema=PAIR,
    )
