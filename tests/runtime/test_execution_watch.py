"""Contract: the slowest operator is the one before which the most blocks wait; blocks that are still to be read do not
count; and a running dataset is seen with its operators and what it reserves."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from ram_ray.runtime import execution_watch
from ram_ray.runtime.execution_watch import Operator, describe_slowest, short_name, slowest_operator

INPUT = Operator("Input", 0, 0)


@pytest.mark.parametrize(
    ("operators", "slowest"),
    [
        ([INPUT, Operator("ReadParquet", 90, 4), Operator("MapBatches(Scorer)", 12, 1), Operator("Write", 0, 1)],
         "Scorer (12 blocks wait)"),
        ([INPUT, Operator("ReadParquet->MapBatches(decode)", 90, 4), Operator("MapBatches(Scorer)", 1, 2)],
         "ReadParquet, decode"),
        ([INPUT, Operator("ReadParquet->MapBatches(decode)", 9, 4), Operator("Write", 0, 0)], None),
        ([INPUT, Operator("ReadParquet", 0, 0), Operator("MapBatches(Scorer)", 1, 2), Operator("Write", 9, 3)],
         "Write (9 blocks wait)"),
        ([INPUT, Operator("ReadParquet", 0, 0)], None),
        ([], None),
    ],
)  # fmt: skip
def test_the_operator_with_the_backlog(operators: list[Operator], slowest: str | None) -> None:
    assert describe_slowest(operators) == slowest


def test_names_of_operators_are_those_of_their_functions() -> None:
    assert short_name("MapBatches(annotate.<locals>.select)->MapBatches(Scorer)") == "select, Scorer"
    assert short_name("ReadParquet") == "ReadParquet"


def test_a_dataset_is_watched_while_it_runs(ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.data

    monkeypatch.setattr(execution_watch, "INTERVAL_S", 0.05)
    released = tmp_path / "released"

    def wait(batch: dict) -> dict:
        """Hold the first block until the driver has seen the blocks behind it."""
        while not released.exists():
            time.sleep(0.02)
        return batch

    def watch() -> None:
        end = time.monotonic() + 300
        while time.monotonic() < end and not any(text and text.startswith("wait (") for text in seen):
            time.sleep(0.02)
            seen.add(slowest_operator())
        released.touch()

    seen: set[str | None] = set()
    watcher = threading.Thread(target=watch)
    watcher.start()
    dataset = ray.data.range(8, override_num_blocks=8).map_batches(wait, num_cpus=0.5, concurrency=1, batch_size=None)
    num_rows = sum(len(batch["id"]) for batch in dataset.iter_batches(batch_size=1))
    watcher.join()
    assert num_rows == 8
    assert any(text and text.startswith("wait (") for text in seen), seen
    assert slowest_operator() is None, "nothing is executed any more"
