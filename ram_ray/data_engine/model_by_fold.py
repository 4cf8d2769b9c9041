"""Score each image with the model that did not learn from its fold.

A batch holds images of every fold, so an actor keeps the model of each fold in memory and splits its batches by fold. A
scoring model sees smaller batches, and an image is scored once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ram_ray.data.folds import fold_index

Batch = Mapping[str, np.ndarray]


class ModelByFold:
    """Actor that passes each row to the actor of its fold; the order of the rows may change.

    Args:
        actor: makes an actor, a function of a batch, from a bundle's URI and the other arguments.
        bundles: URIs of the scoring models; number k was trained without the keys of which
            `fold_index(key, len(bundles))` is k. A single model scores every image.
        *args: further arguments of `actor`.
        **kwargs: further arguments of `actor`.
    """

    def __init__(
        self, actor: Callable[..., Callable[[Batch], pa.Table]], bundles: Sequence[str], *args: Any, **kwargs: Any
    ) -> None:
        self.actors = [actor(bundle, *args, **kwargs) for bundle in bundles]

    def __call__(self, batch: Batch) -> pa.Table:
        """Pass each row of a batch to the actor of its fold.

        Args:
            batch: numpy columns, `key` among them.

        Returns:
            The rows of the actors, grouped by fold.
        """
        if len(self.actors) == 1:
            return self.actors[0](batch)
        folds = np.array([fold_index(str(key), len(self.actors)) for key in batch["key"]], dtype=int)
        tables = [
            actor({name: column[folds == number] for name, column in batch.items()})
            for number, actor in enumerate(self.actors)
            if (folds == number).any()
        ]
        return pa.concat_tables(tables) if tables else self.actors[0](batch)
