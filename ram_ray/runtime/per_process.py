"""A function of a block that is slow to load, for Ray Data tasks: loaded once in each worker process.

A parser takes a second to load, so not every task may load its own. An actor pool would hold it too, but its size must
be guessed, and actors that take all CPUs block the tasks that feed them for ever. Tasks run wherever a CPU is free,
also on nodes that were added later; a worker process of Ray runs many tasks and keeps what it has loaded.
"""

from __future__ import annotations

import hashlib
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pyarrow as pa

MAX_LOADED = 2  # loaded functions that a process keeps: a stage needs one, and the next stage needs the memory

_loaded: OrderedDict[str, Callable[[pa.Table], pa.Table]] = OrderedDict()


class PerProcess:
    """`make(*args, **kwargs)(block)`, where the function is made once in each process.

    Args:
        make: a class or function of a module; it loads and returns a function of a block.
        args, kwargs: small, picklable arguments of `make`; large data is named by its URI.
    """

    def __init__(self, make: Callable[..., Callable[[pa.Table], pa.Table]], *args: Any, **kwargs: Any) -> None:
        self._make, self._args, self._kwargs = make, args, kwargs
        self._key = hashlib.sha256(pickle.dumps((make, args, kwargs))).hexdigest()

    def __call__(self, block: pa.Table) -> pa.Table:
        """Apply the function to a block; it is made at the first call in a process."""
        function = _loaded.pop(self._key, None) or self._make(*self._args, **self._kwargs)
        _loaded[self._key] = function
        while len(_loaded) > MAX_LOADED:
            _loaded.popitem(last=False)
        return function(block)
