"""A Ray cluster that this process alone uses: nobody else can join it, call it or read its files.

Three walls, each enough against most callers:

- every Ray process listens on the loopback address only, so no other machine reaches it;
- Ray's token authentication is on, with a random token that lives in the environment of Ray's processes and in no
  file; a call without it is refused, over HTTP and gRPC alike;
- sockets, logs and spilled objects are in a folder of mode 0700, which is removed at the end.

What is left: a process of the same user can read that environment, as it can read the user's files. The counters that
Ray exports for Prometheus are readable, over loopback, without the token. And while workers train, the store through
which torch lets them find each other listens on every address, as torch has it: no code and no data pass through it.

Ray's processes die with this one (Ray asks the kernel for it). A folder that a killed run has left is removed by the
next run: its owner holds a lock on a file in it, and the kernel frees the lock.
"""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path

from ram_ray.runtime import ray_internals
from ram_ray.runtime.ray_internals import LOOPBACK

PREFIX = "ramray-"
_LONGEST = 18  # characters of the folder for temporary files: a socket's path may have 107 in all
_REMOVE_SECONDS = 10.0  # that worker processes may take to end after Ray has

_folder: Path | None = None  # of the running cluster
_lock: int | None = None  # descriptor


def start(*, num_cpus: int, object_store_bytes: int | None, dashboard: bool) -> None:
    """Start Ray in this process, as the module says."""
    global _folder, _lock
    base = temporary_folder()
    remove_stale_folders(base)
    _folder, _lock = _make_folder(base)
    try:
        ray_internals.start_private_cluster(
            folder=_folder,
            port=_free_port(),
            num_cpus=num_cpus,
            object_store_bytes=object_store_bytes,
            dashboard=dashboard,
        )
    except BaseException:
        stop()
        raise


def stop() -> None:
    """End the cluster that `start` started and remove its folder; nothing if there is none."""
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


def is_running() -> bool:
    """Whether this process has started a cluster of its own that still runs."""
    return _folder is not None


def logs_folder() -> Path | None:
    """The folder with the logs of Ray's processes of the running cluster."""
    return ray_internals.session_logs(_folder) if _folder else None


def temporary_folder() -> Path:
    """Where the cluster's folder is made: RAY_TMPDIR, TMPDIR or /tmp, the first that is short enough for a socket."""
    for name in (os.environ.get("RAY_TMPDIR"), tempfile.gettempdir()):
        if name and len(name) <= _LONGEST:
            return Path(name)
    return Path("/tmp")


def remove_stale_folders(base: Path) -> None:
    """Remove the folders in `base` whose owner is gone."""
    for path in glob.glob(f"{base}/{PREFIX}*/lock"):
        try:
            descriptor = os.open(path, os.O_RDWR)
        except OSError:  # another user's, or just removed
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(Path(path).parent, ignore_errors=True)
        except OSError:  # its owner lives
            pass
        finally:
            os.close(descriptor)


def _make_folder(base: Path) -> tuple[Path, int]:
    """A new folder of mode 0700, and the descriptor that holds its lock."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    unlocked = folder / "new"
    descriptor = os.open(unlocked, os.O_RDWR | os.O_CREAT, 0o600)  # not inherited by programs that are started
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    unlocked.rename(folder / "lock")  # not before it is locked, or another run would take it for stale
    return folder, descriptor


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
