"""Joining or starting Ray, and the resources that are used of a single machine.

Inside a submitted job, or where RAY_ADDRESS names a cluster, the run joins it. Otherwise it starts a private cluster
in this process (`own_cluster`).
"""

from __future__ import annotations

import atexit
import logging
import os

from ram_ray.runtime import metrics, own_cluster, ray_data_internals, ray_internals, storage
from ram_ray.runtime.execution_watch import ExecutionWatch
from ram_ray.settings.runtime import ResourcesConfig

ENVIRONMENT = {
    **ray_internals.SWITCHES,
    "TOKENIZERS_PARALLELISM": "false",
    # Ray's processes have dozens of threads, and the memory of each thread's arena, glibc's or Arrow's, only grows. And
    # only the first arena keeps what is freed (`allocator.keep_freed_memory`): models run in other threads than the
    # main one, where each layer waited for the kernel, for two thirds of the time.
    "MALLOC_ARENA_MAX": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}


def start(
    *,
    num_cpus: int | None = None,
    object_store_gb: float | None = None,
    dashboard: bool = True,
    http_callback: str | None = None,
) -> None:
    """Join the cluster that the environment names, or start a private cluster; no effect if Ray is initialised.

    Args:
        num_cpus: CPUs of a private cluster, at least two; None: the machine's.
        object_store_gb: size of the object store of a private cluster in 10^9 bytes; None: Ray's default.
        dashboard: whether a private cluster has a dashboard: ten processes, which Ray Train needs and Ray Data does
            not.
        http_callback: of a private cluster that is for HTTP alone: import path of the function that each process of Ray
            Serve calls before it listens (`ray_internals.proxy_callback`).
    """
    import ray

    if ray.is_initialized():
        return
    ray_internals.check_version()
    if joins_cluster():
        try:
            ray.init(logging_level=logging.WARNING)
        except ConnectionError as error:
            raise ConnectionError(
                f"{error}: is RAY_ADDRESS right, and does it run? If it asks for a token, set RAY_AUTH_MODE=token here "
                "too, with its token in the home folder or RAY_AUTH_TOKEN_PATH (docs/cluster.md)"
            ) from None
    else:
        switches = {**ENVIRONMENT, **ray_internals.serving_switches(http_callback)} if http_callback else ENVIRONMENT
        for name, value in switches.items():
            os.environ.setdefault(name, value)
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or every worker compiles what it imports, for seconds
        atexit.register(stop)  # before Ray's own handler, which does not remove the folder
        own_cluster.start(
            num_cpus=private_cluster_cpus(num_cpus),
            object_store_bytes=int(object_store_gb * 1e9) if object_store_gb else None,
            dashboard=dashboard,
        )
    configure_data()


def joins_cluster() -> bool:
    """Whether `start` joins an existing cluster."""
    return bool(os.environ.get("RAY_ADDRESS"))


def stop() -> None:
    """Leave the cluster; a private cluster is ended and its folder removed."""
    import ray

    metrics.forget()
    own_cluster.stop()
    ray.shutdown()


def private_cluster_cpus(num_cpus: int | None) -> int:
    """CPUs of a private cluster, at least two.

    With a single CPU, an actor would block Ray Data's filter of finished rows, which needs a whole CPU, for ever.

    Args:
        num_cpus: CPUs that the user asked for; None: the machine's.

    Returns:
        Number of CPUs.
    """
    return max(2, num_cpus or machine_cpus())


def machine_cpus() -> int:
    """CPUs of this machine, at least 1, as Ray counts them: containers' limits included."""
    return max(1, ray_internals.count_cpus())


def resources_for_machine(resources: ResourcesConfig, *, cpus: int) -> ResourcesConfig:
    """Choose resources for models on the CPUs of one machine, for all fields that the user did not set.

    The threads of the actors share the CPUs; several tasks decode images beside them.

    Args:
        resources: resources as the user set them.
        cpus: CPUs of the machine.

    Returns:
        The resources with `task_cpus` and `threads`.
    """
    wanted = {"task_cpus": 0.5, "threads": max(1, cpus // resources.most_actors)}
    return resources.model_copy(
        update={name: value for name, value in wanted.items() if name not in resources.model_fields_set}
    )


def configure_data() -> None:
    """Configure Ray Data in this process: no progress bars (see `progress`), rows in order, so that runs repeat."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.read_op_min_num_blocks = 1  # not 200 of 1 MB each: `rows.read_rows` makes blocks by their rows
    context.retried_map_errors, context.max_map_retries = list(storage.TRANSIENT), 4  # our functions
    context.retried_io_errors = [*context.retried_io_errors, *storage.TRANSIENT]  # and Ray's own reads and writes
    ray_data_internals.tune_data(context, callback=ExecutionWatch)
    metrics.share_labels()
