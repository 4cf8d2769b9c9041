"""Bootstrap over images: intervals of a figure, and paired tests of two models on the same images.

A replicate gives each image a weight of Poisson(1), in place of drawing N of N images. The weight follows from the
image's key, the seed and the number of the replicate alone. So classes that are measured in different tasks, and two
models that were scored apart, get the same replicates: a mean over classes and a difference of two models are computed
replicate by replicate.

The test of the difference d of two APs of a class is Student's t: d / (standard deviation of d over the replicates),
with one degree of freedom less than the class has positives, because an AP is a mean over positives. Quantiles of the
replicates would need thousands of them for each class to reach the levels that a correction for so many classes asks.
Holm's correction bounds the probability that any class is named by chance.

Letters: N images, R replicates, C classes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ram_ray.runtime.key_hash import hash_key

LEVEL = 0.95  # of an interval
CHUNK_WEIGHTS = 16_000_000  # weights that are held at once, a byte each
_HASHED_WORDS = 100_000  # at once: they stay in the processor's cache
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Resampling:
    """How images are drawn again; without replicates there are no intervals."""

    replicates: int = 1000
    seed: int = 0


def image_ids(keys: Iterable[str]) -> np.ndarray:
    """Hash the keys of images.

    Args:
        keys: of N images.

    Returns:
        (N,) uint64.
    """
    return np.array([hash_key(key, purpose="image weight") for key in keys], np.uint64)


def image_weights(ids: np.ndarray, resampling: Resampling, *, columns: slice | None = None) -> np.ndarray:
    """Draw the weight of each image in each replicate.

    Args:
        ids: (N,) uint64, of `image_ids`.
        resampling: number of replicates, and the seed.
        columns: the replicates that are asked, the first a multiple of 4; None: all R.

    Returns:
        (N, R) uint8.
    """
    columns = columns or slice(0, resampling.replicates)
    assert columns.start % 4 == 0
    words = np.arange(columns.start // 4, -(-columns.stop // 4), dtype=np.uint64)  # a word is four draws of 16 bits
    stream, table = np.uint64(hash_key("image weight", seed=resampling.seed)), _poisson_table()
    weights = np.empty((len(ids), columns.stop - columns.start), np.uint8)
    step = max(1, _HASHED_WORDS // max(1, len(words)))
    for start in range(0, len(ids), step):
        rows = slice(start, start + step)
        with np.errstate(over="ignore"):  # SplitMix64 counts modulo 2^64
            state = (ids[rows] ^ stream)[:, None] + _GOLDEN * (words + np.uint64(1))
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state ^= state >> np.uint64(31)
        weights[rows] = table[state.astype("<u8", copy=False).view("<u2")][:, : weights.shape[1]]
    return weights


def weight_chunks(ids: np.ndarray, resampling: Resampling) -> Iterator[tuple[slice, np.ndarray]]:
    """Draw the weights in parts of bounded memory.

    Args:
        ids: (N,) uint64.
        resampling: number of replicates, and the seed.

    Yields:
        The part's replicates, and their weights (N, r) uint8.
    """
    step = max(4, CHUNK_WEIGHTS // max(1, len(ids)) // 4 * 4)
    for start in range(0, resampling.replicates, step):
        columns = slice(start, min(start + step, resampling.replicates))
        yield columns, image_weights(ids, resampling, columns=columns)


def ap_replicates(scores: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average precision of one class with weighted images; images with equal scores are one step of the ranking.

    Args:
        scores: (N,) float.
        targets: (N,) bool.
        weights: (N, R) uint8.

    Returns:
        (R,) float32; NaN in a replicate without positives.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], targets[order]
    positives = np.flatnonzero(hits)
    if not len(positives):
        return np.full(weights.shape[1], np.nan, np.float32)
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)  # last rank of each step
    step_of = np.searchsorted(ends, positives)  # the step of each positive
    first_positive = np.flatnonzero(np.append(True, step_of[1:] != step_of[:-1]))  # one for each step that has any
    last_ranks = ends[step_of[first_positive]]
    segments = np.append(0, last_ranks[:-1] + 1)  # ranks after the step before, to the end of the step
    images = np.add.reduceat(weights[order[: last_ranks[-1] + 1]], segments, axis=0, dtype=np.int32)
    step_hits = np.add.reduceat(weights[order[positives]], first_positive, axis=0, dtype=np.int32)
    ranks, all_hits = images.cumsum(axis=0), step_hits.cumsum(axis=0)
    gained = (step_hits * (all_hits / np.maximum(ranks, 1))).sum(axis=0)
    total = all_hits[-1]
    return np.where(total > 0, gained / np.maximum(total, 1), np.nan).astype(np.float32)


def interval(value: float, replicates: np.ndarray, *, level: float = LEVEL) -> tuple[float, float] | None:
    """Interval of a figure: the quantiles of its replicates, moved so that their mean is the figure.

    The replicates of an AP lie too high, the more so the fewer positives there are: a positive that is drawn twice
    ranks beside itself. Those of a mean precision lie too low. Their spread is that of the figure.

    Args:
        value: the figure on the images themselves.
        replicates: (R,) float; NaN where a replicate does not have the figure.
        level: of the interval.

    Returns:
        (low, high): of test sets of this size, such an interval holds the mean figure as often as the level says. None
        if no two replicates have the figure.
    """
    known = replicates[~np.isnan(replicates)].astype(np.float64)
    if len(known) < 2:
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2]) - known.mean() + value
    return float(low), float(high)


def mean_over_classes(replicates: np.ndarray) -> np.ndarray:
    """Mean of the classes in each replicate, such as mAP; a class without positives in a replicate is not averaged.

    Args:
        replicates: (C, R) float.

    Returns:
        (R,) float64; NaN where no class has a value.
    """
    known = ~np.isnan(replicates)
    counts = known.sum(axis=0)
    sums = np.where(known, replicates, 0).sum(axis=0, dtype=np.float64)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def paired_p_value(difference: float, replicates: np.ndarray, *, num_positives: int | None = None) -> float:
    """Two-sided probability of so large a difference of two models if they are equally good.

    Args:
        difference: of the two figures on the images themselves.
        replicates: (R,) float, the difference in each replicate.
        num_positives: of the class; None: the figure is a mean over classes, and the test is that of the normal
            distribution.

    Returns:
        0 to 1; 1 if the test cannot be made: fewer than two positives or replicates.
    """
    from scipy.special import ndtr, stdtr

    known = replicates[~np.isnan(replicates)]
    if difference == 0 or len(known) < 2 or (num_positives is not None and num_positives < 2):
        return 1.0
    deviation = float(np.std(known, ddof=1))
    if deviation == 0:  # the same in every replicate: all or no images are ranked otherwise
        return 1.0
    statistic = -abs(difference) / deviation
    tail = ndtr(statistic) if num_positives is None else stdtr(num_positives - 1, statistic)
    return float(min(1.0, 2 * tail))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Correct p-values for their number by Holm's method.

    Args:
        p_values: (C,) float.

    Returns:
        (C,) float: with those of at most a are named, the probability that any is named by chance is at most a.
    """
    p_values = np.asarray(p_values, float)
    order = np.argsort(p_values, kind="stable")
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps))
    return corrected


@functools.cache
def _poisson_table() -> np.ndarray:
    """Weight by a draw of 16 bits: (65536,) uint8, whose mean is 1 to the last of these bits."""
    from scipy.special import pdtr

    return np.searchsorted(pdtr(np.arange(16), 1.0), (np.arange(65536) + 0.5) / 65536).astype(np.uint8)
