"""Progress of a Ray Data stage: rows done, rows a second, time left, one line every few seconds.

Tasks tell one small actor how many rows they finished; the driver asks it for the sum. Ray Data's own bars need
a terminal and do not know how many rows are to come.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

INTERVAL_SECONDS = 10.0


@ray.remote(num_cpus=0)
class _Counter:
    def __init__(self) -> None:
        self._rows = 0

    def add(self, rows: int) -> None:
        self._rows += rows

    def rows(self) -> int:
        return self._rows


def line(name: str, *, done: int, total: int, seconds: float) -> str:
    """One line: name, rows done of total (0: not known), rows a second, time left."""
    rate = done / max(seconds, 1e-6)
    if not total:  # not known before the shards are read
        return f"{name}: {done:,} images, {rate:,.0f} images/s"
    left = int((total - done) / rate) if rate and total > done else 0
    return f"{name}: {done:,}/{total:,} images, {rate:,.0f} images/s, {left // 60}:{left % 60:02d} left"


@contextmanager
def progress(name: str, *, total: int) -> Iterator[Any]:
    """Yields an actor handle; tasks call `handle.add.remote(rows)`. Prints until the block ends."""
    counter: Any = _Counter.remote()  # type: ignore[attr-defined]
    stop = threading.Event()
    start = time.monotonic()

    def report() -> None:
        while not stop.wait(INTERVAL_SECONDS):
            done = ray.get(counter.rows.remote())
            print(line(name, done=done, total=total, seconds=time.monotonic() - start), flush=True)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield counter
    finally:
        stop.set()
        thread.join()
        ray.kill(counter)
