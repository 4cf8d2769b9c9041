"""Contract: what a task loads is loaded once a process and kept for the blocks that follow; few are kept."""

from __future__ import annotations

import pickle

import pyarrow as pa

from ram_ray.runtime import per_process
from ram_ray.runtime.per_process import KEPT, PerProcess

BLOCK = pa.table({"x": [1, 2]})


class Adder:
    made: list[int] = []

    def __init__(self, number: int, *, twice: bool = False) -> None:
        self.number = 2 * number if twice else number
        self.made.append(self.number)

    def __call__(self, block: pa.Table) -> pa.Table:
        return pa.table({"x": [value + self.number for value in block["x"].to_pylist()]})


def test_it_is_made_once_for_all_copies_of_the_function() -> None:
    Adder.made.clear()
    function = PerProcess(Adder, 5, twice=True)
    copies = [function, pickle.loads(pickle.dumps(function)), PerProcess(Adder, 5, twice=True)]
    for one in copies:
        assert one(BLOCK)["x"].to_pylist() == [11, 12]
    assert Adder.made == [10]


def test_other_arguments_are_another_function_and_the_oldest_goes() -> None:
    Adder.made.clear()
    for number in range(100, 101 + KEPT):
        assert PerProcess(Adder, number)(BLOCK)["x"].to_pylist() == [1 + number, 2 + number]
    PerProcess(Adder, 100 + KEPT)(BLOCK)
    PerProcess(Adder, 100)(BLOCK)
    assert Adder.made == [*range(100, 101 + KEPT), 100] and len(per_process._loaded) == KEPT
