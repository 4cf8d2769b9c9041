"""What workers tell the process that runs a stage: rows done, and lines to print.

Tasks tell one small actor (`progress_actor`) how many rows they finished; the driver asks it for the sum and prints
rows done, rows a second and time left, one line every few seconds. Ray Data's own bars need a terminal and do not know
how many rows are to come.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ram_ray.runtime import screen
from ram_ray.runtime.progress_actor import ask, start_actor, this_job

INTERVAL_SECONDS = 10.0
LINE_SECONDS = 0.5  # a worker's line waits so long at most


class RowCount:
    """Adds up rows over the actor's processes: one that starts again counts from zero."""

    def __init__(self) -> None:
        self._before = self._now = 0

    def update(self, rows: int) -> int:
        """All rows, where the actor's present process has counted `rows`."""
        if rows < self._now:
            self._before += self._now
        self._now = rows
        return self._before + rows


def format_line(name: str, *, done: int, total: int, seconds: float) -> str:
    """One line: name, rows done of total (0: not known), rows a second, time left.

    Args:
        name: of the stage.
        done: rows.
        total: rows to come in all; 0: not known.
        seconds: since the start.
    """
    rate = done / max(seconds, 1e-6)
    if not total:  # not known before the shards are read
        return f"{name}: {done:,} images, {rate:,.0f} images/s"
    left = int((total - done) / rate) if rate and total > done else 0
    return f"{name}: {done:,}/{total:,} images, {rate:,.0f} images/s, {left // 60}:{left % 60:02d} left"


@contextmanager
def progress(name: str, *, total: int) -> Iterator[Callable[[int], None]]:
    """Yields what tasks call with the rows they finished. Prints until the block ends.

    Args:
        name: of the stage.
        total: rows to come in all; 0: not known.
    """
    actor = start_actor(*this_job())
    stage = f"{name}/{uuid.uuid4().hex}"  # a stage may run twice in one process
    stop = threading.Event()
    start = time.monotonic()
    count = RowCount()

    def report() -> None:
        while not stop.wait(INTERVAL_SECONDS):
            rows = ask(actor.rows.remote(stage))
            if rows is not None:
                done = count.update(rows)
                screen.print_line(format_line(name, done=done, total=total, seconds=time.monotonic() - start))

    def add(rows: int) -> None:
        actor.add.remote(stage, rows)

    with _thread(report, stop):
        yield add


@contextmanager
def worker_lines() -> Iterator[None]:
    """Inside, `screen.print_line` of any task, actor or training worker prints in this process."""
    actor = start_actor(*this_job())
    stop = threading.Event()

    def print_lines(*, more: bool) -> None:
        for text in ask(actor.take_lines.remote(more=more)) or []:
            screen.write_line(text)

    def follow() -> None:
        while not stop.wait(LINE_SECONDS):
            print_lines(more=True)

    print_lines(more=True)
    with _thread(follow, stop):
        yield
    print_lines(more=False)


@contextmanager
def _thread(work: Callable[[], None], stop: threading.Event) -> Iterator[None]:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
