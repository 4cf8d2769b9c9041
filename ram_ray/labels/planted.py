"""False tags planted among those of captions, for measuring what cleaning removes (see `ram_ray.data.measure`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ram_ray.data.measure import random_of
from ram_ray.label_system import LabelSystem


class Planter:
    """Puts false tags into annotations, drawn by how often captions name them.

    Args:
        system: the labels that are drawn from.
        share: planted tags for each tag that is there; the fraction that is left of an image's number is a chance.
        seed: of the draws, with the image's key.
    """

    def __init__(self, system: LabelSystem, *, share: float, seed: int) -> None:
        self.share, self.seed = share, seed
        self._counts = {label.id: label.count for label in system.labels if label.count}

    def draw(self, key: str, *, num_tags: int, true: set[int]) -> list[int]:
        """Ids for the image `key` that has `num_tags` tags, none of them in `true`.

        Args:
            key: of the image.
            num_tags: that it has.
            true: ids that are never drawn.
        """
        rng = random_of(key, self.seed, "number")
        wanted = int(self.share * num_tags + rng.random())
        left = {id: count for id, count in self._counts.items() if id not in true} if wanted else {}
        drawn = []
        for _ in range(min(wanted, len(left))):
            (id,) = rng.choices(list(left), list(left.values()))
            del left[id]
            drawn.append(id)
        return drawn

    def plant(self, row: dict[str, Any], *, true: set[int]) -> None:
        """Add to a `records.ANNOTATION` row's captions and tags, each at a random place.

        Args:
            row: of ANNOTATION; changed.
            true: ids that are never drawn.
        """
        rng = random_of(row["key"], self.seed, "place")
        for id in self.draw(row["key"], num_tags=len(row["tags"]), true=true):
            caption = rng.choice(row["captions"])
            place = rng.randint(0, len(caption["tags"]))
            caption["tags"].insert(place, id)
            caption["sources"].insert(place, "parsed")
            row["tags"].insert(rng.randint(0, len(row["tags"])), {"id": id, "origin": "parsed", "score": 1.0})


def truth_names(ids: Sequence[int], system: LabelSystem) -> list[str]:
    """Ids as names that `data.ground_truth.label_id` reads back: "object:dog"."""
    return [f"{system[id].kind}:{system[id].name}" for id in ids]
