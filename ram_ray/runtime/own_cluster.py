"""A private Ray cluster: no other user and no other machine can join it, call it or read its files.

- Every Ray process listens on the loopback address only, so no other machine reaches it.
- Ray's token authentication is on. The random token is in the environment of Ray's processes and in no file; a call
  without it is refused, over HTTP and gRPC.
- Sockets, logs and spilled objects are in a folder of mode 0700, which is removed at the end.

Not covered: a process of the same user can read that environment, and Ray's counters for Prometheus can be read over
loopback without the token. During training, torch's rendezvous store listens on every address; no code or data is in
it. Ray's processes end with this process. The next run removes the folder of a killed run, whose lock is then free.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import random
import shutil
import socket
import tempfile
import time
from pathlib import Path

from ram_ray.runtime import ray_internals
from ram_ray.runtime.ray_internals import LOOPBACK

PREFIX = "ramray-"
PORTS = range(20000, 32768)
PORT_ATTEMPTS = 100
_MAX_FOLDER_CHARS = 18  # of the folder for temporary files: the path of a socket has at most 107 characters
_REMOVE_SECONDS = 10.0  # time that worker processes get to end after Ray

_folder: Path | None = None  # folder of the running cluster
_lock: int | None = None  # file descriptor of the folder's lock


def start(*, num_cpus: int, object_store_bytes: int | None, dashboard: bool) -> None:
    """Start a private cluster in this process.

    Args:
        num_cpus: CPUs of the cluster.
        object_store_bytes: size of the object store; None: Ray's default.
        dashboard: whether the dashboard is started; Ray Train needs it.
    """
    global _folder, _lock
    base = temporary_folder()
    remove_stale_folders(base)
    _folder, _lock = _make_folder(base)
    try:
        ray_internals.start_private_cluster(
            folder=_folder,
            port=free_port(),
            num_cpus=num_cpus,
            object_store_bytes=object_store_bytes,
            dashboard=dashboard,
        )
    except BaseException:
        stop()
        raise


def stop() -> None:
    """End the cluster that `start` started and remove its folder; no effect if there is none."""
    import ray

    global _folder, _lock
    if _folder is None:
        return
    ray.shutdown()
    folder, _folder = _folder, None
    deadline = time.monotonic() + _REMOVE_SECONDS
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)  # a worker that is still ending may write to its log
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    if _lock is not None:
        os.close(_lock)
        _lock = None
    ray_internals.forget_token()


def logs_folder() -> Path | None:
    """The folder with the logs of the running cluster's processes, or None."""
    return ray_internals.session_logs(_folder) if _folder else None


def temporary_folder() -> Path:
    """The folder for the cluster's folder: RAY_TMPDIR, TMPDIR or /tmp, the first that is short enough for a socket."""
    for name in (os.environ.get("RAY_TMPDIR"), tempfile.gettempdir()):
        if name and len(name) <= _MAX_FOLDER_CHARS:
            return Path(name)
    return Path("/tmp")


def remove_stale_folders(base: Path) -> None:
    """Remove the folders in `base` whose owner has ended."""
    for path in glob.glob(f"{base}/{PREFIX}*/lock"):
        try:
            descriptor = os.open(path, os.O_RDWR)
        except OSError:  # another user's, or just removed
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(Path(path).parent, ignore_errors=True)
        except OSError:  # its owner still runs
            pass
        finally:
            os.close(descriptor)


def _make_folder(base: Path) -> tuple[Path, int]:
    """A new folder of mode 0700, and the descriptor that holds its lock."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    unlocked = folder / "new"
    descriptor = os.open(unlocked, os.O_RDWR | os.O_CREAT, 0o600)  # not inherited by programs that are started
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    unlocked.rename(folder / "lock")  # after it is locked, or another run would take the folder for stale
    return folder, descriptor


def free_port() -> int:
    """A port on the loopback address that nothing listens at.

    It is below the ports that the kernel gives to outgoing connections, of which Ray opens many: one of those could
    take it before its server does.

    Returns:
        A port of `PORTS`.

    Raises:
        OSError: if none is found in `PORT_ATTEMPTS` attempts.
    """
    for port in random.SystemRandom().sample(PORTS, PORT_ATTEMPTS):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port
    raise OSError(f"no port from {PORTS[0]} to {PORTS[-1]} is free")
