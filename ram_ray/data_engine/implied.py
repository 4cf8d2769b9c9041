"""How often captions say a tag that another of their words implies: a bound on its say rate that needs no picture.

Who writes "surfboard" sees a wave, and says so or not. So the share of the captions with "surfboard" that say "wave" is
at most the share of pictures of waves whose captions say it, and the most telling of all other tags gives the highest
bound. A weak tagger is sure of nothing and bounds the say rate badly; captions are not weak. Where tags keep no
company, as in scenes drawn at random, the bound is low and changes nothing.

A name that shares a word with another ("player", "football player") is no witness: the caption said both at once.
"""

from __future__ import annotations

import numpy as np

from ram_ray.data_engine.pairs import Pairs

LEAST = 30  # pictures that say the tag that implies
SMOOTHING = 10.0  # pictures' worth of the tag's share of all pictures


def implied_rate(pairs: Pairs) -> np.ndarray:
    """The highest bound on each tag's say rate.

    Args:
        pairs: of tags that captions say together.

    Returns:
        (T,) float64; 0 without any.
    """
    num_tags, said = pairs.num_tags, pairs.said().sum(axis=1)
    one = np.repeat(np.arange(num_tags), np.diff(pairs.starts))
    kin = np.repeat(np.arange(num_tags), np.diff(pairs.kin_starts)) * num_tags + pairs.kin
    keep = (said[one] >= LEAST) & ~np.isin(one * num_tags + pairs.other, kin)
    one, other, count = one[keep], pairs.other[keep], pairs.inside[keep].sum(axis=1)
    share = (count + SMOOTHING * said[other] / max(pairs.pictures.sum(), 1)) / (said[one] + SMOOTHING)
    bound = np.zeros(num_tags)
    np.maximum.at(bound, other, share)
    return bound
