"""What the stages of a run count, as metrics of Ray, which exports them on each node for Prometheus.

Every metric has the labels `run` and `stage`, and few more: never a shard or a key. The seams that all stages share do
the counting, so a stage has no code for it. A count is an addition in this process; what was added within a second is
passed on to Ray together, so that counting costs a hot loop nothing. Without Ray nothing is counted, and Ray is not
imported.

Who counts for which stage: the driver sets the labels when it opens a stage (`runtime.artifacts`). Tasks and actors of
Ray Data find them in its context, which Ray sends along; tasks of our own and training workers are given them.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

PREFIX = "ram_ray_"
EXPORTED = f"ray_{PREFIX}"  # Ray's prefix, then ours
PASS_ON_S = 1.0
STEP_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)
_KEY = "ram_ray_stage"  # in Ray Data's context
_COUNTED = "_ram_ray_counted"  # of an error


class Labels(NamedTuple):
    """Of which stage a count is."""

    run: str  # the last part of the run's path
    stage: str


@dataclass(frozen=True)
class Metric:
    """A metric of the stages."""

    name: str  # Ray exports it with "ray_ram_ray_" before it, and a counter with "_total" after it
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    labels: tuple[str, ...] = ()  # beside run and stage
    boundaries: tuple[float, ...] = ()  # of a histogram

    @property
    def exported(self) -> str:
        """The name for Prometheus; of a histogram without `_bucket`, `_sum` and `_count`."""
        return f"{EXPORTED}{self.name}{'_total' if self.kind == 'counter' else ''}"


ROWS = Metric("stage_rows", "counter", "Rows that a stage finished; in training images, each time it is seen")
REJECTED = Metric("stage_rejected", "counter", "Rejected rows; in training each time they are met", ("reason",))
RATE = Metric("stage_images_per_second", "gauge", "Rate of the progress line, 0 after the stage; none in training")
REQUESTS = Metric("stage_requests", "counter", "Reads and writes of storage that ram_ray asks for", ("operation",))
BYTES = Metric("stage_bytes", "counter", "Bytes of these reads and writes", ("operation",))
RETRIES = Metric("stage_retries", "counter", "Batches and tasks whose storage failed: Ray runs them again")
CPU_SECONDS = Metric("stage_cpu_seconds", "counter", "CPUs that a stage reserved, times seconds")
GPU_SECONDS = Metric("stage_gpu_seconds", "counter", "GPUs that a stage reserved, times seconds")
FEED_WAIT = Metric("train_feed_wait_seconds", "counter", "Seconds that training workers waited for their feed")
BUSY = Metric("train_busy_seconds", "counter", "Seconds of training steps without the wait, of all workers")
STEP = Metric(  # its sum is no measure: Ray adds the middles of the buckets
    "train_step_seconds", "histogram", "Seconds of a worker's training step without its wait", (), STEP_SECONDS
)
METRICS = (ROWS, REJECTED, RATE, REQUESTS, BYTES, RETRIES, CPU_SECONDS, GPU_SECONDS, FEED_WAIT, BUSY, STEP)
_BY_NAME = {metric.name: metric for metric in METRICS}

Values = tuple[tuple[str, str], ...]  # labels with their values


class PendingCounts:
    """Counts of one process that are passed on to Ray's metrics together, a second after the first of them."""

    def __init__(self) -> None:
        self._pending: defaultdict[tuple[Any, Values], float] = defaultdict(float)
        self._lock = threading.Lock()
        self._is_called = False  # whether `_pass_on` is about to be called

    def _add(self, counter: Any, number: float, values: Values) -> None:
        with self._lock:
            self._pending[counter, values] += number
        self._pass_on_soon()

    def _pass_on_soon(self) -> None:
        with self._lock:
            if self._is_called:
                return
            self._is_called = True
        self._call_later(self._pass_on)

    def _call_later(self, function: Callable[[], None]) -> None:
        timer = threading.Timer(PASS_ON_S, function)
        timer.daemon = True
        timer.start()

    def _pass_on(self) -> None:
        with self._lock:
            self._is_called = False
            pending, self._pending = self._pending, defaultdict(float)
        for (counter, values), number in pending.items():
            self._metric(counter).inc(number, dict(values))

    def _metric(self, counter: Any) -> Any:
        """Ray's metric of a key of the counts."""
        return counter


class _StageCounts(PendingCounts):
    """The counts of this process, by the name of the metric."""

    def _metric(self, counter: Any) -> Any:
        return _ray_metric(counter)

    def _pass_on(self) -> None:
        if is_on():
            super()._pass_on()
            return
        with self._lock:  # the cluster has ended meanwhile
            self._is_called = False
            self._pending.clear()

    def add(self, name: str, number: float, values: Values) -> None:
        """Add to a counter."""
        self._add(name, number, values)

    def flush(self) -> None:
        """Pass on at once, where a process may end."""
        self._pass_on()


_counts = _StageCounts()
_own: Labels | None = None  # of the driver, a training worker, or a task of ours; None: those of Ray Data's context


def is_on() -> bool:
    """Whether this process is connected to a Ray cluster; Ray is not imported for it."""
    ray = sys.modules.get("ray")
    return ray is not None and hasattr(ray, "is_initialized") and bool(ray.is_initialized())


def count(metric: Metric, number: float = 1, *, stage: Labels | None = None, **further: str) -> None:
    """Add to a counter of a stage; no effect without Ray, and outside a stage.

    Args:
        metric: a counter.
        number: what is added; 0 and less has no effect.
        stage: the labels `run` and `stage`; None: those of what runs now.
        **further: its further labels, of few values.
    """
    if number <= 0 or not is_on():
        return
    of_run, of_stage = stage or labels()
    if of_stage:
        _counts.add(metric.name, float(number), (("run", of_run), ("stage", of_stage), *further.items()))


def observe(metric: Metric, value: float) -> None:
    """Add a value to a histogram of the present stage; no effect without Ray, and outside a stage.

    Args:
        metric: a histogram.
        value: in its unit.
    """
    if is_on() and (stage := labels()).stage:
        _ray_metric(metric.name).observe(value, stage._asdict())


def set_gauge(metric: Metric, value: float, stage: Labels | None = None) -> None:
    """Set a gauge of a stage; no effect without Ray, and outside a stage.

    Args:
        metric: a gauge.
        value: in its unit.
        stage: the labels; None: those of what runs now.
    """
    if is_on() and (of := stage or labels()).stage:
        _ray_metric(metric.name).set(value, of._asdict())


def flush() -> None:
    """Pass on what this process has counted, before it may end."""
    _counts.flush()


def forget() -> None:
    """Forget Ray's metrics when this process leaves a cluster: another one needs new ones."""
    _ray_metric.cache_clear()


def count_request(operation: Literal["read", "write"], *, num_bytes: int, requests: int = 1) -> None:
    """Count requests to storage.

    Args:
        operation: read or write.
        num_bytes: that were asked for or sent.
        requests: how many.
    """
    count(REQUESTS, requests, operation=operation)
    count(BYTES, num_bytes, operation=operation)


@contextlib.contextmanager
def counted_retries() -> Iterator[None]:
    """Count an error of the storage inside, which Ray answers by running the batch or the task again."""
    try:
        yield
    except OSError as error:
        if not hasattr(error, _COUNTED):  # further in
            setattr(error, _COUNTED, True)
            count(RETRIES)
        raise


def labels() -> Labels:
    """The labels of what runs now in this process; empty outside a stage."""
    if _own is not None:
        return _own
    data: Any = sys.modules.get("ray.data")
    shared = data.DataContext.get_current().get_config(_KEY) if hasattr(data, "DataContext") else None
    return Labels(*shared) if shared else Labels("", "")


def set_labels(stage: Labels | None) -> None:
    """Set the labels of this process, and of the datasets that it makes from now on.

    Args:
        stage: the labels; None: no stage.
    """
    global _own
    _own = stage
    share_labels()


def share_labels() -> None:
    """Put the labels of this process into Ray Data's context, where its tasks find them, if it is imported."""
    data: Any = sys.modules.get("ray.data")
    if hasattr(data, "DataContext"):
        data.DataContext.get_current().set_config(_KEY, _own and tuple(_own))


@contextlib.contextmanager
def labelled(stage: Labels) -> Iterator[None]:
    """Count for a stage inside; afterwards as before.

    Args:
        stage: the labels.
    """
    global _own
    before, _own = _own, stage
    try:
        yield
    finally:
        _own = before


@functools.cache
def _ray_metric(name: str) -> Any:
    from ray.util import metrics

    metric = _BY_NAME[name]
    options: dict[str, Any] = {"description": metric.text, "tag_keys": ("run", "stage", *metric.labels)}
    if metric.kind == "histogram":
        options["boundaries"] = list(metric.boundaries)
    kind = {"counter": metrics.Counter, "gauge": metrics.Gauge, "histogram": metrics.Histogram}[metric.kind]
    return kind(f"{PREFIX}{metric.name}", **options)
