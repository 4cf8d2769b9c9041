"""Contract: a mistake ends a training run at once, with the error of its worker; a lost worker does not."""

from __future__ import annotations

import pytest
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from ram_ray.training.failures import EndOnMistakes, first_error

LOST, BROKEN_SUM = RuntimeError("worker died"), RuntimeError("Connection closed by peer")
MISTAKE = ValueError("pretrain: none of 8 images could be read")


@pytest.mark.parametrize("error", [MISTAKE, FloatingPointError("loss is nan"), KeyError("tag"), AssertionError()])
def test_an_error_that_a_retry_would_meet_again_is_raised_in_the_controller(error: Exception) -> None:
    with pytest.raises(type(error)):
        EndOnMistakes().after_exception(None, {0: BROKEN_SUM, 1: error})


@pytest.mark.parametrize("error", [LOST, OSError("disk full"), MemoryError()])
def test_errors_of_machines_are_retried(error: Exception) -> None:
    EndOnMistakes().after_exception(None, {0: error})


def test_the_cause_is_reported_and_not_its_consequences() -> None:
    group = WorkerGroupError("", {0: BROKEN_SUM, 1: MISTAKE, 2: BROKEN_SUM})
    assert first_error(group) is MISTAKE
    assert first_error(ControllerError(ControllerError(MISTAKE))) is MISTAKE
    assert first_error(WorkerGroupError("", {3: BROKEN_SUM, 1: LOST})) is LOST, "the lowest rank's"
    empty = WorkerGroupError("", {})
    assert first_error(empty) is empty
