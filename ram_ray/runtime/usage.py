"""What a stage used of the cluster: reserved CPUs and GPUs times seconds, and nodes times seconds, for its manifest.

Each process adds what it knows: the driver and the training workers the tasks and actors of their datasets
(`execution_watch`), a task of ours and a training worker their own reservation. Other processes than the driver send
their sums to the driver's actor (`progress_actor`), where the end of the stage takes them. Nodes are counted by the
driver, idle or not, since they are what is paid for: those with a GPU, and those without.

As `seconds` of a result, these are of the call that finished the stage: what a killed call used is not known.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeFloat

from ram_ray.runtime import metrics
from ram_ray.runtime.metrics import CPU_SECONDS, GPU_SECONDS, Labels

SEND_S = 5.0  # how often a worker sends its sums
NODES_S = 10.0  # how often the nodes are counted


class Used(BaseModel):
    """What a stage used, each times seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu_seconds: NonNegativeFloat = 0.0  # reserved by tasks, actors and training workers
    gpu_seconds: NonNegativeFloat = 0.0
    cpu_node_seconds: NonNegativeFloat = 0.0  # of nodes without a GPU, the head included
    gpu_node_seconds: NonNegativeFloat = 0.0

    def __add__(self, other: Used) -> Used:
        return Used(**{name: getattr(self, name) + getattr(other, name) for name in Used.model_fields})


class _Ledger:
    """The sums of this process by stage, and the stages that it has opened: the driver opens them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.sums: defaultdict[Labels, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self.opened: list[tuple[Labels, float, float]] = []  # with the node seconds at its start
        self.is_driver = False
        self.last_sent = time.monotonic()


class _Nodes:
    """Nodes times seconds since the first stage."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: float | None = None
        self._counts = (0, 0)
        self.seconds = (0.0, 0.0)  # without and with a GPU

    def count(self, *, at_once: bool) -> tuple[float, float]:
        """Count the nodes that run, if it is time to."""
        with self._lock:
            now = time.monotonic()
            if at_once or self._last is None or now - self._last >= NODES_S:
                counts = _count_nodes()
                if self._last is not None:  # the mean of both ends of the interval
                    half = (now - self._last) / 2
                    self.seconds = (
                        self.seconds[0] + half * (self._counts[0] + counts[0]),
                        self.seconds[1] + half * (self._counts[1] + counts[1]),
                    )
                self._last, self._counts = now, counts
            return self.seconds


_ledger = _Ledger()
_nodes = _Nodes()


def add(*, cpus: float, gpus: float, seconds: float) -> None:
    """Add what the present stage reserved for some time; no effect without Ray, and outside a stage.

    Args:
        cpus: CPUs that were reserved.
        gpus: GPUs that were reserved.
        seconds: how long.
    """
    stage = metrics.labels()
    if not stage.stage or not metrics.is_on():
        return
    metrics.count(CPU_SECONDS, cpus * seconds, stage=stage)
    metrics.count(GPU_SECONDS, gpus * seconds, stage=stage)
    with _ledger.lock:
        sums = _ledger.sums[stage]
        sums[0] += cpus * seconds
        sums[1] += gpus * seconds
        is_due = not _ledger.is_driver and time.monotonic() - _ledger.last_sent > SEND_S
    if is_due:
        send(wait=False)


def send(*, wait: bool) -> None:
    """Send the sums of a worker to the driver; no effect without Ray.

    Args:
        wait: whether to wait until they are there, as at the end of a task.
    """
    if not metrics.is_on():
        return
    from ray.exceptions import RayError

    from ram_ray.runtime import progress_actor

    with _ledger.lock:
        sums, _ledger.sums = _ledger.sums, defaultdict(lambda: [0.0, 0.0])
        _ledger.last_sent = time.monotonic()
    try:
        for stage, (cpu_seconds, gpu_seconds) in sums.items():
            progress_actor.send_used(tuple(stage), cpu_seconds, gpu_seconds, wait=wait)
    except (ValueError, RayError):  # no driver asks for them, or it is busy: they must not end a run
        return


def open_stage(stage: Labels) -> None:
    """Begin to count for a stage, in the driver.

    Args:
        stage: its labels; the stage that was open before goes on when this one is closed, and has used its CPUs too.
    """
    metrics.set_labels(stage)
    _ledger.is_driver = True
    with _ledger.lock:
        _ledger.sums.pop(stage, None)
    if metrics.is_on():
        from ram_ray.runtime import progress_actor

        progress_actor.start_actor(*progress_actor.this_job())  # takes the sums of workers
    _ledger.opened.append((stage, *_nodes.count(at_once=True)))


def close_stage(stage: Labels) -> Used | None:
    """End the count of a stage.

    Args:
        stage: its labels.

    Returns:
        What it used; None if it was not opened, or without Ray.
    """
    index = next((i for i, (labels, *_) in reversed(list(enumerate(_ledger.opened))) if labels == stage), None)
    if index is None:
        return None
    _, *before = _ledger.opened.pop(index)
    metrics.set_labels(_ledger.opened[-1][0] if _ledger.opened else None)
    if not metrics.is_on():
        return None
    from ram_ray.runtime import progress_actor

    after = _nodes.count(at_once=True)
    sent = progress_actor.take_used(tuple(stage))
    with _ledger.lock:
        own = _ledger.sums.pop(stage, [0.0, 0.0])
        cpu_seconds, gpu_seconds = (round(here + there, 1) for here, there in zip(own, sent, strict=True))
        if index:  # within another stage, whose time and nodes it is part of
            around = _ledger.sums[_ledger.opened[index - 1][0]]
            around[0] += cpu_seconds
            around[1] += gpu_seconds
    cpu_nodes, gpu_nodes = (round(max(0.0, end - start), 1) for start, end in zip(before, after, strict=True))
    return Used(
        cpu_seconds=cpu_seconds, gpu_seconds=gpu_seconds, cpu_node_seconds=cpu_nodes, gpu_node_seconds=gpu_nodes
    )


def follow_nodes() -> None:
    """Count the nodes every `NODES_S` seconds while a stage is open; called often, by the driver."""
    if _ledger.opened and metrics.is_on():
        _nodes.count(at_once=False)


def _count_nodes() -> tuple[int, int]:
    """Nodes that run, without and with a GPU; none without Ray."""
    if not metrics.is_on():
        return 0, 0
    import ray

    nodes: list[dict[str, Any]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    with_gpu = sum(resources.get("GPU", 0) > 0 for resources in nodes)
    return len(nodes) - with_gpu, with_gpu
