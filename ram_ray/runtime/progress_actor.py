"""One small actor that workers tell what the driver wants to know: rows done, and lines to print.

It is on the driver's node and asks for no CPU, so it is gone only when the driver is; a process of it that is killed
starts again. `progress` prints what it was told, `screen` sends lines to it: both are above this file.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from typing import Any

import ray
from ray.exceptions import RayError

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


def send_line(text: str) -> bool:
    """Hand a line to the driver of this worker's job; False where none takes lines, or this is not a worker."""
    if not ray.is_initialized():
        return False
    try:
        actor = ray.get_actor(_name(this_job()[0]))
        return bool(ray.get(actor.put_line.remote(text), timeout=ANSWER_SECONDS))
    except (ValueError, RayError):
        return False


@functools.lru_cache(maxsize=1)
def start_actor(job: str, node: str) -> Any:
    """The actor of a job, on the node given."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(node, soft=False)
    options: dict[str, Any] = {"name": _name(job), "get_if_exists": True, "scheduling_strategy": here}
    return ProgressActor.options(**options).remote()  # type: ignore[attr-defined]


def this_job() -> tuple[str, str]:
    """Id of this process's job, and of its node: the same job's number may come again in another cluster."""
    context = ray.get_runtime_context()
    return context.get_job_id(), context.get_node_id()


def _name(job: str) -> str:
    return f"ram_ray-progress-{job}"


def ask(reference: Any) -> Any:
    """An answer of the actor, or None where it gives none: a missing line is better than a broken run."""
    try:
        return ray.get(reference, timeout=ANSWER_SECONDS)
    except RayError:
        return None
