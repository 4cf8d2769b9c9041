"""Contract: pools leave room for the tasks that feed them; one machine is used whole unless its user says otherwise."""

from __future__ import annotations

import pytest

from ram_ray.cluster import fill_machine, machine_cpus, pool_size
from ram_ray.config import ResourcesConfig, load


def test_the_pool_leaves_room_for_the_read_tasks() -> None:
    many = ResourcesConfig(task_cpus=1, actor_cpus=1, actors=16)
    assert pool_size(many, cluster_cpus=2) == 1
    assert pool_size(many, cluster_cpus=64) == 16
    assert pool_size(ResourcesConfig(task_cpus=0.5, actor_cpus=0.5, actors=9), cluster_cpus=2) == 3
    assert pool_size(many, cluster_cpus=0) == 16  # nothing yet: the autoscaler brings it
    with pytest.raises(ValueError, match="resources.actor_cpus"):
        pool_size(many, cluster_cpus=1)


def test_one_machine_is_used_whole_where_nothing_else_is_asked_for() -> None:
    """Threads for all cores, and decoding beside the model; what a user sets stays, and nothing else changes it."""
    for config in (load(), load(sets=["data.max_pixels=1000000", "resources.object_store_gb=1.0"])):
        filled = fill_machine(config.resources, cpus=6)
        assert (filled.threads, filled.actors) == (6, 1) and filled.task_cpus < filled.actor_cpus
        assert pool_size(filled, cluster_cpus=2) == 1
    gpu = load(sets=["resources.actor_gpus=1"]).resources
    assert fill_machine(gpu, cpus=6).task_cpus == gpu.task_cpus, "a task without a GPU is its own operator anyway"
    assert fill_machine(load(sets=["resources.actors=2"]).resources, cpus=6).threads == 3
    assert fill_machine(load(sets=["resources.actors=4"]).resources, cpus=2).threads == 2, "one actor fits"
    assert fill_machine(load().resources, cpus=1).threads == 1
    own = load(sets=["resources.threads=1", "resources.task_cpus=1.0"]).resources
    assert fill_machine(own, cpus=6) == own
    assert machine_cpus() >= 1
