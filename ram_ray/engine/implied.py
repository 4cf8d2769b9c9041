"""How often captions say a tag that another of their words implies: a bound on its say rate that needs no picture.

Who writes "surfboard" sees a wave, and says so or not. So the share of the captions with "surfboard" that say "wave" is
at most the share of pictures of waves whose captions say it, and the most telling of all other tags gives the highest
bound. A weak tagger is sure of nothing and bounds the say rate badly; captions are not weak. Where tags keep no
company, as in scenes drawn at random, the bound is low and changes nothing.

A name that shares a word with another ("player", "football player") is no witness: the caption said both at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ram_ray.engine.evidence import mentions
from ram_ray.label_system import LabelSystem

PAIRS = pa.schema([("pair", pa.int64()), ("count", pa.int64())])  # u T + t: pictures saying both; -1: all pictures
LEAST = 30  # pictures that say the tag that implies
SMOOTHING = 10.0  # pictures' worth of the tag's share of all pictures


def count_pairs(block: pa.Table, *, num_tags: int) -> pa.Table:
    """PAIRS rows of a block of SCORES rows; a tag with itself counts the pictures that say it."""
    good = block.filter(pc.is_null(block["reason"])).select(["captions", "removed"])
    pairs = [np.full(len(good), -1, np.int64)]
    for row in good.to_pylist():
        ids = np.array(sorted(set().union(*mentions(row))), np.int64)
        pairs.append((ids[:, None] * num_tags + ids[None, :]).ravel())
    pair, count = np.unique(np.concatenate(pairs), return_counts=True)
    return pa.table({"pair": pair, "count": count}).cast(PAIRS)


def implied_rate(tables: Iterable[pa.Table], system: LabelSystem) -> np.ndarray:
    """The highest bound on each tag's say rate, (T,), of PAIRS rows in which a pair stands once; 0 without any."""
    num_tags = len(system)
    parts = [(table["pair"].to_numpy(), table["count"].to_numpy()) for table in tables]
    pair, count = (np.concatenate(one) for one in zip(*parts, strict=True)) if parts else (np.zeros(0, np.int64),) * 2
    pictures = count[pair < 0].sum()
    pair, count = pair[pair >= 0], count[pair >= 0]
    one, other = pair // num_tags, pair % num_tags
    said = np.zeros(num_tags)
    said[one[one == other]] = count[one == other]
    keep = (one != other) & (said[one] >= LEAST) & ~np.isin(pair, _kin(system))
    one, other, count = one[keep], other[keep], count[keep]
    share = (count + SMOOTHING * said[other] / max(pictures, 1)) / (said[one] + SMOOTHING)
    bound = np.zeros(num_tags)
    np.maximum.at(bound, other, share)
    return bound


def _kin(system: LabelSystem) -> np.ndarray:
    """Pairs of tags whose names share a word."""
    of_word: dict[str, list[int]] = defaultdict(list)
    for label in system.labels:
        for word in set(label.name.replace("-", " ").split()):
            of_word[word].append(label.id)
    pairs = [one * len(system) + other for ids in of_word.values() for one in ids for other in ids if one != other]
    return np.array(pairs, np.int64)
