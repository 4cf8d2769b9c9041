"""What Ray Data's executions of this process reserve and wait for: seen from their scheduling loop, in no task.

The slowest operator is the one with the most blocks waiting before it. The blocks before the first operator do not
count: these are all blocks that are still to be read. If nothing else waits, the first that works is the slowest.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from ram_ray.runtime import ray_data_internals

INTERVAL_S = 0.5
_CALL = re.compile(r"\b(?:MapBatches|FlatMap|Map|Filter)\(([^()]*)\)")


class Operator(NamedTuple):
    """A step of a dataset that is executed."""

    name: str
    waiting: int  # blocks before it
    running: int  # tasks


_running: dict[int, Sequence[Operator]] = {}  # by execution, the newest last


class ExecutionWatch:
    """Adds up what an execution reserves (`usage`), and remembers its operators; a callback of Ray Data."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._cpus = self._gpus = 0.0

    def before_execution_starts(self, executor: Any) -> None:
        """Begin."""
        self._last = time.monotonic()

    def on_execution_step(self, executor: Any) -> None:
        """Look at the execution every `INTERVAL_S` seconds."""
        if time.monotonic() - self._last >= INTERVAL_S:
            self._add(executor)

    def after_execution_succeeds(self, executor: Any) -> None:
        """Add the last interval."""
        self._end()

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        """Add the last interval."""
        self._end()

    def _add(self, executor: Any) -> None:
        self._cpus, self._gpus, operators = ray_data_internals.execution_state(executor)
        _running[id(self)] = [Operator(*operator) for operator in operators]
        self._count()

    def _end(self) -> None:
        self._count()
        _running.pop(id(self), None)

    def _count(self) -> None:
        from ram_ray.runtime import usage  # Ray's own actors load this class, and need no pydantic

        now = time.monotonic()
        usage.add(cpus=self._cpus, gpus=self._gpus, seconds=now - self._last)
        self._last = now


def slowest_operator() -> str | None:
    """The operator that the others of the newest execution of this process wait for.

    Returns:
        Its name and how many blocks wait before it; None if nothing is executed.
    """
    return describe_slowest(list(_running.values())[-1]) if _running else None


def describe_slowest(operators: Sequence[Operator]) -> str | None:
    """Find the operator with the backlog.

    Args:
        operators: of an execution, in the order of the data.

    Returns:
        Its name, and how many blocks wait before it if any do; None if no more than one runs.
    """
    working = [operator for operator in operators if operator.running or operator.waiting]
    backlog = max(working[1:], key=lambda operator: operator.waiting - operator.running, default=None)
    if backlog and backlog.waiting > backlog.running:
        return f"{short_name(backlog.name)} ({backlog.waiting:,} blocks wait)"
    return short_name(working[0].name) if len(working) > 1 else None


def short_name(name: str) -> str:
    """The name of an operator, as Ray Data writes it, without what is the same everywhere.

    Args:
        name: such as "ReadParquet->MapBatches(select)".

    Returns:
        The names of its functions, such as "ReadParquet, select".
    """
    parts = [_CALL.sub(r"\1", part) for part in name.split("->")]
    return ", ".join(part.rpartition(".")[2] for part in parts if part)
