"""Actors that hold a model: the resources that a step asks Ray for, and how an actor loads its model."""

from __future__ import annotations

from typing import Any

from ram_ray.settings.runtime import Execution, ResourcesConfig


def model_actors(resources: ResourcesConfig) -> dict[str, Any]:
    """Options of Ray Data for a step that runs a model: a pool of actors that grows with the work and the cluster.

    Args:
        resources: resources of the run.

    Returns:
        Keyword arguments of `map_batches`.
    """
    import ray.data

    pool = ray.data.ActorPoolStrategy(min_size=resources.fewest_actors, max_size=resources.most_actors)
    return {"num_cpus": resources.actor_cpus, "num_gpus": resources.actor_gpus or None, "compute": pool}


def predictor_options(execution: Execution) -> dict[str, str | int | None]:
    """How an actor loads a model: in the run's precision, on the GPU or on the CPU with the configured threads.

    Args:
        execution: how the stages of the run are executed.

    Returns:
        Keyword arguments of the class that loads the model.
    """
    on_gpu = execution.resources.actor_gpus > 0
    return {
        "device": "cuda" if on_gpu else "cpu",
        "precision": execution.precision,
        "threads": None if on_gpu else execution.resources.threads,
    }
