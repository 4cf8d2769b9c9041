"""Contract: the crops that do not belong are found, exactly as many as asked, the same ones every time."""

import numpy as np
import pytest

from ram_ray.engine.clustering import cluster_outliers, num_clusters


def looks(rng: np.random.Generator, *, sizes: list[int], width: int = 32, noise: float = 0.15) -> np.ndarray:
    """Normalised points around one random direction a size."""
    centres = rng.normal(size=(len(sizes), width))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    points = np.repeat(centres, sizes, axis=0) + noise / np.sqrt(width) * rng.normal(size=(sum(sizes), width))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def test_planted_strangers_are_the_outliers_though_the_category_has_three_looks():
    rng = np.random.default_rng(0)
    members, strangers = looks(rng, sizes=[120, 90, 60]), looks(rng, sizes=[1] * 30)
    order = rng.permutation(300)
    planted = (np.arange(300) >= 270)[order]
    found = cluster_outliers(np.concatenate([members, strangers])[order], clusters=6, outliers=0.1, seed=3)
    assert found.outlier.sum() == 30
    assert (found.outlier & planted).sum() >= 28
    assert found.distance[found.outlier].min() >= found.distance[~found.outlier].max()


def test_a_far_point_that_kmeans_makes_a_cluster_of_its_own_is_still_an_outlier():
    rng = np.random.default_rng(1)
    points = np.concatenate([looks(rng, sizes=[40, 40]), looks(rng, sizes=[1])])
    found = cluster_outliers(points, clusters=8, outliers=0.02, seed=0)
    assert np.flatnonzero(found.outlier).tolist() == [80]


@pytest.mark.parametrize(
    "share, count, removed", [(0.1, 30, 3), (0.1, 39, 3), (0.29, 100, 29), (0.0, 50, 0), (0.5, 1, 0)]
)
def test_exactly_the_floor_of_the_share_goes(share, count, removed):
    points = np.random.default_rng(2).normal(size=(count, 8)).astype(np.float32)
    assert cluster_outliers(points, clusters=3, outliers=share).outlier.sum() == removed


def test_ties_go_to_the_lower_index():
    found = cluster_outliers(np.ones((20, 4), np.float32), clusters=4, outliers=0.2)
    assert np.flatnonzero(found.outlier).tolist() == [0, 1, 2, 3]


def test_the_seed_decides():
    points = np.random.default_rng(4).normal(size=(400, 16)).astype(np.float32)
    one, two = (cluster_outliers(points, clusters=7, outliers=0.1, seed=5) for _ in range(2))
    assert (one.assignment == two.assignment).all() and (one.distance == two.distance).all()


def test_the_scale_of_an_embedding_does_not_matter():
    rng = np.random.default_rng(6)
    points = rng.normal(size=(200, 16)).astype(np.float32)
    scaled = points * rng.uniform(0.1, 10, size=(200, 1)).astype(np.float32)
    kept = [cluster_outliers(one, clusters=3, outliers=0.1, seed=1).outlier for one in (points, scaled)]
    assert (kept[0] == kept[1]).all()


def test_fewer_points_than_clusters():
    found = cluster_outliers(np.eye(3, dtype=np.float32), clusters=10, outliers=0.4)
    assert found.outlier.sum() == 1 and np.allclose(found.distance, 0, atol=1e-6)
    assert not len(cluster_outliers(np.zeros((0, 5), np.float32), clusters=4, outliers=0.1).outlier)


def test_what_is_not_finite_is_refused_with_its_count():
    points = np.ones((5, 4), np.float32)
    points[1, 2], points[3, 0] = np.nan, np.inf
    with pytest.raises(ValueError, match="2 of 5 embeddings are not finite"):
        cluster_outliers(points, clusters=2, outliers=0.1)


def test_k_grows_with_the_category_up_to_its_limit():
    k = [num_clusters(n, images_per_cluster=50, max_clusters=32) for n in (0, 49, 100, 1_600, 1_000_000)]
    assert k == [1, 1, 2, 32, 32]
