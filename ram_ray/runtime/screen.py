"""The terminal and the log file of a run, as handlers of Python's `logging`.

Code that says something calls the logger of its module. `shown` installs the handler that writes the records of ram_ray
to the terminal: INFO as plain lines on standard output, warnings and errors on standard error. During a run, `logged`
installs it together with a handler that writes the records of all loggers to the log file, with time, level and logger.
All other output of the run's processes (Ray's messages, output of workers, of C++) also goes to the log file: `logged`
redirects the file descriptors 1 and 2 to it. Records of workers come through `worker_log`.

A program that imports ram_ray without a run has ordinary logging: nothing is installed at import.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

PACKAGE = "ram_ray"  # the logger above those of all modules
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"  # of a record in a log file

_log: Path | None = None


class ScreenHandler(logging.Handler):
    """Writes records to the terminal as plain lines; an exception's traceback is left to the log file.

    Args:
        streams: standard output and standard error; None: those of `sys`.
    """

    def __init__(self, streams: tuple[TextIO, TextIO] | None = None) -> None:
        super().__init__(logging.INFO)
        self._streams = streams

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record.

        Args:
            record: INFO or above.
        """
        output, errors = self._streams or (sys.stdout, sys.stderr)
        stream = output if record.levelno < logging.WARNING else errors
        try:
            write_line(f"{_prefix(record)}{record.getMessage()}", stream)
        except OSError:  # the reader is gone; the log has the line
            pass
        except Exception:
            self.handleError(record)


class LogHandler(logging.Handler):
    """Writes records to the file descriptor 2, which is the log file during a run, as the output of C++ is."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record.

        Args:
            record: of any logger.
        """
        try:
            os.write(2, f"{self.format(record)}\n".encode(errors="backslashreplace"))
        except OSError:  # the log's disk is full
            pass
        except Exception:
            self.handleError(record)


def write_line(text: str, stream: TextIO) -> None:
    """Write a line at once.

    Args:
        text: the line.
        stream: where it goes.
    """
    stream.write(f"{text}\n")
    stream.flush()


def log_path() -> Path | None:
    """Path of the log of this process's run, or None."""
    return _log


@contextlib.contextmanager
def shown(streams: tuple[TextIO, TextIO] | None = None) -> Iterator[None]:
    """Show the records of ram_ray on the terminal, from INFO unless the logger has a level of its own.

    Args:
        streams: standard output and standard error; None: those of `sys`.
    """
    logger = logging.getLogger(PACKAGE)
    assert not any(isinstance(handler, ScreenHandler) for handler in logger.handlers), "one screen a process"
    handler, level = ScreenHandler(streams), logger.level
    logger.addHandler(handler)
    if level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


@contextlib.contextmanager
def logged(path: Path) -> Iterator[None]:
    """Redirect all output of this process to a log file; only the records of ram_ray also reach the terminal.

    Args:
        path: path of the log; it is appended to.

    Raises:
        ValueError: if the file cannot be written.
    """
    global _log
    assert _log is None, "one log a process"
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
    terminal = tuple(os.fdopen(number, "w", errors="backslashreplace") for number in saved)
    handler, _log = LogHandler(), path
    logging.getLogger().addHandler(handler)
    try:
        with shown((terminal[0], terminal[1])):
            yield
    finally:
        logging.getLogger().removeHandler(handler)
        _flush()
        for number in (1, 2):  # what a full disk could not take must not reach the terminal now
            os.dup2(nowhere, number)
        _flush()
        os.close(nowhere)
        _log = None
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


def _prefix(record: logging.LogRecord) -> str:
    if record.levelno >= logging.ERROR:
        return "error: "
    return "warning: " if record.levelno >= logging.WARNING else ""


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
