"""Cluster the region embeddings of a label, and measure how far each is from the label (paper, section 3.3).

The paper names k-means++ and leaves features, k and distance open. The choices:

    features  image embedding of the crop by the teacher, L2-normalised; the teacher never saw the tags
    k         a cluster for every `images_per_cluster` crops, at most `max_clusters`: a label has several appearances
    distance  1 - cosine to the nearest prototype, a centre with enough members. Each half of the crops is measured to
              the prototypes of the other half, since a crop draws the centres of its own half towards itself

Seeding and the choice between several starts use a sample (`SEED_POINTS`), and the best start is refined on all points,
linear in N. Of a label larger than `FIT_POINTS` a sample is fitted, and the rest is only assigned, chunk by chunk. So
the largest label takes seconds of a core, and no GPU waits for it.

Letters: N crops, K clusters, D width of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

FIT_POINTS = 65_536  # most points that centres are fitted on; others are only assigned
SEED_POINTS = 2_048  # points for seeding and for the comparison of starts
STARTS = 3  # number of seedings that are compared
SEED_ITERATIONS, ITERATIONS = 4, 10  # of each start on the sample; of the best start on all points


@dataclass(frozen=True)
class Prototypes:
    """The clusters of a label, or of a half of it."""

    centres: np.ndarray  # (K, D) float32 unit vectors, small clusters included
    sizes: np.ndarray  # (K,) int64, number of members
    valid: np.ndarray  # (K,) bool: the cluster is large enough to be a prototype of the label

    def measure(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the nearest valid centre and the distance to it.

        Args:
            points: (N, D) float32 unit vectors.

        Returns:
            Index of the centre (N,) int32, and 1 - cosine (N,) float32, 0 to 2.
        """
        valid = np.flatnonzero(self.valid)
        nearest = valid[(points @ self.centres[valid].T).argmax(axis=1)]
        # row by row, so that a distance does not depend on the other rows of the chunk
        distance = 1 - np.einsum("nd,nd->n", self.centres[nearest], points)
        return nearest.astype(np.int32), distance.astype(np.float32)


def num_clusters(num_images: int, *, images_per_cluster: int, max_clusters: int) -> int:
    """Number of clusters of a label.

    Args:
        num_images: number of crops of the label.
        images_per_cluster: number of crops for each cluster.
        max_clusters: highest number of clusters.

    Returns:
        K, 1 to `max_clusters`.
    """
    return max(1, min(max_clusters, num_images // images_per_cluster))


def find_prototypes(points: np.ndarray, *, clusters: int, seed: int = 0) -> Prototypes:
    """Find the prototypes of a label by clustering.

    The same points in the same order with the same seed give the same prototypes. A cluster with fewer members than a
    quarter of N / K is not valid: k-means++ seeds at far points, and a few wrong crops would form a cluster.

    Args:
        points: (N, D) float32 unit vectors, N > 0, at most `FIT_POINTS`.
        clusters: highest number of clusters.
        seed: of `fit_centres`.

    Returns:
        The prototypes.
    """
    assert 0 < len(points) <= FIT_POINTS, len(points)
    centres = normalised(fit_centres(points, clusters=min(clusters, len(points)), seed=seed))
    nearest = np.concatenate([(part @ centres.T).argmax(axis=1) for part in slices(points)])
    sizes = np.bincount(nearest, minlength=len(centres))
    return Prototypes(centres, sizes, sizes >= max(1, 0.25 * len(points) / len(centres)))


def fit_centres(points: np.ndarray, *, clusters: int, seed: int = 0) -> np.ndarray:
    """Fit centres by k-means, seeded by k-means++ on a sample and refined on all points.

    Between unit vectors the squared distance is 2 (1 - cosine), so plain k-means applies.

    Args:
        points: (N, D) float32 unit vectors, N at least `clusters`.
        clusters: K.
        seed: of the sample and the starts.

    Returns:
        (K, D) float32, not normalised; fewer rows if there are fewer points.
    """
    if clusters == 1:
        return points.mean(axis=0, keepdims=True)
    if len(points) <= clusters:
        return points.copy()
    import faiss

    options: dict[str, Any] = {
        "seed": seed % 2**31,
        "min_points_per_centroid": 1,
        "max_points_per_centroid": len(points),  # otherwise FAISS takes a sample
        "gpu": False,  # the same centres on every machine
    }
    rng = np.random.default_rng(seed)
    size = max(SEED_POINTS, 32 * clusters)
    sample = points if len(points) <= size else points[np.sort(rng.choice(len(points), size, replace=False))]
    best, centres = np.inf, sample[:clusters]
    for _ in range(STARTS):
        start = faiss.Kmeans(points.shape[1], clusters, niter=SEED_ITERATIONS, **options)
        objective = start.train(sample, init_centroids=seed_centres(sample, clusters=clusters, rng=rng))
        if objective < best:
            best, centres = objective, np.asarray(start.centroids)
    # super k-means: the same steps with fewer products
    kmeans = faiss.Kmeans(points.shape[1], clusters, niter=ITERATIONS, use_super_kmeans=True, **options)
    kmeans.train(points, init_centroids=centres)
    return np.asarray(kmeans.centroids)


def seed_centres(points: np.ndarray, *, clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Choose the initial centres by greedy k-means++ (Arthur and Vassilvitskii 2007, section 5).

    Each step draws a few candidates with a probability proportional to their squared distance and takes the best.
    FAISS draws a single candidate.

    Args:
        points: (N, D) float32.
        clusters: K.
        rng: random generator of the draws.

    Returns:
        (K, D) float32, rows of `points`.
    """
    lengths = (points**2).sum(axis=1)
    selected = [int(rng.integers(len(points)))]
    first = selected[0]
    distances = np.maximum(lengths + lengths[first] - 2 * points @ points[first], 0)  # (N,), squared, to the nearest
    for _ in range(1, clusters):
        mass = np.cumsum(distances, dtype=np.float64)
        draws = rng.random(2 + int(np.log(clusters))) * mass[-1]
        candidates = np.searchsorted(mass, draws).clip(max=len(points) - 1)
        squared = np.maximum(lengths[:, None] + lengths[candidates] - 2 * points @ points[candidates].T, 0)
        squared = np.minimum(squared, distances[:, None])
        best = int(squared.sum(axis=0, dtype=np.float64).argmin())
        selected.append(int(candidates[best]))
        distances = squared[:, best]
    return points[selected]


def normalised(rows: np.ndarray) -> np.ndarray:
    """Scale rows to unit length; a row of zeros stays zero.

    Args:
        rows: (N, D) float.

    Returns:
        (N, D) float32.
    """
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def slices(points: np.ndarray, size: int = 16_384) -> list[np.ndarray]:
    """Split points into consecutive parts, which bounds N x K.

    Args:
        points: (N, D).
        size: highest number of rows of a part.

    Returns:
        Views of `points`, in order.
    """
    return [points[start : start + size] for start in range(0, len(points), size)]
