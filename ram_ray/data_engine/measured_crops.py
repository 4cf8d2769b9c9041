"""The crops of a label, measured: the distance of each to the label's prototypes, and its co-occurrence.

Rows are read in chunks, and the embeddings of at most `FIT_POINTS` crops are in memory at once.

Letters: N crops, F signals, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ram_ray.data_engine.clustering import FIT_POINTS, Prototypes, find_prototypes, normalised, num_clusters
from ram_ray.data_engine.co_occurrence import TagCounts, co_occurrence
from ram_ray.data_engine.crops import embeddings_of, seeded_hash
from ram_ray.data_engine.regions_by_label import Chunks
from ram_ray.data_engine.wrong_tags import SIGNALS
from ram_ray.settings.data_engine import CleanConfig

_COLUMNS = (
    *("key", "shard", "positive", "mentioned", "confirmed", "human", "box"),
    *("detected", "detector_score", "image_score", "region_score", "predicted", "other_mentions"),
)


def count_crops(chunks: Chunks) -> tuple[int, int]:
    """Count the rows of a label.

    Args:
        chunks: reads its REGIONS rows.

    Returns:
        Numbers of positives and of negatives.
    """
    num_positives = num_negatives = 0
    for rows in chunks(["positive"]):
        count = pc.sum(rows["positive"]).as_py() or 0
        num_positives, num_negatives = num_positives + count, num_negatives + len(rows) - count
    return num_positives, num_negatives


def signals_of(measured: pa.Table) -> np.ndarray:
    """The signals of measured rows, in the order of `SIGNALS`.

    Args:
        measured: rows with the columns of `SIGNALS` but the similarity, and with distance.

    Returns:
        (N, F) float64; a larger value is evidence for the tag.
    """
    names = ("image_score", "region_score", "detector_score", "co_occurrence")
    columns = {name: measured[name].to_numpy().astype(np.float64) for name in names}
    columns["prototype_similarity"] = -measured["distance"].to_numpy().astype(np.float64)
    return np.stack([columns[name] for name in SIGNALS], axis=1)


def fit_halves(chunks: Chunks, *, crops: int, config: CleanConfig, seed: int) -> tuple[Prototypes, Prototypes]:
    """Find the prototypes for each half of the positives, fitted on the other half.

    Args:
        chunks: reads the REGIONS rows of a label.
        crops: number of positives.
        config: section `engine.clean`.
        seed: of the sample, the halves and the clustering.

    Returns:
        The prototypes that the first half and the second half are measured to.
    """
    keys, points = _points(chunks, crops=crops, seed=seed)
    half = _halves(keys, seed)
    if half.all() or not half.any():  # a few keys may all have the same hash bit
        half = np.arange(len(half)) % 2 == 0
    k = num_clusters(crops // 2, images_per_cluster=config.images_per_cluster, max_clusters=config.max_clusters)
    return find_prototypes(points[~half], clusters=k, seed=seed), find_prototypes(points[half], clusters=k, seed=seed)


def fit_all(chunks: Chunks, *, crops: int, config: CleanConfig, seed: int) -> Prototypes:
    """Find the clusters of all positives, of any size: as the paper, a crop is compared with its own cluster.

    Args:
        chunks: reads the REGIONS rows of a label.
        crops: number of positives.
        config: section `engine.clean`.
        seed: of the sample and the clustering.

    Returns:
        The clusters; all are valid.
    """
    _, points = _points(chunks, crops=crops, seed=seed)
    k = num_clusters(crops, images_per_cluster=config.images_per_cluster, max_clusters=config.max_clusters)
    prototypes = find_prototypes(points, clusters=k, seed=seed)
    return replace(prototypes, valid=np.ones_like(prototypes.valid))


def _points(chunks: Chunks, *, crops: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Keys and unit vectors of the positives, in the order of keys.

    More than FIT_POINTS crops are sampled by the hash of their keys.
    """
    keys: list[str] = []
    points = []
    limit = None
    if crops > FIT_POINTS:
        hashes = [key_hashes(rows.filter(rows["positive"]), seed) for rows in chunks(["key", "positive"])]
        limit = np.partition(np.concatenate(hashes), FIT_POINTS - 1)[FIT_POINTS - 1]
    for rows in chunks(["key", "positive", "embedding"]):
        rows = rows.filter(rows["positive"])
        if limit is not None:
            rows = rows.filter(pa.array(key_hashes(rows, seed) <= limit))
        keys += rows["key"].to_pylist()
        points.append(embeddings_of(rows["embedding"].to_pylist()))
    order = np.argsort(np.array(keys), kind="stable")
    fitted = unit(np.concatenate([embeddings for embeddings in points if len(embeddings)])[order])
    return [keys[index] for index in order], fitted


def _halves(keys: list[str], seed: int) -> np.ndarray:
    """Which half each key belongs to, (N,) bool."""
    return np.array([seeded_hash(key, seed) & 1 for key in keys], bool)


def key_hashes(rows: pa.Table, seed: int) -> np.ndarray:
    """Hash the keys of rows.

    Args:
        rows: with the column `key`.
        seed: of the hash.

    Returns:
        (N,) uint64.
    """
    return np.array([seeded_hash(key, seed) for key in rows["key"].to_pylist()], np.uint64)


def unit(embeddings: np.ndarray) -> np.ndarray:
    """Scale embeddings to unit vectors.

    Args:
        embeddings: (N, D) float.

    Returns:
        (N, D) float32.

    Raises:
        ValueError: if an embedding is not finite.
    """
    if num_bad := int((~np.isfinite(embeddings).all(axis=1)).sum()):
        raise ValueError(f"{num_bad} of {len(embeddings)} embeddings are not finite; check the teacher's precision")
    return normalised(embeddings)


def measure_crops(chunks: Chunks, halves: Sequence[Prototypes], *, counts: TagCounts, seed: int) -> pa.Table:
    """Measure the rows of a label to its prototypes.

    Args:
        chunks: reads the REGIONS rows of the label.
        halves: prototypes that the first and the second half are measured to, or a single item for all rows.
        counts: number of images that mention each tag.
        seed: of the halves.

    Returns:
        The rows without embeddings, with `cluster`, `distance` and `co_occurrence`, in the order of keys. The numbers
        of the second half's clusters start after those of the first.
    """
    parts = []
    for rows in chunks([*_COLUMNS, "embedding"]):
        points = unit(embeddings_of(rows["embedding"].to_pylist()))
        cluster, distance = halves[0].measure(points)
        if len(halves) == 2:
            second_cluster, second_distance = halves[1].measure(points)
            half = _halves(rows["key"].to_pylist(), seed)
            cluster = np.where(half, cluster, second_cluster + np.int32(len(halves[0].sizes)))
            distance = np.where(half, distance, second_distance)
        measured = rows.select(_COLUMNS).append_column("cluster", pa.array(cluster))
        parts.append(measured.append_column("distance", pa.array(distance)))
    table = pa.concat_tables(parts).combine_chunks().sort_by("key")
    hashes = key_hashes(table, seed + 1)  # independent of the halves
    mentioned = table["mentioned"].to_numpy()
    scores = co_occurrence(table["other_mentions"], mentioned=mentioned, hashes=hashes, counts=counts)
    return table.drop_columns("other_mentions").append_column("co_occurrence", pa.array(scores))
