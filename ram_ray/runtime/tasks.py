"""Functions as Ray tasks of our own, beside Ray Data's: typed, and run again where their storage fails.

A task is run again after its client gave up on the storage, up to three times; an error of another kind is raised at
once. What a task reserves and counts is of the stage that started it. Actors are made where they are used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from ram_ray.runtime import metrics, usage

if TYPE_CHECKING:
    import ray

P = ParamSpec("P")
T = TypeVar("T")
RETRIES: dict[str, Any] = {"max_retries": 3, "retry_exceptions": [OSError]}


class Task(Generic[P, T]):
    """A function that runs on the cluster.

    Args:
        function: what runs; it and its arguments must be picklable.
        num_cpus: CPUs that a call takes.
        num_gpus: GPUs that a call takes.
    """

    def __init__(self, function: Callable[P, T], *, num_cpus: float, num_gpus: float | None = None) -> None:
        import ray

        options: dict[str, Any] = {"num_cpus": num_cpus, **RETRIES}
        if num_gpus is not None:
            options["num_gpus"] = num_gpus
        self._remote: Any = ray.remote(**options)(_counted(function, num_cpus=num_cpus, num_gpus=num_gpus or 0))

    def start(self, *args: P.args, **kwargs: P.kwargs) -> ray.ObjectRef[T]:
        """Start a call.

        Args:
            *args: of the function.
            **kwargs: of the function.

        Returns:
            A reference to what it returns.
        """
        return self._remote.remote(metrics.labels(), *args, **kwargs)

    def run(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Start a call and wait for it.

        Args:
            *args: of the function.
            **kwargs: of the function.

        Returns:
            What it returns.

        Raises:
            OSError: of the storage, after the last try.
        """
        import ray

        return ray.get(self.start(*args, **kwargs))


def _counted(function: Callable[P, T], *, num_cpus: float, num_gpus: float) -> Callable[..., T]:
    """The function with the labels of its stage before its arguments."""

    def run(stage: metrics.Labels, *args: P.args, **kwargs: P.kwargs) -> T:
        started = time.monotonic()
        with metrics.labelled(stage):
            try:
                with metrics.counted_retries():
                    return function(*args, **kwargs)
            finally:
                usage.add(cpus=num_cpus, gpus=num_gpus, seconds=time.monotonic() - started)
                usage.send(wait=True)

    run.__name__ = run.__qualname__ = getattr(function, "__name__", type(function).__name__)  # in Ray's lists of tasks
    return run


def wait_for(references: Iterable[ray.ObjectRef[T]]) -> list[T]:
    """Wait for calls, in their order.

    Args:
        references: of the calls.

    Returns:
        What each returns.
    """
    import ray

    return [ray.get(reference) for reference in references]
