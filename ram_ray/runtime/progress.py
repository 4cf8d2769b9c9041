"""Progress of a stage, and records of its workers, logged by the driver.

Tasks send the number of rows that they finished to an actor (`progress_actor`). The driver reads the sum and logs a
line every few seconds: rows done, rows a second, time left, and the operator that the others wait for. Ray Data's own
progress bars need a terminal and do not know the number of rows in all. The same numbers are metrics (`metrics`).
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ram_ray.runtime import usage
from ram_ray.runtime.execution_watch import slowest_operator
from ram_ray.runtime.metrics import RATE, ROWS, Labels, count, labels, set_gauge
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


def format_line(name: str, *, done: int, total: int, seconds: float, slowest: str | None = None) -> str:
    """Format a progress line: name, rows done of all rows, rows a second, time left, the slowest operator.

    Args:
        name: name of the stage.
        done: rows that are done.
        total: rows in all; 0: not known.
        seconds: seconds since the start.
        slowest: the operator that the others wait for, see `slowest_operator`; None: not known.

    Returns:
        The line.
    """
    rate = done / max(seconds, 1e-6)
    end = f"; slowest: {slowest}" if slowest else ""
    if not total:  # not known before the shards are read
        return f"{name}: {done:,} images, {rate:,.0f} images/s{end}"
    if not done:
        return f"{name}: 0/{total:,} images{end}"
    left = format_duration(max(0, total - done) / rate)
    return f"{name}: {done:,}/{total:,} images, {rate:,.0f} images/s, {left} left{end}"


def format_duration(seconds: float) -> str:
    """Format seconds as M:SS, or from an hour on as H:MM:SS.

    Args:
        seconds: 0 or more.

    Returns:
        The text.
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


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
    row_count = RowCount()
    has_line = False
    of_metrics = Labels(labels().run, name)

    def report() -> None:
        nonlocal has_line
        while not stop.wait(INTERVAL_SECONDS):
            rows = get_answer(actor.rows.remote(stage))
            if rows is not None:
                done, has_line, seconds = row_count.update(rows), True, time.monotonic() - start
                line = format_line(name, done=done, total=total, seconds=seconds, slowest=slowest_operator())
                logger.info("%s", line)
                set_gauge(RATE, done / seconds, of_metrics)
        if has_line:
            set_gauge(RATE, 0, of_metrics)

    def add(rows: int) -> None:
        actor.add.remote(stage, rows)
        count(ROWS, rows, stage=of_metrics)

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
            usage.follow_nodes()

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
