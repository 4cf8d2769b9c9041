"""Hidden captions and planted tags, to measure the data engine on photos without complete labels.

A run that measures trains on some captions of an image (`data.measure.captions_per_image`, mostly one) and takes the
tags of all its captions as the truth: a tag that generation adds is right or wrong by the captions that were hidden. It
can also plant false tags (`data.measure.planted`): a tag that cleaning removes is right or wrong by the same truth.

The truth must not leak into training. Hidden captions leave `captions` when the shards are read, before a vocabulary,
an encoder or a label system is made; they are in the column `hidden_captions`, which only `parse` reads, and become
names in `labels`, which nothing is trained on. Planted tags have the origin and score of other tags and a random
position among them. Both choices follow from the run's seed and the image's key, so they do not depend on shards,
blocks or machines.
"""

from __future__ import annotations

import random

from ram_ray.records import Row


def hide_captions(row: Row, *, num_shown: int, seed: int) -> Row:
    """Move all but `num_shown` captions of a row, drawn at random, from `captions` to `hidden_captions`.

    Args:
        row: a row of `records.SAMPLE`.
        num_shown: most captions that stay in `captions`.
        seed: seed of the draw, with the row's key.

    Returns:
        The row with both columns, each in the order of the captions, and without `given_tags`, which are made of all
        captions.
    """
    captions = row["captions"] or []
    shown = sorted(
        seeded_random(row["key"], seed, "captions").sample(range(len(captions)), min(num_shown, len(captions)))
    )
    hidden = [text for index, text in enumerate(captions) if index not in shown]
    return {**row, "captions": [captions[index] for index in shown], "hidden_captions": hidden, "given_tags": None}


def seeded_random(key: str, seed: int, what: str) -> random.Random:
    """A random generator for one choice about one image.

    Args:
        key: key of the image.
        seed: seed of the run.
        what: name of the choice.

    Returns:
        A generator whose draws follow from the three arguments alone.
    """
    return random.Random(f"{seed}/{key}/{what}")
