"""The end of a run: an exit code, and at most one line about an error.

0: done. 1: failed; the line names the stage, the cause and the log. 2: a user's mistake (a `ValueError`), whether it
was raised in this process, a task, an actor or a training worker. 130: Ctrl-C.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import fsspec

from ram_ray.runtime import cluster, own_cluster, screen, storage

logger = logging.getLogger(__name__)

_WRAPPERS = ("UserCodeException", "RayDataUserCodeException", "SystemException")  # of Ray Data
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
MAX_CAUSE_CHARS = 400  # of the cause in the line about an error
MAX_LOG_BYTES = 20_000_000  # a larger log of Ray is not copied


class RemoteError(Exception):
    """Type and text of a worker's exception, if Ray passed on only its text."""


def run(
    work: Callable[[], int | None], *, name: str, folder: str | None, stage: Callable[[], str | None] = lambda: None
) -> int:
    """Call `work` with its output in a log, end the cluster, and return the exit code.

    Args:
        work: function of the job; it returns an exit code, None for 0.
        name: name of the job, for the log's name and for errors outside a stage.
        folder: a path or URI whose `logs/` gets the log; None: a folder for temporary files.
        stage: function that returns the stage that was running when the work failed.

    Returns:
        The exit code of the job; 2 if no log can be written.
    """
    local = folder is not None and "://" not in folder
    logs = Path(folder or "") / "logs" if local else Path(tempfile.gettempdir()) / f"ram_ray-{os.getuid()}" / "logs"
    log = logs / screen.log_name(name)
    code = 1
    try:
        with screen.logged(log):
            try:
                code = _attempt(work, name=name, folder=folder, stage=stage, log=log)
            finally:
                if code == 1:
                    copy_ray_logs(log.with_suffix(".ray"))
                cluster.stop()
    except ValueError as error:  # no log can be written
        with screen.shown():
            logger.error("%s", error)
        return 2
    if folder is not None and not local:
        _upload(log, f"{folder.rstrip('/')}/logs/{log.name}")
    return code


def _attempt(
    work: Callable[[], int | None], *, name: str, folder: str | None, stage: Callable[[], str | None], log: Path
) -> int:
    try:
        return work() or 0
    except KeyboardInterrupt:
        logger.info("stopped: %s; the same command goes on from here", stage() or name)
        return 130
    except Exception as error:
        cause = find_cause(error)
        is_mistake = isinstance(cause, ValueError)
        if is_mistake and cause is error:
            text = describe(cause)
        else:  # a ValueError of a worker may be an error of the code, and the log says where
            text = _failure(cause, stage() or name, log, folder=None if is_mistake else folder)
        logger.error("%s", text, exc_info=error)  # the traceback is in the log alone
        return 2 if is_mistake else 1


def _failure(cause: BaseException, where: str, log: Path, *, folder: str | None) -> str:
    return f"{where}: {storage.explain_full(cause, folder=folder) or describe(cause)}; log: {log}"


def find_cause(error: BaseException) -> BaseException:
    """Find the exception that our code or the storage raised first, inside Ray's wrappers.

    Args:
        error: exception as Ray raised it.

    Returns:
        The first cause; `error` itself if nothing wraps it.
    """
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        error = _unwrap(error) or error
    return error


def describe(error: BaseException) -> str:
    """Describe an exception in one line.

    Args:
        error: the exception, see `find_cause`.

    Returns:
        Its type and message, at most `MAX_CAUSE_CHARS` characters; the message alone for a `ValueError`.
    """
    text = " ".join(_COLOUR.sub("", str(error)).split())
    kind = "" if isinstance(error, (ValueError, RemoteError)) and text else type(error).__name__
    line = ": ".join(part for part in (kind, text) if part)
    return line if len(line) <= MAX_CAUSE_CHARS else f"{line[: MAX_CAUSE_CHARS - 1]}…"


def _unwrap(error: BaseException) -> BaseException | None:
    failures = getattr(error, "worker_failures", None)  # ray.train.WorkerGroupError
    if failures:
        # After an error of one worker the others lose their peer: the cause is the first error that is not about peers.
        causes = [find_cause(failures[rank]) for rank in sorted(failures)]
        return min(causes, key=_is_about_a_peer)
    if getattr(error, "actor_init_failed", False):  # the exception of its constructor is passed as text
        return _from_text(str(error))
    for name in ("controller_failure", "cause"):  # ray.train.ControllerError, RayTaskError
        inner = getattr(error, name, None)
        if isinstance(inner, BaseException):
            lost = type(inner).__name__ in _WRAPPERS and inner.__cause__ is None
            return _from_text(str(error)) if lost else inner
    return error.__cause__ if type(error).__name__ in _WRAPPERS else None


def _from_text(text: str) -> BaseException | None:
    """The exception that a traceback begins with; the exceptions that it caused follow it."""
    block = _COLOUR.sub("", text).split("\nThe above exception was the direct cause")[0].strip()
    kind, _, text = block.rpartition("\n")[2].partition(": ")
    if not kind:
        return None
    return ValueError(text) if kind == "ValueError" else RemoteError(f"{kind}: {text}" if text else kind)


def _is_about_a_peer(error: BaseException) -> bool:
    text = str(error)
    return any(word in text for word in ("Connection closed by peer", "Connection reset by peer", "gloo", "NCCL"))


def copy_ray_logs(folder: Path) -> None:
    """Copy the logs of Ray's processes beside the run's log: a private cluster removes them when it ends.

    Args:
        folder: folder for the copies.
    """
    source = own_cluster.logs_folder()
    if source is None:
        return

    def skipped(parent: str, names: list[str]) -> set[str]:
        paths = {name: Path(parent) / name for name in names}
        return {name for name, path in paths.items() if path.is_file() and path.stat().st_size > MAX_LOG_BYTES}

    with contextlib.suppress(OSError, shutil.Error):  # a second failure must not hide the first
        shutil.copytree(source, folder, ignore=skipped, dirs_exist_ok=True)


def _upload(log: Path, uri: str) -> None:
    try:
        fs, path = fsspec.url_to_fs(uri)
        fs.put_file(str(log), path)
    except Exception:  # the storage itself may have failed; the local file stays
        return
