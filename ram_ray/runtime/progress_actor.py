"""An actor that collects from workers the rows that are done, what they used, and the records to log, for the driver.

It runs on the driver's node and needs no CPU, so it ends only with the driver's node; if its process is killed, it
starts again. `progress` logs what it collects, `worker_log` sends records to it, `usage` what a worker used.
"""

from __future__ import annotations

import functools
import os
from collections import Counter, defaultdict
from typing import Any, TypeVar

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayError

T = TypeVar("T")
Fields = dict[str, Any]  # of a record of `logging`, by name
Stage = tuple[str, ...]  # run and stage

ANSWER_SECONDS = 20.0  # after this time the actor counts as busy or dead, and is asked again later


@ray.remote(num_cpus=0, max_restarts=-1)
class ProgressActor:
    """Rows done of each stage, and records to log; all stages share its process, since a new process costs seconds."""

    def __init__(self) -> None:
        self._rows: Counter[str] = Counter()
        self._used: defaultdict[Stage, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._records: list[Fields] | None = None  # None: the driver takes no records

    def node(self) -> str:
        """Id of the node that this process is on."""
        return ray.get_runtime_context().get_node_id()

    def pid(self) -> int:
        """Id of this process."""
        return os.getpid()

    def add(self, stage: str, rows: int) -> None:
        """Add rows that a task finished.

        Args:
            stage: name of the stage.
            rows: number of rows.
        """
        self._rows[stage] += rows

    def rows(self, stage: str) -> int:
        """Count the finished rows of a stage.

        Args:
            stage: name of the stage.

        Returns:
            Rows that were finished since this process started.
        """
        return self._rows[stage]

    def add_used(self, stage: Stage, cpu_seconds: float, gpu_seconds: float) -> None:
        """Add what a worker used for a stage.

        Args:
            stage: run and stage.
            cpu_seconds: reserved CPUs times seconds.
            gpu_seconds: reserved GPUs times seconds.
        """
        sums = self._used[stage]
        sums[0] += cpu_seconds
        sums[1] += gpu_seconds

    def take_used(self, stage: Stage) -> tuple[float, float]:
        """Return what workers used for a stage since the last call.

        Args:
            stage: run and stage.

        Returns:
            CPU-seconds and GPU-seconds.
        """
        cpu_seconds, gpu_seconds = self._used.pop(stage, [0.0, 0.0])
        return cpu_seconds, gpu_seconds

    def put_record(self, record: Fields) -> bool:
        """Keep a record until the driver takes it.

        Args:
            record: fields for `logging.makeLogRecord`.

        Returns:
            False if the driver takes no records.
        """
        if self._records is None:
            return False
        self._records.append(record)
        return True

    def take_records(self, *, more: bool) -> list[Fields]:
        """Return the records since the last call.

        Args:
            more: whether there will be another call; without, later records are refused.

        Returns:
            The records, in order.
        """
        records, self._records = self._records or [], [] if more else None
        return records


def send_record(record: Fields) -> bool:
    """Send a record to the driver of this worker's job.

    Args:
        record: fields for `logging.makeLogRecord`.

    Returns:
        False if the driver takes no records, or this process is no worker.
    """
    if not ray.is_initialized():
        return False
    try:
        actor = ray.get_actor(_name(this_job()[0]))
        return bool(ray.get(actor.put_record.remote(record), timeout=ANSWER_SECONDS))
    except (ValueError, RayError):
        return False


def send_used(stage: Stage, cpu_seconds: float, gpu_seconds: float, *, wait: bool) -> None:
    """Send what this worker used to the driver of its job.

    Args:
        stage: run and stage.
        cpu_seconds: reserved CPUs times seconds.
        gpu_seconds: reserved GPUs times seconds.
        wait: whether to wait until it is there.

    Raises:
        ValueError: if the driver has no actor.
        RayError: if the actor does not answer.
    """
    answer: ObjectRef[None] = _find_actor(this_job()[0]).add_used.remote(stage, cpu_seconds, gpu_seconds)
    if wait:
        ray.get(answer, timeout=ANSWER_SECONDS)


def take_used(stage: Stage) -> tuple[float, float]:
    """Take what workers used for a stage; in the driver.

    Args:
        stage: run and stage.

    Returns:
        CPU-seconds and GPU-seconds; 0 if the actor does not answer.
    """
    return get_answer(start_actor(*this_job()).take_used.remote(stage)) or (0.0, 0.0)


@functools.lru_cache(maxsize=1)
def _find_actor(job: str) -> ActorHandle[ProgressActor]:
    return ray.get_actor(_name(job))


@functools.lru_cache(maxsize=1)
def start_actor(job: str, node: str) -> ActorHandle[ProgressActor]:
    """Start the actor of a job, or return the handle of the running actor.

    Args:
        job: id of the job.
        node: id of the node on which the actor runs.

    Returns:
        The actor's handle.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    on_driver = NodeAffinitySchedulingStrategy(node, soft=False)
    options: dict[str, Any] = {"name": _name(job), "get_if_exists": True, "scheduling_strategy": on_driver}
    return ProgressActor.options(**options).remote()  # type: ignore[attr-defined]


def this_job() -> tuple[str, str]:
    """Id of this process's job, and id of its node: another cluster may have a job of the same number."""
    context = ray.get_runtime_context()
    return context.get_job_id(), context.get_node_id()


def _name(job: str) -> str:
    return f"ram_ray-progress-{job}"


def get_answer(reference: ObjectRef[T]) -> T | None:
    """Wait for an answer of the actor.

    Args:
        reference: reference of the answer.

    Returns:
        The answer, or None if the actor does not answer: a missing line must not end a run.
    """
    try:
        return ray.get(reference, timeout=ANSWER_SECONDS)
    except RayError:
        return None
