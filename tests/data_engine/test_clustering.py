"""Contract: crops that do not belong to a label are far from its prototypes, the same every time, whatever their
number and chunks; the centres are as good as those of k-means++."""

import numpy as np
import pytest

from ram_ray.data_engine import clustering
from ram_ray.data_engine.clustering import find_prototypes, fit_centres, normalised, num_clusters
from tests.bench import clustering as bench


def clusters_of(rng: np.random.Generator, *, sizes: list[int], width: int = 32, noise: float = 0.15) -> np.ndarray:
    """Unit vectors in clusters of these sizes, each around a random direction."""
    centres = normalised(rng.normal(size=(len(sizes), width)))
    points = np.repeat(centres, sizes, axis=0) + noise / np.sqrt(width) * rng.normal(size=(sum(sizes), width))
    return normalised(points)


def distances(points: np.ndarray, *, clusters: int, seed: int = 0) -> np.ndarray:
    return find_prototypes(points, clusters=clusters, seed=seed).measure(points)[1]


def inertia(points: np.ndarray, centres: np.ndarray) -> float:
    return float(((points[:, None] - centres[None]) ** 2).sum(axis=-1).min(axis=1).sum())


def test_planted_outliers_are_the_farthest_though_the_label_has_three_clusters():
    rng = np.random.default_rng(0)
    members, outliers = clusters_of(rng, sizes=[120, 90, 60]), clusters_of(rng, sizes=[1] * 30)
    order = rng.permutation(300)
    planted = (np.arange(300) >= 270)[order]
    distance = distances(np.concatenate([members, outliers])[order], clusters=6, seed=3)
    assert planted[np.argsort(-distance)[:30]].sum() >= 28
    assert distance.dtype == np.float32 and distance.min() >= 0 and distance.max() <= 2


@pytest.mark.parametrize("num_outliers", [1, 3])
def test_far_points_that_form_a_cluster_of_kmeans_are_still_far(num_outliers):
    rng = np.random.default_rng(1)
    points = np.concatenate([clusters_of(rng, sizes=[60, 60]), clusters_of(rng, sizes=[num_outliers], noise=0.05)])
    distance = distances(points, clusters=8)
    assert set(np.argsort(-distance)[:num_outliers]) == set(range(120, 120 + num_outliers))
    assert distance[120:].min() > 3 * distance[:120].max()


def test_the_seed_decides_and_chunks_do_not():
    points = np.random.default_rng(4).normal(size=(700, 16)).astype(np.float32)
    points = normalised(points)
    prototypes, again = (find_prototypes(points, clusters=7, seed=5) for _ in range(2))
    assert (prototypes.centres == again.centres).all() and (prototypes.sizes == again.sizes).all()
    assert prototypes.sizes.sum() == 700
    assignment, distance = prototypes.measure(points)
    parts = [prototypes.measure(points[start : start + 90]) for start in range(0, 700, 90)]
    assert (np.concatenate([part[0] for part in parts]) == assignment).all()
    assert (np.concatenate([part[1] for part in parts]) == distance).all()


def test_centres_from_a_sample_are_as_good_as_from_all(monkeypatch):
    points = clusters_of(np.random.default_rng(5), sizes=[200] * 9, noise=0.6)
    full = inertia(points, fit_centres(points, clusters=9, seed=1))
    monkeypatch.setattr(clustering, "SEED_POINTS", 300)
    assert inertia(points, fit_centres(points, clusters=9, seed=1)) < 1.01 * full


def test_inertia_is_that_of_scikit_learn():
    cluster = pytest.importorskip("sklearn.cluster")
    rng = np.random.default_rng(6)
    points = np.concatenate([clusters_of(rng, sizes=[80] * 12, noise=0.9), clusters_of(rng, sizes=[1] * 40)])
    theirs = cluster.KMeans(12, init="k-means++", n_init=1, max_iter=20, random_state=0).fit(points).inertia_
    assert inertia(points, fit_centres(points, clusters=12, seed=0)) < 1.01 * theirs


@pytest.mark.parametrize("count, clusters", [(3, 10), (1, 1), (1, 4), (20, 4)])
def test_few_points_and_equal_points(count, clusters):
    distance = distances(np.tile(np.eye(4, dtype=np.float32)[:1], (count, 1)), clusters=clusters)
    assert np.allclose(distance, 0, atol=1e-6)


def test_k_grows_with_the_number_of_crops_up_to_its_limit():
    k = [num_clusters(n, images_per_cluster=50, max_clusters=32) for n in (0, 49, 100, 1_600, 1_000_000)]
    assert k == [1, 1, 2, 32, 32]


def test_the_bench_measures_labels_as_the_stages_write_them():
    crops, k, _, _, _, inertia, *rest = bench.measure(300, width=16, clusters=4, repeats=1).split()
    assert (crops, k) == ("300", "4") and len(rest) == 5
    assert float(inertia) == pytest.approx(1, abs=0.1)
