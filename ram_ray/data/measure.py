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
from typing import Any


def hide_captions(row: dict[str, Any], *, keep: int, seed: int) -> dict[str, Any]:
    """A `records.SAMPLE` row with `keep` of its captions, in their order; the others are in `unseen`.

    Args:
        row: of SAMPLE.
        keep: most captions that are kept.
        seed: of the draw, with the row's key.
    """
    captions = row["captions"] or []
    shown = sorted(random_of(row["key"], seed, "captions").sample(range(len(captions)), min(keep, len(captions))))
    hidden = [text for place, text in enumerate(captions) if place not in shown]
    return {**row, "captions": [captions[place] for place in shown], "unseen": hidden}


def random_of(key: str, seed: int, what: str) -> random.Random:
    """Draws for one choice about one image.

    Args:
        key: of the image.
        seed: of the run.
        what: name of the choice.
    """
    return random.Random(f"{seed}/{key}/{what}")
