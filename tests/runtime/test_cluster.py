"""Contract: all CPUs of a machine are used unless the user sets resources."""

from __future__ import annotations

import ray
import ray.experimental

from ram_ray.config import load
from ram_ray.runtime.cluster import machine_cpus, resources_for_machine


def test_one_machine_is_used_whole_where_nothing_else_is_asked_for() -> None:
    """Threads for all CPUs, and decoding beside the model; a field that the user sets is not changed."""
    for config in (load(), load(sets=["data.max_pixels=1000000", "resources.object_store_gb=1.0"])):
        filled = resources_for_machine(config.resources, cpus=6)
        assert (filled.threads, filled.actors, filled.task_cpus) == (6, 1, 0.5)
    assert resources_for_machine(load(sets=["resources.actors=2"]).resources, cpus=6).threads == 3
    assert resources_for_machine(load().resources, cpus=1).threads == 1
    own = load(sets=["resources.threads=1", "resources.task_cpus=1.0"]).resources
    assert resources_for_machine(own, cpus=6) == own
    assert machine_cpus() >= 1


def test_a_block_of_rows_lies_in_the_object_store_and_not_in_the_driver(ray_cluster: None) -> None:
    """Otherwise blocks that wait between the steps of a stage make the driver grow with the data."""
    block = ray.remote(lambda: bytes(50_000)).remote()
    ray.wait([block])
    (place,) = ray.experimental.get_object_locations([block]).values()
    assert place["node_ids"]
