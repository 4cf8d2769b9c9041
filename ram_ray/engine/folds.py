"""Models that judge pictures: one for all, or one a part of the pictures, each asked about the part that it did not see.

An actor keeps all of them, since a batch of pictures holds every part, and each costs memory but no time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ram_ray.parts import part_of

if TYPE_CHECKING:
    from ram_ray.inference import Predictor


class FoldPredictors:
    """The predictors of an actor, loaded from as many bundles as there are parts; one bundle judges every picture.

    Args:
        bundles: URIs of model bundles; number k was trained without `part_of(key, len(bundles)) == k`.
        predictors: in their place, where they are loaded already.
    """

    def __init__(
        self,
        bundles: Sequence[str],
        *,
        device: str | None = None,
        precision: str = "fp32",
        threads: int | None = None,
        predictors: Sequence[Predictor] | None = None,
    ) -> None:
        if predictors is None:
            from ram_ray.inference import Predictor as Loader

            options = {"device": device, "precision": precision, "threads": threads}
            predictors = [Loader.from_pretrained(one, **options) for one in bundles]  # type: ignore[arg-type]
        self.predictors = list(predictors)
        self.labels = self.predictors[0].labels

    def split(self, keys: Sequence[str]) -> Iterator[tuple[Predictor, list[int]]]:
        """Each predictor with the places of the keys that it judges; one that judges none is left out."""
        places: list[list[int]] = [[] for _ in self.predictors]
        for place, key in enumerate(keys):
            places[part_of(key, len(self.predictors))].append(place)
        yield from ((one, its) for one, its in zip(self.predictors, places, strict=True) if its)
