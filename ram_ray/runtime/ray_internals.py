"""Everything that the package uses of Ray outside its public API: private modules, switches, names of files.

Public names change with notice, private names without. So they are all in this file and, those of Ray Data, in
`ray_data_internals`, each in a function whose docstring says what the public API lacks, and `check_version` warns if
another Ray is installed than these files were written for. When Ray is upgraded, check them against the new version and
set `WRITTEN_FOR`; a test compares it with the pin in constraints.txt, and another test finds private names that are
used elsewhere.

Ray is not imported before a function is called.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ram_ray.runtime.versions import warn_if_other_version

WRITTEN_FOR = "2.60.0"
LOOPBACK = "127.0.0.1"

# Switches of a private cluster. Ray reads them only from the environment, when it is imported or started; a value that
# the user has set is not changed.
SWITCHES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon the end of training is noticed
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # otherwise a worker's lines appear twice
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # nobody takes this machine's node away; a process less a training
    "RAY_idle_worker_killing_time_threshold_ms": "300000",  # a new worker costs seconds of imports; stages are short
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # The node's agent looks at each process for the dashboard, which nobody opens: a percent of a core.
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
    # Ray keeps results up to this size (by default 100 kB: a block of captions) in the memory of the driver, and not in
    # the object store: blocks that wait between the steps of a stage then make the driver grow with the data.
    "RAY_max_direct_call_object_size": "10240",
    # Ray Data's plans refer to themselves, and to blocks: only Python's garbage collector lets go of them, and Ray asks
    # for it every 90 minutes by default. Until then a finished stage's nodes are not idle: no autoscaler removes them.
    "RAY_local_gc_interval_s": "60",
    # Ray Serve: our code shares the replica's event loop, which it never blocks: models and decoding have threads of
    # their own. A request then does not change threads.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
}


# Those of a private cluster that serves over HTTP, in place of the same above.
SERVING_SWITCHES = {
    # Requests and batches travel in the calls themselves: through the object store each would cost a millisecond.
    "RAY_max_direct_call_object_size": "1048576",
    # Ray's workers give way to every other process of the machine, by default with 15: then clients of a busy machine,
    # whatever runs beside the server, and even the server's own C++ processes come before its answers.
    "RAY_worker_niceness": "0",
}
# Those of Serve's controller, which also a cluster that is joined may lack.
CONTROLLER_SWITCHES = {
    # The controller looks at what is and what should be four times a second; ten times took 4% of a core.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.25",
    # A proxy that died is noticed after three checks: within 3 seconds, and not 30. A busy one still has 10 to answer.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    # On a busy machine a proxy imports for longer than the default of 5 seconds, and would be killed again and again.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
}
_PROXY_CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"


def check_version() -> None:
    """Log a warning, once a process, if the installed Ray is not the version that this file was written for."""
    warn_if_other_version("ray", written_for=WRITTEN_FOR, module=__name__)


def start_private_cluster(
    *, folder: Path, port: int, num_cpus: int, object_store_bytes: int | None, dashboard: bool
) -> None:
    """Start Ray in this process, on the loopback address, with a token that only Ray's own processes have.

    Missing in the public API of 2.60: arguments of `ray.init` for the folder of a session (`_temp_dir` is private), for
    the authentication token, for the port of the cluster's server and for the address to listen on. All but the first
    are read from the environment, some of them when Ray is imported.

    Args:
        folder: folder for sockets, logs and spilled objects; Ray makes `ray` in it, readable by all.
        port: a free port, for the cluster's server (GCS).
        num_cpus: CPUs of the cluster.
        object_store_bytes: size of the object store; None: Ray's default.
        dashboard: whether the dashboard is started; Ray Train needs its State API.
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
    """The folder in which the processes of a cluster write their logs.

    Missing in the public API of 2.60: the session's folder; its layout is documented, but no function returns it.

    Args:
        folder: `folder` of `start_private_cluster`.

    Returns:
        The folder of the logs.
    """
    return folder / "ray" / "session_latest" / "logs"


def forget_token() -> None:
    """Let Ray read the authentication mode and the token from the environment again.

    Missing in the public API of 2.60: a way to connect to another cluster, with another token, in one process. Ray
    keeps the first token for the life of the process.
    """
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def count_cpus() -> int:
    """CPUs of this machine as Ray counts them, containers' limits included; 0 for less than 1.

    Missing in the public API of 2.60: the count before a cluster is started.
    """
    from ray._private.utils import get_num_cpus

    return int(get_num_cpus())


def autoscaler_command(gcs_address: str) -> list[str] | None:
    """Find the command line of a cluster's autoscaler process.

    Missing in the public API of 2.60: the node types that an autoscaler may start. Its process is Ray's `monitor.py`,
    and the path of the configuration is in its command line.

    Args:
        gcs_address: address of the cluster, as `ray.get_runtime_context` returns it.

    Returns:
        The arguments of the process; None if it does not run on this node.
    """
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(part.endswith("monitor.py") for part in command) and f"--gcs-address={gcs_address}" in command:
            return command
    return None


def silence_checkpoints() -> None:
    """Keep Ray Train from logging a line for each checkpoint; called in a training worker.

    Missing in the public API of 2.60: a level for messages of workers. `LoggingConfig` has one for the controller, and
    the logger is named by its file's path.
    """
    from ray.train.v2._internal.execution import context

    context.logger.setLevel(logging.WARNING)


def serve_port() -> int | None:
    """The HTTP port of Ray Serve on this process's cluster; None if Serve does not run.

    Missing in the public API of 2.60: the HTTP options of a running Serve; `serve.status` does not have them.
    """
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else client.http_config.port


def serving_switches(import_path: str) -> dict[str, str]:
    """Switches of a private cluster that serves over HTTP.

    Args:
        import_path: as of `proxy_callback`.

    Returns:
        Variables of the environment, in place of `SWITCHES` of the same names.
    """
    return {**SERVING_SWITCHES, **CONTROLLER_SWITCHES, _PROXY_CALLBACK: import_path}


def proxy_callback(import_path: str) -> dict[str, Any] | None:
    """Options of Serve's controller with which each HTTP server of Serve calls a function before it listens.

    Missing in the public API of 2.60: middleware of the proxy. `HTTPOptions.middlewares` was removed; what is left is
    this variable of the environment, which the controller's own processes inherit.

    Args:
        import_path: of a function that returns Starlette middlewares.

    Returns:
        `controller_options` of `serve.start`; None if the cluster has the variable already.
    """
    if os.environ.get(_PROXY_CALLBACK) == import_path:
        return None
    switches = {name: value for name, value in CONTROLLER_SWITCHES.items() if name not in os.environ}
    return {"runtime_env": {"env_vars": {**switches, _PROXY_CALLBACK: import_path}}}


def has_proxy_callback() -> bool:
    """Whether the processes of this node that listen for HTTP call a function first, as far as this process knows."""
    return bool(os.environ.get(_PROXY_CALLBACK))


def with_version(deployment: Any, version: str) -> Any:
    """Give a deployment a version: deployed again with the same one, only its `user_config` is passed to the replicas.

    Missing in the public API of 2.60: the version of a deployment that `serve.run` deploys. Without one it is random,
    so that each deployment replaces all replicas, one after another.

    Args:
        deployment: of `serve.deployment`.
        version: changes with all but the `user_config`.

    Returns:
        The deployment with the version.
    """
    return deployment.options(version=version, _internal=True)


def route_on_this_loop(handle: Any) -> None:
    """Let a handle of Ray Serve find its replicas on the running event loop, and not on one in a thread of its own.

    Each call then changes threads two times less. Before the handle's first call; it is then for this loop alone.

    Missing in the public API of 2.60: this choice for one handle. `RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP` is for all of
    a process, also for those that are called without an event loop.

    Args:
        handle: of a deployment.
    """
    if not handle.is_initialized:
        handle._init(_run_router_in_separate_loop=False)


def _secrets(port: int) -> dict[str, str]:
    """Environment variables for Ray's processes alone."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # as `ray get-auth-token --generate` makes it
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's name for: take the loopback address for this node's own
        # The cluster of the workers; without it they would search for one among the processes of the machine.
        "RAY_GCS_SERVER_PORT": str(port),
        "RAY_ADDRESS": f"{LOOPBACK}:{port}",
        # Connections between training workers; without it they would use the address of the host's name.
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set `values` in the environment while Ray's processes start and inherit them, and remove them afterwards."""
    from ray._private import ray_constants

    hidden = ("RAY_AUTH_TOKEN_PATH", *values)
    saved = {name: os.environ.pop(name, None) for name in hidden}
    clusters, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False  # read when Ray was imported
    os.environ.update(values)
    forget_token()
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters
        for name, value in saved.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
