"""What deciding on a label costs, and our k-means against scikit-learn's: one process, in turn, the same threads.

    python tests/bench/clustering.py [--sizes 500 5000 50000] [--width 512] [--threads 2] [--clusters K] [--repeats 3]

Embeddings are drawn: a label of 40 looks of unequal sizes, varying along common directions and by noise, and a
tenth that belongs nowhere. Our centres are compared with `sklearn.cluster.KMeans(init="k-means++", n_init=1)` at the
same k, twice: `same` makes at most as many iterations as ours (on the sample and on all points together), `default` as
many as it wants. Seeding is included in all, and the assignment that scikit-learn ends with in ours as well. A ratio is
its time over ours, or our inertia over its: the sum of squared distances to the nearest centre, computed here for all
alike. `decide` is the whole decision on the label: reading its rows, clusters, distances, evidence, removals and
samples. Times are medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def draw(count: int, *, width: int, seed: int = 0) -> np.ndarray:
    """Unit vectors (N, D) float32 of one label."""
    rng = np.random.default_rng(seed)
    looks, directions = rng.normal(size=(40, width)), rng.normal(size=(8, width))
    of = rng.choice(40, count, p=rng.dirichlet(np.ones(40)))
    points = looks[of] + 0.9 * rng.normal(size=(count, width))
    points += 0.5 * rng.normal(size=(count, 8)) @ directions
    strange = rng.random(count) < 0.1
    points[strange] = 1.4 * rng.normal(size=(int(strange.sum()), width))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def as_regions(points: np.ndarray) -> Any:
    """The regions of a label as the stage `regions` leaves it, with a tenth as many rows to compare with."""
    import pyarrow as pa

    from ram_ray.data_engine.crops import REGIONS

    count = len(points) + len(points) // 10
    rng = np.random.default_rng(1)
    positive = np.arange(count) < len(points)
    negatives = rng.normal(size=(count - len(points), points.shape[1]))
    negatives /= np.linalg.norm(negatives, axis=1, keepdims=True)
    probabilities = 1 / (1 + np.exp(-rng.normal(size=(2, count)) - 1.5 * positive))
    columns = {
        "key": [f"shard/{place:08d}" for place in range(count)],
        "shard": ["shard"] * count,
        "tag": np.full(count, 1),
        "positive": positive,
        "mentioned": positive,
        "confirmed": np.zeros(count, bool),
        "human": np.zeros(count, bool),
        "box": [[0.0, 0.0, 1.0, 1.0]] * count,
        "detected": np.ones(count, bool),
        "detector_score": np.full(count, 0.5),
        "image_score": probabilities[0],
        "region_score": probabilities[1],
        "predicted": probabilities[1] >= 0.5,
        "other_mentions": [[place % 7, place % 11] for place in range(count)],
        "embedding": [vector.tobytes() for vector in np.concatenate([points, negatives]).astype("<f2")],
    }
    return pa.table({name: columns[name] for name in REGIONS.names}).cast(REGIONS)


def nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The nearest of the centres (K, D) to each point, (N,)."""
    half = (centres**2).sum(axis=1) / 2
    return np.concatenate([(part @ centres.T - half).argmax(axis=1) for part in np.array_split(points, 16)])


def inertia(points: np.ndarray, centres: np.ndarray) -> float:
    """Sum of squared distances to the nearest centre."""
    return float(((points - centres[nearest(points, centres)]) ** 2).sum(dtype=np.float64))


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what the work gave."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def fits(points: np.ndarray, *, clusters: int, seed: int) -> dict[str, Callable[[], np.ndarray]]:
    """Ways to centres (K, D), each with the points assigned at the end."""
    from sklearn.cluster import KMeans

    from ram_ray.data_engine.clustering import ITERATIONS, SEED_ITERATIONS, fit_centres

    def ours() -> np.ndarray:
        centres = fit_centres(points, clusters=clusters, seed=seed)
        nearest(points, centres)
        return centres

    def theirs(**options: int) -> np.ndarray:
        model = KMeans(clusters, init="k-means++", n_init=1, random_state=seed, **options)
        return model.fit(points).cluster_centers_

    return {"ours": ours, "same": lambda: theirs(max_iter=SEED_ITERATIONS + ITERATIONS), "default": theirs}


def measure(count: int, *, width: int, clusters: int | None, repeats: int) -> str:
    """One line of the table."""
    from ram_ray.data_engine.clean import decide_removals
    from ram_ray.data_engine.clustering import num_clusters
    from ram_ray.data_engine.co_occurrence import TagCounts
    from ram_ray.settings.data_engine import CleanConfig

    config = CleanConfig()
    points = draw(count, width=width)
    k = clusters or num_clusters(count, images_per_cluster=config.images_per_cluster, max_clusters=config.max_clusters)
    rows = as_regions(points)
    counts = TagCounts(10 * count, {tag: count for tag in range(11)})
    seconds: dict[str, list[float]] = {"ours": [], "same": [], "default": [], "decide": []}
    ratios: dict[str, list[float]] = {"same": [], "default": []}
    for repeat in range(repeats):
        of: dict[str, float] = {}
        for name, fit in fits(points, clusters=k, seed=repeat).items():
            taken, centres = timed(fit)
            seconds[name].append(taken)
            of[name] = inertia(points, centres)
        for name, found in ratios.items():
            found.append(of["ours"] / of[name])
        seconds["decide"].append(
            timed(lambda repeat=repeat: decide_removals(rows, tag=1, config=config, counts=counts, seed=repeat))[0]
        )
    took = {name: statistics.median(times) for name, times in seconds.items()}
    cells = [f"{count:>8,} {k:>4} {took['ours']:>9.3f}"]
    for name, found in ratios.items():
        cells.append(f"{took[name]:>9.3f} {took[name] / took['ours']:>6.2f} {statistics.median(found):>8.4f}")
    return " ".join([*cells, f"{took['decide']:>10.3f} {1000 * took['decide'] / count:>10.4f}"])


def main() -> None:
    """Print a table, a line a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 5_000, 50_000])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2, help="of both")
    parser.add_argument("--clusters", type=int, help="k; without it, what the configuration gives for the size")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    # Without it scikit-learn counts cores by itself; read when its library is loaded, as FAISS's is.
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    import faiss
    import sklearn.cluster  # noqa: F401  the limit below holds for what is loaded
    from threadpoolctl import threadpool_limits

    faiss.omp_set_num_threads(options.threads)
    print("   crops    k  ours (s)  same (s)  ratio  inertia  default  ratio  inertia decide (s)  ms a crop")
    with threadpool_limits(options.threads):
        measure(100, width=options.width, clusters=4, repeats=1)  # imports and first calls are nobody's time
        for count in options.sizes:
            print(measure(count, width=options.width, clusters=options.clusters, repeats=options.repeats), flush=True)


if __name__ == "__main__":
    main()
