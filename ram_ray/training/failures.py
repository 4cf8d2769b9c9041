"""What a failed worker means: a lost machine is tried again from the last checkpoint, a mistake is not.

Ray Train tries every error again, `training.max_failures` times, and each try starts all workers anew. An error that
follows from data, settings or code comes again each time, so it ends the run at once. A worker that loses another one
in the middle of a sum fails with a RuntimeError: that, and whatever else a machine may do, is tried again.
"""

from __future__ import annotations

from typing import Any

from ray.train import ControllerError, UserCallback, WorkerGroupError

MISTAKES = (ValueError, FloatingPointError, TypeError, LookupError, AttributeError, NameError, AssertionError)


class EndOnMistakes(UserCallback):
    """Raises a worker's mistake in Ray Train's controller, which then gives up."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called by Ray with the errors of workers, by rank."""
        for _, error in sorted(worker_exceptions.items()):
            if isinstance(error, MISTAKES):
                raise error


def first_error(failure: BaseException) -> BaseException:
    """The error of the lowest rank behind what `fit` raised; a mistake before what it brought about elsewhere."""
    while isinstance(failure, ControllerError):
        failure = failure.controller_failure
    if not isinstance(failure, WorkerGroupError) or not failure.worker_failures:
        return failure
    errors = [error for _, error in sorted(failure.worker_failures.items())]
    return next((error for error in errors if isinstance(error, MISTAKES)), errors[0])
