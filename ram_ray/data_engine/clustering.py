"""What the crops of a category look like: k-means++ by FAISS, and how far each crop is from the looks of its category.

The paper names the method and leaves open the features, k and the distance. Chosen here:

    features  the teacher's image embedding of the crop, L2-normalised. The teacher never saw the tags that are
              being judged, so a wrong tag that the tagger has learnt by heart still looks odd to it.
    k         one cluster for every `images_per_cluster` crops, at most `max_clusters`: a category has several
              looks (a dog's head, a far dog), and one mean would call the rarer look an outlier.
    distance  1 - cosine to the nearest centre, since only the direction of an embedding means anything; and each half
              of the crops (by the hash of their keys) is measured to the centres of the other. A crop pulls the centres
              of its own half towards it, and would look less strange than it is: on photos, at a loss of 10% of the
              right tags, 22% of the false ones go by the distance to their own half's centres, 26% by this one.
    tiny clusters  k-means++ likes far points as its first centres, and a handful of strange crops would end as a
              cluster of their own, near to each other and kept. So a centre with fewer members than a quarter of an
              even share does not count.

Cost. k-means++ seeding and the choice between several starts need only as many points as show where the looks are, so
both run on a sample (`SEED_POINTS`) and the winner is refined on all points: linear in N, with one pass of N x K
products an iteration. A category of more than `FIT_POINTS` crops is fitted on that many of them, drawn by the hash of
their keys and the seed, and the others are only assigned, chunk by chunk (`Looks.measure`): memory does not grow with
the category beyond `FIT_POINTS` x D x 4 bytes.

Letters: N crops, K clusters, D width of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

FIT_POINTS = 65_536  # points that the centres are fitted on; more are only assigned
SEED_POINTS = 2_048  # points that k-means++ seeds on and starts are compared on
STARTS = 3  # seedings that are compared
SEED_ITERATIONS, ITERATIONS = 4, 10  # of each start on the sample; of the winner on all points
GPU_POINTS = 20_000  # categories smaller than this are done before a GPU index is set up


@dataclass(frozen=True)
class Looks:
    """The clusters of a category, or of one half of it."""

    centres: np.ndarray  # (K, D) float32 unit vectors, those that do not count included
    sizes: np.ndarray  # (K,) int64, members
    counting: np.ndarray  # (K,) bool: large enough to be a look of the category

    def measure(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nearest centre that counts, and the distance from it.

        Args:
            points: (N, D) float32 unit vectors.

        Returns:
            Number of the centre (N,) int32, and 1 - cosine (N,) float32, 0 to 2.
        """
        counting = np.flatnonzero(self.counting)
        nearest = counting[(points @ self.centres[counting].T).argmax(axis=1)]
        # a row at a time, so that a distance does not depend on which other rows are in the chunk
        distance = 1 - np.einsum("nd,nd->n", self.centres[nearest], points)
        return nearest.astype(np.int32), distance.astype(np.float32)


def num_clusters(num_images: int, *, images_per_cluster: int, max_clusters: int) -> int:
    """Number of clusters of a category of this size.

    Args:
        num_images: crops of the category.
        images_per_cluster: crops for each cluster.
        max_clusters: most clusters.

    Returns:
        K, 1 to `max_clusters`.
    """
    return max(1, min(max_clusters, num_images // images_per_cluster))


def find_looks(points: np.ndarray, *, clusters: int, seed: int = 0) -> Looks:
    """Cluster the crops of a category into looks.

    The same points in the same order with the same seed give the same looks.

    Args:
        points: (N, D) float32 unit vectors, N > 0, at most `FIT_POINTS`.
        clusters: most looks.
        seed: of `fit_centres`.

    Returns:
        The looks, with unit centres (K, D) float32.
    """
    assert 0 < len(points) <= FIT_POINTS, len(points)
    centres = normalised(fit_centres(points, clusters=min(clusters, len(points)), seed=seed))
    nearest = np.concatenate([(part @ centres.T).argmax(axis=1) for part in slices(points)])
    sizes = np.bincount(nearest, minlength=len(centres))
    return Looks(centres, sizes, sizes >= max(1, 0.25 * len(points) / len(centres)))


def fit_centres(points: np.ndarray, *, clusters: int, seed: int = 0) -> np.ndarray:
    """Centres (K, D) float32 by k-means: seeded by k-means++ on a sample, refined on all.

    Between unit vectors the squared distance is twice 1 - cosine, so plain k-means is what is wanted.

    Args:
        points: (N, D) float32 unit vectors, N at least `clusters`.
        clusters: K.
        seed: of the sample and of the starts.

    Returns:
        (K, D) float32, not normalised; fewer where there are fewer points.
    """
    if clusters == 1:
        return points.mean(axis=0, keepdims=True)
    if len(points) <= clusters:
        return points.copy()
    import faiss

    options: dict[str, Any] = {
        "seed": seed % 2**31,
        "min_points_per_centroid": 1,
        "max_points_per_centroid": len(points),  # FAISS takes a sample of its own otherwise
    }
    rng = np.random.default_rng(seed)
    room = max(SEED_POINTS, 32 * clusters)
    sample = points if len(points) <= room else points[np.sort(rng.choice(len(points), room, replace=False))]
    best, centres = np.inf, sample[:clusters]
    for _ in range(STARTS):
        start = faiss.Kmeans(points.shape[1], clusters, niter=SEED_ITERATIONS, **options)
        objective = start.train(sample, init_centroids=seed_centres(sample, clusters=clusters, rng=rng))
        if objective < best:
            best, centres = objective, np.asarray(start.centroids)
    gpus = faiss.get_num_gpus() if len(points) >= GPU_POINTS else 0
    options |= {"gpu": gpus or False, "use_super_kmeans": not gpus}  # the latter: the same steps, with fewer products
    kmeans = faiss.Kmeans(points.shape[1], clusters, niter=ITERATIONS, **options)
    kmeans.train(points, init_centroids=centres)
    return np.asarray(kmeans.centroids)


def seed_centres(points: np.ndarray, *, clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Points (K, D) to start from, by greedy k-means++ (Arthur and Vassilvitskii 2007, section 5).

    Each next one is the best of a few that are drawn with a chance in proportion to their squared distance. FAISS draws
    one a step, and ends about 1% farther from its points, which more starts do not make up for.

    Args:
        points: (N, D) float32.
        clusters: K.
        rng: of the draws.

    Returns:
        (K, D) float32, rows of `points`.
    """
    lengths = (points**2).sum(axis=1)
    chosen = [int(rng.integers(len(points)))]
    near = np.maximum(lengths + lengths[chosen[0]] - 2 * points @ points[chosen[0]], 0)  # squared distances, (N,)
    for _ in range(1, clusters):
        mass = np.cumsum(near, dtype=np.float64)
        drawn = np.searchsorted(mass, rng.random(2 + int(np.log(clusters))) * mass[-1]).clip(max=len(points) - 1)
        squared = np.maximum(lengths[:, None] + lengths[drawn] - 2 * points @ points[drawn].T, 0)
        squared = np.minimum(squared, near[:, None])
        best = int(squared.sum(axis=0, dtype=np.float64).argmin())
        chosen.append(int(drawn[best]))
        near = squared[:, best]
    return points[chosen]


def normalised(rows: np.ndarray) -> np.ndarray:
    """Rows of unit length; a row of zeros stays one.

    Args:
        rows: (N, D) float.

    Returns:
        (N, D) float32.
    """
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def slices(points: np.ndarray, size: int = 16_384) -> list[np.ndarray]:
    """Consecutive parts, so that N x K stays small.

    Args:
        points: (N, D).
        size: most rows of a part.

    Returns:
        Views of `points`, in order.
    """
    return [points[start : start + size] for start in range(0, len(points), size)]
