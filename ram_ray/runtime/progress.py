"""What workers tell the process that runs a stage: rows done, and lines to print.

Tasks tell one small actor how many rows they finished; the driver asks it for the sum and prints rows done, rows a
second and time left, one line every few seconds. Ray Data's own bars need a terminal and do not know how many rows are
to come. The actor is on the driver's node and asks for no CPU, so it is gone only when the driver is; a process of it
that is killed starts again.
"""

from __future__ import annotations

import functools
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from ram_ray.runtime import screen

INTERVAL_SECONDS = 10.0
LINE_SECONDS = 0.5  # a worker's line waits so long at most
ANSWER_SECONDS = 20.0  # then the actor is taken for busy or dead, and asked again later


@ray.remote(num_cpus=0, max_restarts=-1)
class ProgressActor:
    """Rows done of each stage, and lines to print; one process serves all stages, for each new one costs seconds."""

    def __init__(self) -> None:
        self._rows: Counter[str] = Counter()
        self._lines: list[str] | None = None  # None: nobody prints them

    def node(self) -> str:
        """Id of the node that this process is on."""
        return ray.get_runtime_context().get_node_id()

    def pid(self) -> int:
        """This process."""
        return os.getpid()

    def add(self, stage: str, rows: int) -> None:
        """Count rows that a task finished."""
        self._rows[stage] += rows

    def rows(self, stage: str) -> int:
        """Rows finished since this process started."""
        return self._rows[stage]

    def put_line(self, text: str) -> bool:
        """Keep a line until the driver takes it; False if it takes none."""
        if self._lines is None:
            return False
        self._lines.append(text)
        return True

    def take_lines(self, *, more: bool) -> list[str]:
        """The lines since the last call.

        Args:
            more: whether there will be another call.
        """
        lines, self._lines = self._lines or [], [] if more else None
        return lines


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
    """One line: name, rows done of total (0: not known), rows a second, time left."""
    rate = done / max(seconds, 1e-6)
    if not total:  # not known before the shards are read
        return f"{name}: {done:,} images, {rate:,.0f} images/s"
    left = int((total - done) / rate) if rate and total > done else 0
    return f"{name}: {done:,}/{total:,} images, {rate:,.0f} images/s, {left // 60}:{left % 60:02d} left"


@contextmanager
def progress(name: str, *, total: int) -> Iterator[Callable[[int], None]]:
    """Yields what tasks call with the rows they finished. Prints until the block ends."""
    actor = _start_actor(*_job())
    stage = f"{name}/{uuid.uuid4().hex}"  # a stage may run twice in one process
    stop = threading.Event()
    start = time.monotonic()
    count = RowCount()

    def report() -> None:
        while not stop.wait(INTERVAL_SECONDS):
            rows = _ask(actor.rows.remote(stage))
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
    actor = _start_actor(*_job())
    stop = threading.Event()

    def print_lines(*, more: bool) -> None:
        for text in _ask(actor.take_lines.remote(more=more)) or []:
            screen.write_line(text)

    def follow() -> None:
        while not stop.wait(LINE_SECONDS):
            print_lines(more=True)

    print_lines(more=True)
    with _thread(follow, stop):
        yield
    print_lines(more=False)


def send_line(text: str) -> bool:
    """Hand a line to the driver of this worker's job; False where none takes lines, or this is not a worker."""
    if not ray.is_initialized():
        return False
    try:
        actor = ray.get_actor(_name(_job()[0]))
        return bool(ray.get(actor.put_line.remote(text), timeout=ANSWER_SECONDS))
    except (ValueError, RayError):
        return False


@functools.lru_cache(maxsize=1)
def _start_actor(job: str, node: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(node, soft=False)
    options: dict[str, Any] = {"name": _name(job), "get_if_exists": True, "scheduling_strategy": here}
    return ProgressActor.options(**options).remote()  # type: ignore[attr-defined]


def _job() -> tuple[str, str]:
    """Id of this process's job, and of its node: the same job's number may come again in another cluster."""
    context = ray.get_runtime_context()
    return context.get_job_id(), context.get_node_id()


def _name(job: str) -> str:
    return f"ram_ray-progress-{job}"


def _ask(reference: Any) -> Any:
    """An answer of the actor, or None where it gives none: a missing line is better than a broken run."""
    try:
        return ray.get(reference, timeout=ANSWER_SECONDS)
    except RayError:
        return None


@contextmanager
def _thread(work: Callable[[], None], stop: threading.Event) -> Iterator[None]:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
