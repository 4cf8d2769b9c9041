"""All that the package takes from Ray beside its public API: private modules, switches, names of files.

Public names change with notice, these without. So they are all here, each in a function that says what the public API
lacks, and `check_version` warns when another Ray is installed than the one that this file was written for. When Ray is
upgraded, read this file against the new version and set `WRITTEN_FOR`; a test holds it to the pin in constraints.txt,
and another finds private names that are used elsewhere.

Nothing here imports Ray before a function is called.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ram_ray.runtime.versions import warn_if_other

if TYPE_CHECKING:
    from ray.data import DataContext

WRITTEN_FOR = "2.60.0"
LOOPBACK = "127.0.0.1"

# Switches of a cluster of our own. Ray reads them from the environment alone, when it is imported or started; a value
# that the user has set stays.
SWITCHES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon the end of a training is seen
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # otherwise a worker's lines appear twice
    "RAY_idle_worker_killing_time_threshold_ms": "300000",  # a new worker costs seconds of imports; stages are short
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def check_version() -> None:
    """Log a warning, once a process, if the installed Ray is not the one that this file was written for."""
    warn_if_other("ray", written_for=WRITTEN_FOR, module=__name__)


def start_private_cluster(
    *, folder: Path, port: int, num_cpus: int, object_store_bytes: int | None, dashboard: bool
) -> None:
    """Start Ray in this process, on the loopback address, with a token that only Ray's own processes have.

    Missing in the public API of 2.60: arguments of `ray.init` for the folder of a session (`_temp_dir` is private), for
    the authentication token, for the port of the cluster's server and for the address to listen on. All but the first
    are read from the environment, some of them when Ray is imported.

    Args:
        folder: for sockets, logs and spilled objects; Ray makes `ray` in it, readable by all.
        port: a free one, of the cluster's server (GCS).
        num_cpus: of the cluster.
        object_store_bytes: None: Ray's own choice.
        dashboard: whether to start it; Ray Train asks its State API whether the controller lives.
    """
    import ray

    with _environment(_secrets(port)):
        ray.init(
            address="local",
            num_cpus=num_cpus,
            object_store_memory=object_store_bytes,
            include_dashboard=dashboard,
            dashboard_host=LOOPBACK,
            logging_level=logging.WARNING,
            _temp_dir=str(folder / "ray"),
        )


def session_logs(folder: Path) -> Path:
    """Where the processes of a cluster write their logs, given the `folder` of `start_private_cluster`.

    Missing in the public API of 2.60: the session's folder; its layout is documented for people only.
    """
    return folder / "ray" / "session_latest" / "logs"


def forget_token() -> None:
    """Have Ray read mode and token from the environment again.

    Missing in the public API of 2.60: a way to connect to another cluster, with another token, in one process. Ray
    keeps the first token for the life of the process.
    """
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def count_cpus() -> int:
    """CPUs of this machine as Ray counts them, containers' limits included; 0 for less than one.

    Missing in the public API of 2.60: the count before a cluster is started.
    """
    from ray._private.utils import get_num_cpus

    return int(get_num_cpus())


def autoscaler_command(gcs_address: str) -> list[str] | None:
    """The command line of a cluster's autoscaler process; None where it does not run on this node.

    Missing in the public API of 2.60: the node types that an autoscaler may start. Its process is Ray's `monitor.py`,
    and the configuration's path stands in its command line.

    Args:
        gcs_address: of the cluster, as `ray.get_runtime_context` gives it.
    """
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(part.endswith("monitor.py") for part in command) and f"--gcs-address={gcs_address}" in command:
            return command
    return None


class SchedulingPause:
    """A short sleep after every round of Ray Data's scheduling loop, nine times as long as the round kept a core busy.

    The loop does not wait while finished blocks lie unread: beside a trainer that is slower than its feed it spins,
    in the trainer's own process, and holds the interpreter that the training needs; beside a parser it takes half of
    a core.

    Missing in the public API of 2.60: the length of a round. The methods are those of `ExecutionCallback`, a class of
    `ray.data._internal.execution`.
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


def tune_data(context: DataContext) -> None:
    """Set what Ray Data offers for its own developers alone.

    Missing in the public API of 2.60: stable names for these fields of `DataContext`, whose types are private classes,
    and a switch for the messages of the logger `ray.data`.

    Args:
        context: of this process.
    """
    context.autoscaling_config.actor_pool_util_downscaling_threshold = 0.0  # a model takes longer to load than a lull
    context.use_datasource_v2 = False  # its extra listing operator takes a whole CPU, half of a small machine
    context.custom_execution_callback_classes = [SchedulingPause]  # type: ignore[list-item]
    context.issue_detectors_config.detectors = []  # advice about memory requests, every 30 seconds
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def silence_checkpoints() -> None:
    """Keep Ray Train from logging a line for each checkpoint; called in a training worker.

    Missing in the public API of 2.60: a level for messages of workers. `LoggingConfig` has one for the controller, and
    the logger is named by its file's path.
    """
    from ray.train.v2._internal.execution import context

    context.logger.setLevel(logging.WARNING)


def serve_port() -> int | None:
    """The HTTP port of the Ray Serve that runs on this process's cluster; None where none runs.

    Missing in the public API of 2.60: the HTTP options of a running Serve; `serve.status` does not tell them.
    """
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else client.http_config.port


def _secrets(port: int) -> dict[str, str]:
    """What Ray's processes must find in their environment, and no other process should."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # as `ray get-auth-token --generate` makes it
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's name for: take the loopback address for this node's own
        # Where workers find their cluster; they would look for one among the processes of the machine.
        "RAY_GCS_SERVER_PORT": str(port),
        "RAY_ADDRESS": f"{LOOPBACK}:{port}",
        # Training workers' own connections; they would take the address that the host's name stands for.
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """`values` in the environment, for Ray's processes to inherit, and taken out again after they have started."""
    from ray._private import ray_constants

    hidden = ("RAY_AUTH_TOKEN_PATH", *values)
    before = {name: os.environ.pop(name, None) for name in hidden}
    clusters, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False  # read when Ray was imported
    os.environ.update(values)
    forget_token()
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
