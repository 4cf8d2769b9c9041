"""The probability that a tag is wrong, from signals of the tagger and the teacher, within a label.

`SIGNALS` of each (image, tag), computed alike for images with the tag (positives) and without it (negatives):

    image_score           the tagger's probability on the whole image
    region_score          the tagger's probability on the tag's region
    prototype_similarity  of the region's embedding, to a prototype of the label (`data_engine.clustering`)
    detector_score        the detector's score of the region
    co_occurrence         co-occurrence with the image's other tags (`data_engine.co_occurrence`)

A wrong tag has the signals of a negative. So signals become normal scores within the label (`normal_scores`),
Fisher's discriminant of positives against negatives weights them (`discriminant`), and along it the positives are a
mixture of right ones and a share c of wrong ones, which lie where the negatives lie (`mixture`).

Letters: N positive rows, M negative rows, F signals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIGNALS = ("image_score", "region_score", "prototype_similarity", "detector_score", "co_occurrence")
OF_REGION = slice(1, 4)  # the signals that depend on the region
NUM_ASSUMED = 8  # assumed negatives in each label, `GAP` below the positives in each signal
GAP = 1.5  # standard deviations
PRIOR_ROWS = 30.0  # weight of the expected share of wrong tags, in rows
RIDGE = 0.1  # added to each variance, so that few rows do not give large weights
ITERATIONS = 50


@dataclass(frozen=True)
class Evidence:
    """Estimates for the N positive rows of a label."""

    wrong: np.ndarray  # (N,) float64, probability that the tag is wrong
    contributions: np.ndarray  # (N, F) float64: log-odds of each signal for the tag, relative to the label's mean
    share: float  # c, the estimated share of wrong tags
    weights: np.ndarray  # (F,) float64 of the signals


def estimate_wrong(
    positive: np.ndarray,
    negative: np.ndarray,
    *,
    mentioned: np.ndarray,
    expected: float,
    detected: np.ndarray | None = None,
) -> Evidence:
    """Estimate which positives of a label are wrong, by comparison with negatives.

    Weights and mixture are fitted on mentioned positives only. The engine added tags for high signals, so added rows
    score above right mentioned ones, and fitting on them would make right mentioned tags look wrong. `NUM_ASSUMED`
    negatives are added, so that the signals have equal weights in a label with few or no negatives. If positives
    and negatives have the same signals, all probabilities stay near c.

    Args:
        positive: (N, F) float signals of rows with the tag.
        negative: (M, F) float signals of rows without it.
        mentioned: (N,) bool, positives whose tag a caption mentions; if there is none, all positives are fitted on.
        expected: expected share of wrong tags among the positives, 0 to 1.
        detected: (N + M,) bool, positives first: which detector found the region; signals of a region are compared
            with those of the same detector alone. None: the same for all.

    Returns:
        The probability of each positive to be wrong, and how each signal contributes to it.
    """
    rows = np.concatenate([positive, negative])
    scores = normal_scores(rows)
    if detected is not None and detected.any() and not detected.all():
        for found in (detected, ~detected):
            scores[found, OF_REGION] = normal_scores(rows[found, OF_REGION])
    positive_scores = scores[: len(positive)]
    fitted = positive_scores[mentioned] if mentioned.any() else positive_scores
    assumed = np.tile(fitted.mean(axis=0) - GAP * scores.std(axis=0), (NUM_ASSUMED, 1))
    negative_scores = np.concatenate([scores[len(positive) :], assumed])
    weights = discriminant(fitted, negative_scores)
    projected, base = positive_scores @ weights, negative_scores @ weights
    share, centre, width = mixture(fitted @ weights, base, expected=expected)
    log_ratio = (projected - (centre + base.mean()) / 2) * (centre - base.mean()) / width**2  # right : wrong
    wrong = share / (share + (1 - share) * np.exp(np.clip(log_ratio, -50, 50)))
    slope = (centre - base.mean()) / width**2
    return Evidence(wrong, (positive_scores - positive_scores.mean(axis=0)) * weights * slope, share, weights)


def normal_scores(rows: np.ndarray) -> np.ndarray:
    """Ranks of each column (ties share theirs) as quantiles of the normal distribution.

    No monotone change of a signal, such as another calibration, changes them.

    Args:
        rows: (N, F) float.

    Returns:
        (N, F) float64.
    """
    from scipy.special import ndtri
    from scipy.stats import rankdata

    return ndtri((rankdata(rows, axis=0) - 0.5) / len(rows))


def discriminant(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Fisher's linear discriminant with nonnegative weights.

    A signal that does not separate positives from negatives gets no weight, and correlated signals share theirs.

    Args:
        positive: (N, F) float scores.
        negative: (M, F) float scores.

    Returns:
        (F,) float64, 0 or more.
    """
    gap = positive.mean(axis=0) - negative.mean(axis=0)
    centred = np.concatenate([positive - positive.mean(axis=0), negative - negative.mean(axis=0)])
    within = centred.T @ centred / len(centred) + RIDGE * np.eye(len(gap))
    from scipy.optimize import nnls

    root = np.linalg.cholesky(within)  # within w = gap, in least squares with w >= 0
    weights, _ = nnls(root.T, np.linalg.solve(root, gap))
    return weights


def mixture(projected: np.ndarray, base: np.ndarray, *, expected: float) -> tuple[float, float, float]:
    """Fit positives as a mixture of right and wrong ones by expectation-maximisation.

    Both are normally distributed with the same standard deviation, and the wrong ones have the mean of the negatives.
    The share of wrong ones is drawn towards `expected` with the weight of `PRIOR_ROWS` rows.

    Args:
        projected: (N,) float, positives along the discriminant.
        base: (M,) float, negatives along it.
        expected: expected share of wrong ones, 0 to 1.

    Returns:
        Share of wrong ones, mean of the right ones, and the common standard deviation.
    """
    low, share = float(base.mean()), expected
    centre = max(float(projected.mean()), low)
    width = max(float(np.sqrt(np.concatenate([projected - projected.mean(), base - low]).var())), 1e-6)
    for _ in range(ITERATIONS):
        log_ratio = (projected - (centre + low) / 2) * (centre - low) / width**2
        wrong = share / (share + (1 - share) * np.exp(np.clip(log_ratio, -50, 50)))
        share = float((wrong.sum() + PRIOR_ROWS * expected) / (len(projected) + PRIOR_ROWS))
        share = min(max(share, 1e-4), 0.9)
        centre = max(float(((1 - wrong) * projected).sum() / max((1 - wrong).sum(), 1e-9)), low)
        squares = (1 - wrong) * (projected - centre) ** 2 + wrong * (projected - low) ** 2
        spread = squares.sum() + ((base - low) ** 2).sum()
        width = max(float(np.sqrt(spread / (len(projected) + len(base)))), 1e-6)
    return share, centre, width
