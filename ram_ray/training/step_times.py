"""How long a training worker waits for its feed, and how long it computes: for metrics, the log and the report.

A worker's time is cut at two points of each step: when the feed has given the batch, and when the worker asks for the
next one. So a step includes the wait for other workers and its checkpoint. Nothing is read from the device for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from ram_ray.runtime import metrics, usage
from ram_ray.runtime.execution_watch import slowest_operator
from ram_ray.runtime.metrics import BUSY, FEED_WAIT, STEP

T = TypeVar("T")


class StepTimes:
    """The times of one worker.

    Args:
        cpus: CPUs that the worker reserves.
        gpus: GPUs that the worker reserves.
    """

    def __init__(self, *, cpus: float, gpus: float) -> None:
        self._cpus, self._gpus = cpus, gpus
        self._last = time.monotonic()
        self._waited = self._computed = 0.0  # since the last line
        self._counted = self._last  # of the step, until when it is in `_computed`

    def follow(self, batches: Iterable[T]) -> Iterator[T]:
        """Give the batches of the steps, and take the time before and after each.

        Args:
            batches: of all steps.

        Yields:
            Each batch.
        """
        self._reserve()  # from the start of the worker on
        for batch in batches:
            waited = self._reserve()
            metrics.count(FEED_WAIT, waited)
            self._waited += waited
            self._counted = self._last
            yield batch
            seconds = max(self._reserve(), 1e-6)
            metrics.observe(STEP, seconds)
            metrics.count(BUSY, seconds)
            self._computed += self._last - self._counted
            self._counted = self._last
        metrics.flush()
        usage.send(wait=True)

    def describe(self) -> str:
        """Describe what the time since the last call went to; called in a step.

        Returns:
            The part that took more of it, feed or step, for a line of the log.
        """
        now = time.monotonic()
        total = self._waited + self._computed + now - self._counted
        share = self._waited / max(total, 1e-9)
        self._waited = self._computed = 0.0
        self._counted = now
        if share <= 0.5:
            return f"slowest: step ({1 - share:.0%} of the time)"
        operator = slowest_operator()
        return f"slowest: feed ({share:.0%} of the time{f', of it {operator}' if operator else ''})"

    def _reserve(self) -> float:
        """Seconds since the last call; they are added to what the stage used."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        usage.add(cpus=self._cpus, gpus=self._gpus, seconds=seconds)
        return seconds
