"""Contract: the slowest operator is the one before which the most blocks wait; blocks that are still to be read do not
count; and a running dataset is seen with its operators and what it reserves."""

from __future__ import annotations

import time

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


def test_a_dataset_is_watched_while_it_runs(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.data

    monkeypatch.setattr(execution_watch, "INTERVAL_S", 0.05)

    def wait(batch: dict) -> dict:
        time.sleep(0.3)
        return batch

    dataset = ray.data.range(8, override_num_blocks=8).map_batches(wait, num_cpus=1.5, batch_size=None)
    seen = set()
    for _ in dataset.iter_batches(batch_size=1, prefetch_batches=0):
        seen.add(slowest_operator())
    assert any(text and "wait" in text for text in seen), seen
    assert slowest_operator() is None, "nothing is executed any more"
