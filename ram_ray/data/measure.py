"""Measuring the data engine on photos: what is hidden from training, and what is spoilt, so that both can be counted.

A photo has no list of all that is in it, and its captions are the nearest thing. So a measuring run trains on some of
a photo's captions (`data.measure.captions_per_image`, most often one) and calls the tags of all of them the truth:
what generation adds is then right or wrong against what was not shown. And it can plant false tags
(`data.measure.planted`), so that what cleaning removes is right or wrong as well.

What must not happen is that a measure leaks into what it measures. Hidden captions leave `captions` when the shards are
read, before a vocabulary, an encoder or a label system is made of them; they travel in the column `unseen`, which only
`parse` reads, and end as names in `labels`, where human labels would stand and which nothing is trained on. Planted
tags look in every respect like the others: same origin, same score, in a caption's tags, at a random place among them.
They are told apart by the truth alone, which lacks them.

Both choices follow from the run's seed and the picture's key, so they do not depend on shards, blocks or machines.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from ram_ray.label_system import LabelSystem


def hide_captions(row: dict[str, Any], *, keep: int, seed: int) -> dict[str, Any]:
    """A `records.SAMPLE` row with `keep` of its captions, in their order; the others are in `unseen`."""
    captions = row["captions"] or []
    shown = sorted(_random(row["key"], seed, "captions").sample(range(len(captions)), min(keep, len(captions))))
    hidden = [text for place, text in enumerate(captions) if place not in shown]
    return {**row, "captions": [captions[place] for place in shown], "unseen": hidden}


class Planter:
    """Puts false tags into annotations, drawn by how often captions name them.

    Args:
        share: planted tags for each tag that is there; the fraction that is left of an image's number is a chance.
    """

    def __init__(self, system: LabelSystem, *, share: float, seed: int) -> None:
        self.share, self.seed = share, seed
        self._counts = {label.id: label.count for label in system.labels if label.count}

    def draw(self, key: str, *, num_tags: int, true: set[int]) -> list[int]:
        """Ids for the image `key` that has `num_tags` tags, none of them in `true`."""
        rng = _random(key, self.seed, "number")
        wanted = int(self.share * num_tags + rng.random())
        left = {id: count for id, count in self._counts.items() if id not in true} if wanted else {}
        drawn = []
        for _ in range(min(wanted, len(left))):
            (id,) = rng.choices(list(left), list(left.values()))
            del left[id]
            drawn.append(id)
        return drawn

    def plant(self, row: dict[str, Any], *, true: set[int]) -> None:
        """Add to a `records.ANNOTATION` row's captions and tags, each at a random place."""
        rng = _random(row["key"], self.seed, "place")
        for id in self.draw(row["key"], num_tags=len(row["tags"]), true=true):
            caption = rng.choice(row["captions"])
            place = rng.randint(0, len(caption["tags"]))
            caption["tags"].insert(place, id)
            caption["sources"].insert(place, "parsed")
            row["tags"].insert(rng.randint(0, len(row["tags"])), {"id": id, "origin": "parsed", "score": 1.0})


def truth_names(ids: Sequence[int], system: LabelSystem) -> list[str]:
    """Ids as names that `evaluation.evaluate.label_id` reads back: "object:dog"."""
    return [f"{system[id].kind}:{system[id].name}" for id in ids]


def _random(key: str, seed: int, what: str) -> random.Random:
    return random.Random(f"{seed}/{key}/{what}")
