"""Progress of a Ray Data stage: rows done, rows a second, time left, one line every few seconds.

Tasks tell one small actor how many rows they finished; the driver asks it for the sum. Ray Data's own bars need
a terminal and do not know how many rows are to come.
"""

from __future__ import annotations

import functools
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray

INTERVAL_SECONDS = 10.0


@ray.remote(num_cpus=0)
class _Counter:
    """Rows done of each stage; one process serves all stages of a run, for each new one costs seconds."""

    def __init__(self) -> None:
        self._rows: Counter[str] = Counter()

    def add(self, stage: str, rows: int) -> None:
        self._rows[stage] += rows

    def rows(self, stage: str) -> int:
        return self._rows[stage]


def line(name: str, *, done: int, total: int, seconds: float) -> str:
    """One line: name, rows done of total (0: not known), rows a second, time left."""
    rate = done / max(seconds, 1e-6)
    if not total:  # not known before the shards are read
        return f"{name}: {done:,} images, {rate:,.0f} images/s"
    left = int((total - done) / rate) if rate and total > done else 0
    return f"{name}: {done:,}/{total:,} images, {rate:,.0f} images/s, {left // 60}:{left % 60:02d} left"


@functools.lru_cache(maxsize=1)
def _counter(job: str) -> Any:
    return _Counter.remote()  # type: ignore[attr-defined]


@contextmanager
def progress(name: str, *, total: int) -> Iterator[Callable[[int], None]]:
    """Yields what tasks call with the rows they finished. Prints until the block ends."""
    counter = _counter(ray.get_runtime_context().get_job_id())
    stage = f"{name}/{uuid.uuid4().hex}"  # a stage may run twice in one process
    stop = threading.Event()
    start = time.monotonic()

    def report() -> None:
        while not stop.wait(INTERVAL_SECONDS):
            done = ray.get(counter.rows.remote(stage))
            print(line(name, done=done, total=total, seconds=time.monotonic() - start), flush=True)

    def add(rows: int) -> None:
        counter.add.remote(stage, rows)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield add
    finally:
        stop.set()
        thread.join()
