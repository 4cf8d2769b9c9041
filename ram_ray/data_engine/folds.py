"""Pictures judged by models that did not see them: one actor for each part of the pictures, behind one.

A batch holds pictures of every part, so a worker keeps the model of each, and cuts its batches by part. That costs
memory, and smaller batches; a picture is still looked at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ram_ray.data.parts import part_of

Batch = Mapping[str, np.ndarray]


class ByPart:
    """Actor: rows to rows, each row by the actor of its part; the order of the rows may change.

    Args:
        actor: makes an actor, a function of a batch, from a bundle's URI and the other arguments.
        bundles: number k was trained without the keys of which `part_of(key, len(bundles))` is k; a single one judges
            every picture.
        *args: further arguments of `actor`.
        **kwargs: further arguments of `actor`.
    """

    def __init__(
        self, actor: Callable[..., Callable[[Batch], pa.Table]], bundles: Sequence[str], *args: Any, **kwargs: Any
    ) -> None:
        self.actors = [actor(one, *args, **kwargs) for one in bundles]

    def __call__(self, batch: Batch) -> pa.Table:
        """The rows of a batch, each by the actor of its part of the images; their order may change."""
        if len(self.actors) == 1:
            return self.actors[0](batch)
        parts = np.array([part_of(str(key), len(self.actors)) for key in batch["key"]], dtype=int)
        tables = [
            actor({name: column[parts == number] for name, column in batch.items()})
            for number, actor in enumerate(self.actors)
            if (parts == number).any()
        ]
        return pa.concat_tables(tables) if tables else self.actors[0](batch)
