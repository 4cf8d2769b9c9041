"""Progress of a stage, and records of its workers, logged by the driver.

Tasks send the number of rows that they finished to an actor (`progress_actor`). The driver reads the sum and logs a
line every few seconds: rows done, rows a second and time left. Ray Data's own progress bars need a terminal and do not
know the number of rows in all.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ram_ray.runtime.progress_actor import Fields, get_answer, start_actor, this_job

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 10.0
LINE_SECONDS = 0.5  # a worker's line is printed after this time at the latest


class RowCount:
    """Adds up rows over the processes of the actor: a process that starts again counts from zero."""

    def __init__(self) -> None:
        self._earlier_rows = self._current_rows = 0

    def update(self, rows: int) -> int:
        """Set the count of the actor's present process.

        Args:
            rows: rows that the present process has counted.

        Returns:
            Rows that all its processes have counted.
        """
        if rows < self._current_rows:
            self._earlier_rows += self._current_rows
        self._current_rows = rows
        return self._earlier_rows + rows


def format_line(name: str, *, done: int, total: int, seconds: float) -> str:
    """Format a progress line: name, rows done of all rows, rows a second, time left.

    Args:
        name: name of the stage.
        done: rows that are done.
        total: rows in all; 0: not known.
        seconds: seconds since the start.

    Returns:
        The line.
    """
    rate = done / max(seconds, 1e-6)
    if not total:  # not known before the shards are read
        return f"{name}: {done:,} images, {rate:,.0f} images/s"
    if not done:
        return f"{name}: 0/{total:,} images"
    seconds_left = int(max(0, total - done) / rate)
    minutes, rest = divmod(seconds_left, 60)
    return f"{name}: {done:,}/{total:,} images, {rate:,.0f} images/s, {minutes}:{rest:02d} left"


@contextmanager
def progress(name: str, *, total: int) -> Iterator[Callable[[int], None]]:
    """Log progress lines until the block ends; the last says that all rows are done, unless there was no line yet.

    Args:
        name: name of the stage.
        total: rows in all; 0: not known.

    Yields:
        A function that tasks call with the number of rows that they finished.
    """
    actor = start_actor(*this_job())
    stage = f"{name}/{uuid.uuid4().hex}"  # a stage may run twice in one process
    stop = threading.Event()
    start = time.monotonic()
    count = RowCount()
    has_line = False

    def report() -> None:
        nonlocal has_line
        while not stop.wait(INTERVAL_SECONDS):
            rows = get_answer(actor.rows.remote(stage))
            if rows is not None:
                done, has_line = count.update(rows), True
                logger.info("%s", format_line(name, done=done, total=total, seconds=time.monotonic() - start))

    def add(rows: int) -> None:
        actor.add.remote(stage, rows)

    with _thread(report, stop):
        yield add
    if has_line and total:  # what tasks sent last, or again, is not waited for
        logger.info("%s: %s/%s images", name, f"{total:,}", f"{total:,}")


@contextmanager
def worker_lines() -> Iterator[None]:
    """Log in this process what tasks, actors and training workers send it (`worker_log`), with their loggers."""
    actor = start_actor(*this_job())
    stop = threading.Event()

    def log_records(*, more: bool) -> None:
        records: list[Fields] = get_answer(actor.take_records.remote(more=more)) or []
        for fields in records:
            record = logging.makeLogRecord(fields)
            workers_logger = logging.getLogger(record.name)
            if workers_logger.isEnabledFor(record.levelno):
                workers_logger.handle(record)

    def follow() -> None:
        while not stop.wait(LINE_SECONDS):
            log_records(more=True)

    log_records(more=True)
    with _thread(follow, stop):
        yield
    log_records(more=False)


@contextmanager
def _thread(work: Callable[[], None], stop: threading.Event) -> Iterator[None]:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
