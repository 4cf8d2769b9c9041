"""Which crops of a category do not look like the category: k-means++ by FAISS, the farthest share are outliers.

The paper names the method and the share (10%) and leaves open the features, k and the distance. Chosen here:

    features  the teacher's image embedding of the crop, L2-normalised. The teacher never saw the tags that are
              being judged, so a wrong tag that the tagger has learnt by heart still looks odd to it.
    k         one cluster for every `images_per_cluster` crops, at most `max_clusters`: a category has several
              looks (a dog's head, a far dog), and one mean would call the rarer look an outlier.
    distance  1 - cosine to the crop's own centre, since only the direction of an embedding means anything.
    tiny clusters  k-means++ likes far points as its first centres, and such a point would end as a cluster of
              its own at distance 0: the oddest crop of all, kept. So a centre with fewer members than a quarter
              of an even share does not count, and its members are measured to the nearest centre that does.

The number removed is exact (floor of share x N) and ties go to the lower index, so the same rows and the same
seed give the same answer whatever the machine's number of threads decides about the last bit of a sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

FIT_POINTS = 100_000  # points that the centres are fitted on; more are only assigned
GPU_POINTS = 20_000  # categories smaller than this are done before a GPU index is set up


@dataclass(frozen=True)
class Clustering:
    """The clusters of one category of N crops."""

    assignment: np.ndarray  # (N,) int32, the centre that the crop is measured to
    distance: np.ndarray  # (N,) float32, 1 - cosine to that centre, 0 to 2
    outlier: np.ndarray  # (N,) bool
    centres: np.ndarray  # (K, D) float32, L2-normalised, centres that do not count included


def num_clusters(num_images: int, *, images_per_cluster: int, max_clusters: int) -> int:
    """k for a category of this size: one for every `images_per_cluster` crops, 1 to `max_clusters`."""
    return max(1, min(max_clusters, num_images // images_per_cluster))


def cluster_outliers(
    embeddings: np.ndarray, *, clusters: int, outliers: float, seed: int = 0, redo: int = 2, iterations: int = 20
) -> Clustering:
    """Cluster the crops of one category and mark the `outliers` share farthest from their centre.

    Args:
        embeddings: (N, D) floats; normalised here. A row of zeros is an outlier at distance 1.
        clusters: k; at most N are made.
        outliers: share of N, 0 to under 1; exactly floor(share x N) crops are marked.
        redo: times that k-means starts again from other seeds; the best is kept.

    Raises:
        ValueError: if the embeddings are not (N, D), are not finite, or a number is out of its range.
    """
    if embeddings.ndim != 2:
        raise ValueError(f"embeddings must be (N, D), not {embeddings.shape}")
    if not 0 <= outliers < 1 or clusters < 1:
        raise ValueError(f"outliers must be in [0, 1) and clusters at least 1, not {outliers} and {clusters}")
    if bad := int((~np.isfinite(embeddings).all(axis=1)).sum()):
        raise ValueError(f"{bad} of {len(embeddings)} embeddings are not finite; check the teacher's precision")
    count, width = embeddings.shape
    if not count:
        nothing = np.zeros(0, np.float32)
        return Clustering(nothing.astype(np.int32), nothing, nothing.astype(bool), np.zeros((0, width), np.float32))
    points = _normalised(embeddings)
    centres = _fit(points, clusters=min(clusters, count), seed=seed, redo=redo, iterations=iterations)
    assignment, distance = _measure(points, centres)
    farthest = np.argsort(-distance, kind="stable")[: int(outliers * count + 1e-9)]
    outlier = np.zeros(count, bool)
    outlier[farthest] = True
    return Clustering(assignment, distance, outlier, centres)


def _normalised(embeddings: np.ndarray) -> np.ndarray:
    points = np.ascontiguousarray(embeddings, dtype=np.float32)
    return points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)


def _fit(points: np.ndarray, *, clusters: int, seed: int, redo: int, iterations: int) -> np.ndarray:
    """Centres (K, D) by spherical k-means; more than FIT_POINTS points are sampled by the seed."""
    if clusters == 1 or len(points) <= clusters:
        return _normalised(points.mean(axis=0, keepdims=True)) if clusters == 1 else points.copy()
    import faiss

    if len(points) > FIT_POINTS:
        points = points[np.sort(np.random.default_rng(seed).choice(len(points), FIT_POINTS, replace=False))]
    options: dict[str, Any] = {
        "niter": iterations,
        "nredo": redo,
        "seed": seed % 2**31,
        "spherical": True,
        "init_method": faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
        "min_points_per_centroid": 1,
        "max_points_per_centroid": len(points),  # FAISS takes a sample of its own otherwise
        "gpu": faiss.get_num_gpus() if len(points) >= GPU_POINTS else False,
    }
    kmeans = faiss.Kmeans(points.shape[1], clusters, **options)
    kmeans.train(points)
    return _normalised(np.asarray(kmeans.centroids))


def _measure(points: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest centre that counts (N,) and 1 - cosine to it (N,), in slices so that N x K stays small."""
    nearest = np.concatenate([(part @ centres.T).argmax(axis=1) for part in _slices(points)])
    sizes = np.bincount(nearest, minlength=len(centres))
    counting = np.flatnonzero(sizes >= 0.25 * len(points) / len(centres))
    assignment = np.empty(len(points), np.int32)
    distance = np.empty(len(points), np.float32)
    start = 0
    for part in _slices(points):
        cosine = part @ centres[counting].T
        best = cosine.argmax(axis=1)
        assignment[start : start + len(part)] = counting[best]
        distance[start : start + len(part)] = 1 - cosine[np.arange(len(part)), best]
        start += len(part)
    return assignment, distance


def _slices(points: np.ndarray, size: int = 65_536) -> list[np.ndarray]:
    return [points[start : start + size] for start in range(0, len(points), size)]
