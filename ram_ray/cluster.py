"""Joining or starting Ray: the one place that calls `ray.init`.

Inside a submitted job, or where RAY_ADDRESS names a cluster, the run joins it. Otherwise it starts a cluster
of its own in this process, with token authentication off: nothing of it is reachable but from this machine.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

SETTINGS = {
    "RAY_AUTH_MODE": "disabled",  # otherwise a token is written to the user's home folder
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # otherwise a worker's lines appear twice
    "RAY_idle_worker_killing_time_threshold_ms": "300000",  # a new worker costs seconds of imports; stages are short
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


def start(*, num_cpus: int | None = None, object_store_gb: float | None = None) -> None:
    """Join the cluster that the environment names, or start one; nothing if this process already has one.

    One's own cluster counts two CPUs at least: with a single one, an actor would keep Ray Data's filter of finished
    rows, which asks for a whole CPU, waiting for ever.
    """
    import ray

    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.WARNING)
    else:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        from ray._private.utils import get_num_cpus  # Ray's own count, containers' limits included

        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or every worker compiles what it imports, for seconds
        ray.init(
            address="local",
            num_cpus=max(2, num_cpus or int(get_num_cpus())),
            object_store_memory=int(object_store_gb * 1e9) if object_store_gb else None,
            include_dashboard=True,  # Ray Train asks its State API whether the controller lives
            dashboard_host="127.0.0.1",
            logging_level=logging.WARNING,
        )
    configure_data()


class Pause:
    """A short sleep after every round of Ray Data's scheduling loop, nine times as long as the round kept a core busy.

    The loop does not wait while finished blocks lie unread: beside a trainer that is slower than its feed it spins,
    in the trainer's own process, and holds the interpreter that the training needs; beside a parser it takes half of
    a core.
    """

    SHORTEST, LONGEST = 0.01, 0.1  # seconds

    def __init__(self) -> None:
        self._busy = 0.0

    def before_execution_starts(self, executor: Any) -> None:
        """Nothing to do."""

    def on_execution_step(self, executor: Any) -> None:
        """Let others run."""
        busy = time.thread_time()
        time.sleep(min(self.LONGEST, max(self.SHORTEST, 9 * (busy - self._busy))))
        self._busy = busy

    def after_execution_succeeds(self, executor: Any) -> None:
        """Nothing to do."""

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        """Nothing to do."""


def configure_data() -> None:
    """Ray Data settings of this process: its own progress off (see `progress`), order kept, so runs repeat."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.autoscaling_config.actor_pool_util_downscaling_threshold = 0.0  # a model takes longer to load than a lull
    context.use_datasource_v2 = False  # its extra listing operator takes a whole CPU, half of a small machine
    context.custom_execution_callback_classes = [Pause]  # type: ignore[list-item]
    context.issue_detectors_config.detectors = []  # advice about memory requests, every 30 seconds
    logging.getLogger("ray.data").setLevel(logging.ERROR)
