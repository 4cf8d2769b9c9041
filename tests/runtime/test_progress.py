"""Contract: the progress line has rows done, rows a second and time left; its actor is on the driver's node and asks
for no CPU; it starts again when its process is killed, no row that was counted before is lost, and nothing but lines
is printed or logged."""

from __future__ import annotations

import logging
import os
import time

import pytest

from ram_ray.runtime import progress, progress_actor
from ram_ray.runtime.progress import RowCount, format_line

DEADLINE_SECONDS = 60


def test_the_line() -> None:
    assert format_line("parse", done=500, total=2000, seconds=5) == "parse: 500/2,000 images, 100 images/s, 0:15 left"
    assert format_line("parse", done=1, total=4461, seconds=1) == "parse: 1/4,461 images, 1 images/s, 1:14:20 left"
    assert format_line("parse", done=0, total=2000, seconds=0) == "parse: 0/2,000 images"
    assert format_line("shards", done=500, total=0, seconds=5) == "shards: 500 images, 100 images/s"


def test_rows_of_an_actor_that_starts_again_are_added() -> None:
    count = RowCount()
    assert [count.update(rows) for rows in (3, 10, 2, 5, 1)] == [3, 10, 12, 15, 16]


def test_progress_goes_on_when_the_actors_process_is_killed(
    ray_cluster: None,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray

    monkeypatch.setattr(progress, "INTERVAL_SECONDS", 0.05)
    caplog.set_level(logging.INFO, logger="ram_ray")
    capfd.readouterr()

    def wait_for(text: str) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not any(text in line for line in caplog.messages):
            assert time.monotonic() < deadline, (text, caplog.messages)
            time.sleep(0.05)

    with progress.progress("stage", total=10) as add:
        actor = progress_actor.start_actor(*progress_actor.this_job())
        node = ray.get_runtime_context().get_node_id()
        assert ray.get(actor.node.remote()) == node, "it lives as long as the driver's node"
        add(3)
        wait_for("stage: 3/10 images")
        os.kill(ray.get(actor.pid.remote()), 9)
        while True:
            try:
                ray.get(actor.pid.remote())
                break
            except ray.exceptions.RayActorError:
                time.sleep(0.1)
        add(4)
        wait_for("stage: 7/10 images")
    with progress.progress("next", total=5) as add:
        add(5)
        wait_for("next: 5/5 images")
    assert "Traceback" not in capfd.readouterr().out
