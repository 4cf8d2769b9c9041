"""Which worker failures end a run: a mistake ends it, a lost machine is retried from the last checkpoint.

Ray Train retries after every error, `training.max_failures` times, and each retry restarts all workers. An error of
data, settings or code would occur in each retry, so it ends the run at once. A worker whose peer dies during an
all-reduce fails with a RuntimeError: this error, and any other that a machine may cause, is retried.
"""

from __future__ import annotations

from typing import Any

from ray.train import ControllerError, UserCallback, WorkerGroupError

MISTAKES = (ValueError, FloatingPointError, TypeError, LookupError, AttributeError, NameError, AssertionError)


class EndOnMistakes(UserCallback):
    """Raise a worker's mistake in Ray Train's controller, which then ends the run."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise the first mistake; Ray calls this after workers failed.

        Args:
            run_context: not used.
            worker_exceptions: rank -> error.

        Raises:
            Exception: the mistake of the lowest rank, if any error is one of `MISTAKES`.
        """
        for _, error in sorted(worker_exceptions.items()):
            if isinstance(error, MISTAKES):
                raise error


def first_error(failure: BaseException) -> BaseException:
    """Find the error that caused a failed `fit`.

    Args:
        failure: exception of `fit`.

    Returns:
        The mistake of the lowest rank; without a mistake, the error of the lowest rank; without errors of workers, the
        failure itself.
    """
    while isinstance(failure, ControllerError):
        failure = failure.controller_failure
    if not isinstance(failure, WorkerGroupError) or not failure.worker_failures:
        return failure
    errors = [error for _, error in sorted(failure.worker_failures.items())]
    return next((error for error in errors if isinstance(error, MISTAKES)), errors[0])
