"""Contract: a worker's time is the wait for its feed and the step, and the line names the one that took more."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from ram_ray.training.step_times import StepTimes


@pytest.mark.parametrize(("feed_s", "step_s", "slowest"), [(0.03, 0.0, "feed"), (0.0, 0.03, "step")])
def test_the_slowest_part(feed_s: float, step_s: float, slowest: str) -> None:
    def feed() -> Iterator[int]:
        for number in range(4):
            time.sleep(feed_s)
            yield number

    times, batches, line = StepTimes(cpus=1.0, gpus=0.0), [], ""
    for batch in times.follow(feed()):
        time.sleep(step_s)
        batches.append(batch)
        line = times.describe() if batch == 3 else ""
    assert batches == [0, 1, 2, 3]
    share = int(line.partition("(")[2].partition("%")[0])
    assert line.startswith(f"slowest: {slowest} (") and 50 < share <= 100, line
    time.sleep(0.01)
    assert times.describe() == "slowest: step (100% of the time)", "a line is of the time since the line before"
