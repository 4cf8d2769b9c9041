"""Joining or starting Ray, and how much of a machine is used.

Inside a submitted job, or where RAY_ADDRESS names a cluster, the run joins it. Otherwise it starts a cluster of its
own in this process, which nobody else can use (`own_cluster`).
"""

from __future__ import annotations

import atexit
import logging
import os
from typing import Any

from ram_ray.runtime import own_cluster, ray_internals, storage
from ram_ray.settings.runtime import ResourcesConfig

SETTINGS = {
    **ray_internals.SWITCHES,
    "TOKENIZERS_PARALLELISM": "false",
    # Ray's processes have dozens of threads, and what each thread's arena keeps, glibc's or Arrow's, only grows.
    "MALLOC_ARENA_MAX": "2",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}


def start(*, num_cpus: int | None = None, object_store_gb: float | None = None, dashboard: bool = True) -> None:
    """Join the cluster that the environment names, or start one; nothing if this process already has one.

    Args:
        num_cpus: of one's own cluster; None: as many as the machine has; two at least.
        object_store_gb: size of the object store of one's own cluster, in 10^9 bytes; None: Ray's default.
        dashboard: of one's own cluster; ten processes. Ray Train needs it, Ray Data does not.
    """
    import ray

    if ray.is_initialized():
        return
    ray_internals.check_version()
    if joins():
        ray.init(logging_level=logging.WARNING)
    else:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or every worker compiles what it imports, for seconds
        atexit.register(stop)  # before Ray's own, which leaves the folder
        own_cluster.start(
            num_cpus=own_cpus(num_cpus),
            object_store_bytes=int(object_store_gb * 1e9) if object_store_gb else None,
            dashboard=dashboard,
        )
    configure_data()


def joins() -> bool:
    """Whether `start` joins a cluster that is there already."""
    return bool(os.environ.get("RAY_ADDRESS"))


def stop() -> None:
    """Leave the cluster; one of our own ends, and nothing of it stays."""
    import ray

    own_cluster.stop()
    ray.shutdown()


def own_cpus(num_cpus: int | None) -> int:
    """CPUs of a cluster of one's own, where `num_cpus` are asked for, or as many as the machine has.

    It has two at least: with a single one, an actor would keep Ray Data's filter of finished rows, which asks for a
    whole CPU, waiting for ever.
    """
    return max(2, num_cpus or machine_cpus())


def machine_cpus() -> int:
    """CPUs of this machine, at least one, as Ray counts them: containers' limits included."""
    return max(1, ray_internals.count_cpus())


def fill_machine(resources: ResourcesConfig, *, cpus: int) -> ResourcesConfig:
    """Resources for models on the cores of one machine, where the configuration does not say what it wants.

    The threads of the actors share the cores; pictures are decoded by several tasks beside them.

    Args:
        resources: as the user set them.
        cpus: of the machine.
    """
    wanted: dict[str, Any] = {"task_cpus": 0.5, "threads": max(1, cpus // resources.most_actors)}
    return resources.model_copy(
        update={name: value for name, value in wanted.items() if name not in resources.model_fields_set}
    )


def configure_data() -> None:
    """Ray Data settings of this process: its own progress off (see `progress`), order kept, so runs repeat."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.retried_map_errors, context.max_map_retries = list(storage.TRANSIENT), 4  # what read or wrote for us
    context.retried_io_errors = [*context.retried_io_errors, *storage.TRANSIENT]  # and Ray's own reads and writes
    ray_internals.tune_data(context)
