"""A function of a batch that needs something slow to load, for Ray Data tasks.

A parser takes a second to load, so a task must not load its own. An actor pool would hold it too, but its size is a
guess about the cluster, and actors that have all CPUs keep the tasks that feed them waiting for ever. Tasks run
wherever a CPU is free, on nodes that came later too; each of Ray's worker processes, which run one task after another,
keeps what it has loaded.
"""

from __future__ import annotations

import hashlib
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pyarrow as pa

KEPT = 2  # loaded functions that a process keeps: a stage has one, and its memory is wanted for the next

_loaded: OrderedDict[str, Callable[[pa.Table], pa.Table]] = OrderedDict()


class PerProcess:
    """`make(*args, **kwargs)(block)`, made once in each process.

    Args:
        make: a class or function of a module, that loads and returns a function of a block.
        args, kwargs: small and picklable; what is large is named by its URI.
    """

    def __init__(self, make: Callable[..., Callable[[pa.Table], pa.Table]], *args: Any, **kwargs: Any) -> None:
        self._make, self._args, self._kwargs = make, args, kwargs
        self._key = hashlib.sha256(pickle.dumps((make, args, kwargs))).hexdigest()

    def __call__(self, block: pa.Table) -> pa.Table:
        """What the function makes of a block; the function itself is made once a process."""
        function = _loaded.pop(self._key, None) or self._make(*self._args, **self._kwargs)
        _loaded[self._key] = function
        while len(_loaded) > KEPT:
            _loaded.popitem(last=False)
        return function(block)
