"""What a person sees of a run, and the log that holds the rest.

A run prints its own lines: what a stage left, how far it is, and at most one line about an error. All else that comes
out of its processes (Ray's messages, warnings, what workers print, tracebacks) goes to a log file: for the length of
the run, `logged` lets the file descriptors 1 and 2 point there, so C++ is caught as well as Python. `print_line`
writes to both. In a worker it hands the line to the run's process, through the actor that counts progress.
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
    """Print a line of the run on its standard output and into its log; from a worker too."""
    from ram_ray.runtime.progress_actor import send_line

    if _terminal is None and send_line(text):
        return
    write_line(text)


def write_line(text: str) -> None:
    """Print a line in this process, whichever it is."""
    _write(0, text)


def print_error(text: str) -> None:
    """Print a line on standard error and into the log."""
    _write(1, text)


def log_path() -> Path | None:
    """The log of the run in this process, if it has one."""
    return _log


@contextlib.contextmanager
def logged(path: Path) -> Iterator[None]:
    """Inside, everything that is printed goes to the file `path`, and `print_line` to the screen too.

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
        for number in (1, 2):  # what a full disk could not take does not come to the screen instead
            os.dup2(nowhere, number)
        _flush()
        os.close(nowhere)
        terminal, _terminal, _log = _terminal, None, None
        for number, stream in enumerate(terminal, start=1):
            os.dup2(stream.fileno(), number)
            with contextlib.suppress(OSError):
                stream.close()


def log_name(name: str) -> str:
    """A file name for the log of one run: its time, what it does, and its process."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{name}-{os.getpid()}.log"


def _write(number: int, text: str) -> None:
    own = (sys.stdout, sys.stderr)[number]
    if _terminal is None:
        print(text, file=own, flush=True)
        return
    for stream in (own, _terminal[number]):
        with contextlib.suppress(OSError):  # the log's disk is full, or the reader is gone: the other has the line
            print(text, file=stream, flush=True)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
