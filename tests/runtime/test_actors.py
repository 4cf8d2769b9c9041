"""Contract: the actors of a step leave CPUs to the tasks that feed it."""

from __future__ import annotations

import pytest

from ram_ray.config import load
from ram_ray.runtime.actors import model_actors
from ram_ray.settings.runtime import ResourcesConfig


def test_a_pool_of_actors_has_its_own_size_and_leaves_the_cpus_to_tasks() -> None:
    for actors, sizes in ((4, (1, 4)), ((2, 8), (2, 8))):
        options = model_actors(ResourcesConfig(actors=actors))
        assert (options["compute"].min_size, options["compute"].max_size) == sizes
        assert 0 < options["num_cpus"] * 8 < 1, "none would go to a head node that should hold none"
    for wrong in (0, (0, 1), (3, 2)):
        with pytest.raises(ValueError, match="actors"):
            ResourcesConfig(actors=wrong)
    assert load(sets=["resources.actors=[1, 3]"]).resources.most_actors == 3


def test_all_actors_work_where_decoded_images_fill_the_object_store(ray_cluster: None) -> None:
    """300 images of 288 px are 75 MB, and the cluster's object store 500 MB."""
    import os
    import time

    import numpy as np
    import ray.data

    class Model:
        def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            time.sleep(len(batch["pixels"]) / 300)
            return {"worker": np.full(len(batch["pixels"]), os.getpid())}

    def decode(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"pixels": np.zeros((len(batch["id"]), 288, 288, 3), np.uint8)}

    rows = ray.data.range(1500, override_num_blocks=5)
    pixels = rows.map_batches(decode, batch_size=64, num_cpus=0.75)
    answers = pixels.map_batches(Model, batch_size=64, **model_actors(ResourcesConfig(actors=2)))
    workers = [row["worker"] for row in answers.take_all()]
    shares = [workers.count(worker) / len(workers) for worker in set(workers)]
    assert len(workers) == 1500 and max(shares) < 0.8, shares
