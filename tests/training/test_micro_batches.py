"""Contract: micro batches are of one size on every worker, hold the step, and have few padding rows."""

from __future__ import annotations

import pytest

from ram_ray.training.micro_batches import split_step


@pytest.mark.parametrize("batch_size", [1, 7, 48, 416])
def test_micro_batches_hold_the_step_and_are_equal(batch_size: int) -> None:
    for workers in range(1, 10):
        for limit in (None, 1, 5, 52, 1000):
            micro_batch, num_micro = split_step(batch_size, workers=workers, limit=limit)
            assert micro_batch <= (limit or micro_batch) and micro_batch * num_micro * workers >= batch_size
            assert micro_batch * num_micro - -(-batch_size // workers) < num_micro, "no more padding rows than needed"
    assert split_step(416, workers=8, limit=52) == (52, 1) and split_step(416, workers=2, limit=52) == (52, 4)
    assert split_step(48, workers=2, limit=None) == (24, 1)
