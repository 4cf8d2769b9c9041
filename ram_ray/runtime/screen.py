"""The lines that a run prints on the terminal, and the log file that has all other output.

A run prints its own lines: the counts of a stage, its progress, and at most one line about an error. All other output
of its processes (Ray's messages, warnings, output of workers, tracebacks) goes to a log file: during the run, `logged`
redirects the file descriptors 1 and 2 to it, so that output of C++ goes there as well as Python's. `print_line` writes
to both. In a worker it sends the line to the run's process, through the actor that counts progress.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

_terminal: tuple[TextIO, TextIO] | None = None  # standard output and error as they were, while a log is written
_log: Path | None = None


def print_line(text: str) -> None:
    """Print a line on the run's standard output and into its log; also from a worker."""
    from ram_ray.runtime.progress_actor import send_line

    if _terminal is None and send_line(text):
        return
    write_line(text)


def write_line(text: str) -> None:
    """Print a line on this process's standard output, and into the log if it has one."""
    _write(0, text)


def print_error(text: str) -> None:
    """Print a line on this process's standard error, and into the log if it has one."""
    _write(1, text)


def log_path() -> Path | None:
    """Path of the log of this process's run, or None."""
    return _log


@contextlib.contextmanager
def logged(path: Path) -> Iterator[None]:
    """Redirect all output of this process to a log file; only `print_line` and `print_error` also reach the terminal.

    Args:
        path: path of the log; it is appended to.

    Raises:
        ValueError: if the file cannot be written.
    """
    global _terminal, _log
    assert _terminal is None, "one log a process"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}; choose another --run folder") from None
    _flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    saved = (os.dup(1), os.dup(2))
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    _terminal, _log = (os.fdopen(saved[0], "w"), os.fdopen(saved[1], "w")), path
    try:
        yield
    finally:
        _flush()
        for number in (1, 2):  # what a full disk could not take must not reach the terminal now
            os.dup2(nowhere, number)
        _flush()
        os.close(nowhere)
        terminal, _terminal, _log = _terminal, None, None
        for number, stream in enumerate(terminal, start=1):
            os.dup2(stream.fileno(), number)
            with contextlib.suppress(OSError):
                stream.close()


def log_name(name: str) -> str:
    """Name the file of a log.

    Args:
        name: of the job.

    Returns:
        A file name of the time, the name of the job and the process id, which no other call has.
    """
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{name}-{os.getpid()}.log"


def _write(number: int, text: str) -> None:
    own = (sys.stdout, sys.stderr)[number]
    if _terminal is None:
        print(text, file=own, flush=True)
        return
    for stream in (own, _terminal[number]):
        with contextlib.suppress(
            OSError
        ):  # the log's disk is full, or the reader is gone: the other stream has the line
            print(text, file=stream, flush=True)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
