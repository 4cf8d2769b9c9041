"""Contract: a task's function is loaded once a process and kept for the following blocks; few functions are kept."""

from __future__ import annotations

import pickle

import pyarrow as pa

from ram_ray.runtime import per_process
from ram_ray.runtime.per_process import MAX_LOADED, PerProcess

BLOCK = pa.table({"x": [1, 2]})


class Adder:
    numbers: list[int] = []

    def __init__(self, number: int, *, twice: bool = False) -> None:
        self.number = 2 * number if twice else number
        self.numbers.append(self.number)

    def __call__(self, block: pa.Table) -> pa.Table:
        return pa.table({"x": [value + self.number for value in block["x"].to_pylist()]})


def test_it_is_made_once_for_all_copies_of_the_function() -> None:
    Adder.numbers.clear()
    function = PerProcess(Adder, 5, twice=True)
    copies = [function, pickle.loads(pickle.dumps(function)), PerProcess(Adder, 5, twice=True)]
    for copy in copies:
        assert copy(BLOCK)["x"].to_pylist() == [11, 12]
    assert Adder.numbers == [10]


def test_other_arguments_are_another_function_and_the_oldest_goes() -> None:
    Adder.numbers.clear()
    for number in range(100, 101 + MAX_LOADED):
        assert PerProcess(Adder, number)(BLOCK)["x"].to_pylist() == [1 + number, 2 + number]
    PerProcess(Adder, 100 + MAX_LOADED)(BLOCK)
    PerProcess(Adder, 100)(BLOCK)
    assert Adder.numbers == [*range(100, 101 + MAX_LOADED), 100] and len(per_process._loaded) == MAX_LOADED
