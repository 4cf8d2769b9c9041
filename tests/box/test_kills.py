"""Contract: whatever is killed, and wherever, the run ends as an unbroken one: same counts, rejected rows and removals.

Each run starts from the stages that the unbroken run left before the one in question, on S3. A killed driver is
submitted again, and what was done before is not done twice; everything else the job gets over by itself.
"""

from __future__ import annotations

import time

import pytest

from tests.box.cluster import Box
from tests.box.kills import (
    CLEANING,
    GENERATE,
    PARSE,
    PRETRAIN,
    TIMEOUT_S,
    Step,
    at_work,
    check,
    half_done,
    kill,
    kill_driver,
    prepare,
)
from tests.box.runs import RunFolder

pytestmark = pytest.mark.slow  # a minute each, after the unbroken run


@pytest.mark.parametrize("steps", [(PARSE, PRETRAIN), (GENERATE,), (CLEANING,)], ids=lambda steps: steps[-1].job)
def test_killed_driver(box: Box, unbroken: RunFolder, steps: tuple[Step, ...]) -> None:
    kill_driver(box, unbroken, *steps)


@pytest.mark.parametrize("step", [PRETRAIN, GENERATE, CLEANING], ids=lambda s: s.job)
def test_killed_worker(box: Box, unbroken: RunFolder, step: Step) -> None:
    run = prepare(unbroken, step, f"worker-{step.job}")
    job = half_done(box, run, step)
    kill(at_work(box, step)[:1])
    assert job.wait(TIMEOUT_S) == 0, box.log(run.run)[-6000:]
    check(run, unbroken, step)


@pytest.mark.parametrize("step", [PARSE, PRETRAIN, GENERATE, CLEANING], ids=lambda s: s.job)
def test_killed_node_that_comes_back(box: Box, unbroken: RunFolder, step: Step) -> None:
    run = prepare(unbroken, step, f"node-{step.job}")
    job = half_done(box, run, step)
    busy = [name for name in box.nodes if name != "head" and at_work(box, step, node=name)]
    assert busy, "no node holds a worker of the stage"
    box.kill_node(busy[0])
    time.sleep(5)
    box.start_node(busy[0])
    assert job.wait(TIMEOUT_S) == 0, box.log(run.run)[-6000:]
    check(run, unbroken, step)
