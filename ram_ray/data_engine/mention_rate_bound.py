"""A lower bound of a tag's mention rate from the captions alone, for taggers without sure scores.

Captions with "surfboard" show a wave, mentioned or not. So the share of the captions with "surfboard" that mention
"wave" is at most the mention rate of "wave" on these images:

    bound(t) = max over u of (n(u, t) + A n(t) / n) / (n(u) + A)

with n(.) the images whose captions mention the tags. Where tags do not occur together, the bound is low and has no
effect. A name that shares a word with another ("player", "football player") gives no bound: one phrase mentions both.

Letters: T tags.
"""

from __future__ import annotations

import numpy as np

from ram_ray.data_engine.tag_pairs import Pairs

MIN_IMAGES = 30  # least n(u)
SMOOTHING = 10.0  # A, in images


def mention_rate_bounds(pairs: Pairs) -> np.ndarray:
    """The highest lower bound of each tag's mention rate.

    Args:
        pairs: counts of tags that captions mention together.

    Returns:
        (T,) float64; 0 without a bound.
    """
    num_tags, num_images = pairs.num_tags, pairs.tag_counts().sum(axis=1)
    tag = np.repeat(np.arange(num_tags), np.diff(pairs.starts))
    excluded = np.repeat(np.arange(num_tags), np.diff(pairs.same_word_starts)) * num_tags + pairs.same_word
    valid = (num_images[tag] >= MIN_IMAGES) & ~np.isin(tag * num_tags + pairs.other, excluded)
    tag, other, count = tag[valid], pairs.other[valid], pairs.pair_counts[valid].sum(axis=1)
    share = (count + SMOOTHING * num_images[other] / max(pairs.num_images.sum(), 1)) / (num_images[tag] + SMOOTHING)
    bound = np.zeros(num_tags)
    np.maximum.at(bound, other, share)
    return bound
