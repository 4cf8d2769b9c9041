"""Estimate how likely an addition is correct when captions are the only truth, and the threshold of each tag.

The precision against captions is too low, since captions do not mention all that is on an image. So it is corrected,
on images that the model did not learn from:

    g   probability that a caption mentions the tag, given the score (monotone; `_fit_curve`)
    c   mention rate: share of the images with the tag whose captions mention it (`mention_rate`). With p the
        probability that the tag is true, g = c p if a mention does not depend on the score (Elkan and Noto 2008,
        "Learning classifiers from only positive and unlabeled data", section 2)
    r   probability that an unmentioned tag is true: r = (1 - c) p / (1 - c p)

c is the weak estimate: where p is below 1 even at the highest scores, g there is only a lower bound of c. All choices
err towards a higher c, and so towards fewer additions.

Letters: T tags, B bins of the score, V votes (generated captions that mention the tag, 0 to V - 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit

BINS = 160  # B
LOGITS = (-10.0, 10.0)
MIN_TOP_IMAGES = 20  # c is estimated on at least so many images with the highest scores
NEWTON_STEPS = 30


@dataclass(frozen=True)
class MentionCounts:
    """Counts over images that the model did not learn from; all arrays are int64 or float64."""

    images: np.ndarray  # (V, T, B) images
    mentioned: np.ndarray  # (V, T, B) of these, images with a caption that mentions the tag
    once: np.ndarray  # (T,) images with several captions of which exactly one mentions the tag
    twice: np.ndarray  # (T,) ... exactly two
    often: np.ndarray  # (T,) ... three or more
    captions: float = 1.0  # mean number of captions of the images with several
    rate_bounds: np.ndarray | float = 0.0  # (T,) lower bound of c from captions (`data_engine.mention_rate_bound`)


@dataclass(frozen=True)
class Calibration:
    """Estimates for each tag."""

    mentioned: np.ndarray  # (V, T, B) g
    mention_rate: np.ndarray  # (T,) c
    correct: np.ndarray  # (V, T, B) r
    vote_odds: np.ndarray  # (V,) factor on the odds of a mention for each number of votes


def bin_of(logits: np.ndarray) -> np.ndarray:
    """Bins of logits; values outside `LOGITS` go into the first or the last bin.

    Args:
        logits: float, of any shape.

    Returns:
        int64, 0 to B - 1, in the shape of `logits`.
    """
    low, high = LOGITS
    return np.clip((np.asarray(logits, np.float64) - low) * (BINS / (high - low)), 0, BINS - 1).astype(np.int64)


def edge_of(bins: npt.ArrayLike) -> np.ndarray:
    """Logit at which a bin begins.

    Args:
        bins: int, of any shape; B stands for the end of the last bin.

    Returns:
        float64, in the shape of `bins`.
    """
    low, high = LOGITS
    return low + np.asarray(bins) * ((high - low) / BINS)


def calibrate(counts: MentionCounts) -> Calibration:
    """Estimate g, c and r of each tag by the formulas of the module.

    A generated caption that mentions the tag multiplies the odds of a mention (`_vote_odds`), and so those of r.

    Args:
        counts: mentions by votes, tag and score.

    Returns:
        The estimates; arrays are float64.

    Raises:
        ValueError: if there is no image, or no caption mentions any tag.
    """
    if not counts.images.sum() or not counts.mentioned.sum():
        raise ValueError(
            "no image to calibrate on has a tag in its captions; raise engine.holdout, set engine.folds from 2, or "
            "use engine.generate.threshold with engine.generate.precision=null"
        )
    odds = _vote_odds(counts.images, counts.mentioned)
    curve = _fit_curve(counts.images, counts.mentioned, odds)
    rate = mention_rate(counts, curve)
    mentioned = expit(_logit(curve) + np.log(odds)[:, None, None])
    true = np.minimum(mentioned / rate[:, None], max_probability(counts.mentioned.sum((0, 2)))[:, None])
    unmentioned = np.maximum(1 - rate[:, None] * true, 1e-9)
    return Calibration(mentioned, rate, (1 - rate[:, None]) * true / unmentioned, odds)


def max_probability(mentioned: np.ndarray) -> np.ndarray:
    """Upper bound of p by the rule of succession, as if all images with the highest scores had the tag.

    Args:
        mentioned: (T,) images with a caption that mentions the tag.

    Returns:
        (T,) float64, in (0, 1).
    """
    return 1 - 1 / (np.maximum(MIN_TOP_IMAGES, mentioned / 10) + 2)


def mention_rate(counts: MentionCounts, curve: np.ndarray) -> np.ndarray:
    """The mention rate c of each tag: the share of the images with the tag whose captions mention it.

    Images with several captions give c directly: images with the tag that no caption mentions are estimated from the
    tags mentioned once and twice (Chao 1987, capture-recapture). With single captions there are two lower bounds, g at
    the highest scores and `MentionCounts.rate_bounds`. The logits of the higher bound are normally distributed over the
    tags, and c is the mean of that distribution above the tag's own bound. A tag that the model separates well keeps
    its own bound: the weight of the bound is the fourth power of the mean g of its mentions over the highest g.

    Args:
        counts: mentions by votes, tag and score.
        curve: (T, B) float, g without votes.

    Returns:
        (T,) float64, in (0, 1).
    """
    images, mentioned = counts.images.sum(0), counts.mentioned.sum((0, 2))
    bound = _top_mean(images, curve, mentioned)
    several = counts.once + counts.twice + counts.often
    separation = ((counts.mentioned.sum(0) * curve).sum(1) / np.maximum(mentioned, 1) / bound).clip(0, 1) ** 4
    own = _logit(np.clip(np.maximum(bound, counts.rate_bounds), 1e-6, 1 - 1e-6))
    mean, deviation = _weighted_moments(own, weights=mentioned * separation**2)
    above = _logit(_mean_above(own, mean=mean, deviation=deviation))
    rate = expit(own + (1 - separation) * (above - own))
    if several.sum():
        never = (counts.captions - 1) / counts.captions * counts.once * np.maximum(counts.once - 1, 0)
        never = never / (2 * (counts.twice + 1))
        overall = several.sum() / (several.sum() + never.sum())
        smoothed = (several + 10 * overall) / (several + never + 10)  # prior: ten images at the overall rate
        rate = np.where(several > 0, np.maximum(smoothed, bound), np.maximum(overall, bound))
    return np.clip(rate, 1e-3, 1 - 1e-6)


def thresholds(calibration: Calibration, candidates: np.ndarray, *, precision: float) -> np.ndarray:
    """The lowest bin from which each tag is added so that its additions have this precision.

    The cells of a tag are taken in descending order of r, over all votes, while the mean r of the cells taken reaches
    the precision. So a vote lowers the threshold as far as it raises r.

    Args:
        calibration: probability that an addition is correct, in each cell.
        candidates: (V, T, B) images without the tag.
        precision: lowest share of correct additions of a tag, 0 to 1.

    Returns:
        (V, T) int64 bins, 0 to B; with B the tag is never added.
    """
    votes, tags, bins = candidates.shape
    correct = calibration.correct.transpose(1, 0, 2).reshape(tags, -1)
    weight = candidates.transpose(1, 0, 2).reshape(tags, -1) + 1e-6  # an empty cell counts little
    order = np.argsort(-correct, axis=1, kind="stable")
    ranked, weights = np.take_along_axis(correct, order, 1), np.take_along_axis(weight, order, 1)
    mean = np.cumsum(ranked * weights, axis=1) / np.cumsum(weights, axis=1)
    reached = mean >= precision
    last = np.where(reached.any(axis=1), reached.shape[1] - 1 - reached[:, ::-1].argmax(axis=1), -1)
    lowest = np.where(last >= 0, np.take_along_axis(ranked, np.maximum(last, 0)[:, None], 1)[:, 0], np.inf)
    added = calibration.correct >= lowest[:, None]  # (V, T, B), from some bin on, since r never falls
    return np.where(added.any(axis=2), added.argmax(axis=2), bins).reshape(votes, tags)


def _vote_odds(images: np.ndarray, mentioned: np.ndarray) -> np.ndarray:
    """Factor on the odds of a mention for each number of votes, (V,); never falls with the votes.

    The common odds ratio over the strata (tag, bin) of Mantel and Haenszel (1959). Half an image is added to numerator
    and denominator, so that few images give a factor near 1.
    """
    odds = [1.0]
    base_mentioned, base_unmentioned = mentioned[0], images[0] - mentioned[0]
    for vote in range(1, len(images)):
        vote_mentioned, vote_unmentioned = mentioned[vote], images[vote] - mentioned[vote]
        total = np.maximum(images[0] + images[vote], 1)
        numerator = (vote_mentioned * base_unmentioned / total).sum() + 0.5
        denominator = (vote_unmentioned * base_mentioned / total).sum() + 0.5
        odds.append(max(odds[-1], numerator / denominator))
    return np.array(odds)


def _fit_curve(images: np.ndarray, mentioned: np.ndarray, odds: np.ndarray) -> np.ndarray:
    """The curve g without votes, (T, B): sigmoid(a + b x) for each tag, with x the logit of the curve of all tags.

    The curve of all tags is isotonic. a and b are the most likely values under a ~ N(0, 1) and b ~ N(1, 0.5), by
    Newton's method, so a rare tag keeps the common curve. Votes shift the logit.
    """
    from scipy.optimize import isotonic_regression  # 0.4 s of CPU: workers that score do not need it

    total, hits = images.sum((0, 1)), mentioned.sum((0, 1))
    prior = hits.sum() / total.sum()
    common = isotonic_regression((hits + prior) / (total + 1), weights=total + 1).x
    x = _logit(_interpolate_steps(common, total))  # (B,)
    shift = np.log(odds)[:, None]  # (V, 1)
    weights = np.tile([0.0, 1.0], (images.shape[1], 1))  # (T, 2), a and b
    for _ in range(NEWTON_STEPS):
        # gradient of the log-likelihood, and its negative Hessian
        gradient_a, gradient_b = -weights[:, 0], -(weights[:, 1] - 1) / 0.25
        hessian_aa, hessian_ab = np.ones(len(weights)), np.zeros(len(weights))
        hessian_bb = np.full(len(weights), 1 / 0.25)
        for vote in range(len(images)):
            probability = expit(weights[:, :1] + weights[:, 1:] * x + shift[vote])  # (T, B)
            residual = mentioned[vote] - images[vote] * probability
            variance = images[vote] * probability * (1 - probability)
            gradient_a, gradient_b = gradient_a + residual.sum(1), gradient_b + residual @ x
            hessian_aa, hessian_ab = hessian_aa + variance.sum(1), hessian_ab + variance @ x
            hessian_bb = hessian_bb + variance @ x**2
        determinant = hessian_aa * hessian_bb - hessian_ab**2
        step_a = (hessian_bb * gradient_a - hessian_ab * gradient_b) / determinant
        step_b = (hessian_aa * gradient_b - hessian_ab * gradient_a) / determinant
        step = np.stack([step_a, step_b], axis=1)
        weights = weights + np.clip(step, -0.5, 0.5)
        weights[:, 1] = np.maximum(weights[:, 1], 0.05)
        if np.abs(step).max() < 1e-4:
            break
    return expit(weights[:, :1] + weights[:, 1:] * x)


def _interpolate_steps(steps: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Linear interpolation of a nondecreasing step function through the middles of its steps, constant at the ends."""
    starts = np.flatnonzero(np.diff(steps, prepend=-1) > 0)
    ends = np.append(starts[1:], len(steps))
    bins = np.arange(len(steps))
    middles = [
        np.average(bins[start:end], weights=weights[start:end] + 1e-6) for start, end in zip(starts, ends, strict=True)
    ]
    return np.interp(bins, middles, steps[starts])


def _top_mean(images: np.ndarray, curve: np.ndarray, mentioned: np.ndarray) -> np.ndarray:
    """Mean g over the images with the highest scores of each tag, (T,).

    Their number is a tenth of the images that mention the tag, at least MIN_TOP_IMAGES.
    """
    num_images = np.maximum(MIN_TOP_IMAGES, mentioned / 10)[:, None]
    above = np.cumsum(images[:, ::-1], axis=1)[:, ::-1]
    taken = np.clip(num_images - (above - images), 0, images)  # of each bin, from the highest
    return np.clip((taken * curve).sum(1) / np.maximum(taken.sum(1), 1e-9), 1e-6, 1 - 1e-6)


def _weighted_moments(logits: np.ndarray, *, weights: np.ndarray) -> tuple[float, float]:
    """Weighted mean and standard deviation; square roots of the weights limit the influence of frequent tags."""
    share = np.sqrt(weights + 1e-12) / np.sqrt(weights + 1e-12).sum()
    mean = float((share * logits).sum())
    return mean, max(float(np.sqrt((share * (logits - mean) ** 2).sum())), 0.05)


def _mean_above(bounds: np.ndarray, *, mean: float, deviation: float) -> np.ndarray:
    """Mean of sigmoid(z), z ~ N(mean, deviation), over z >= bound, (T,): by sums over a grid."""
    grid = mean + deviation * np.linspace(-8, 8, 801)
    density = np.exp(-0.5 * ((grid - mean) / deviation) ** 2)
    mass, moment = (np.cumsum(values[::-1])[::-1] for values in (density, density * expit(grid)))
    index = np.clip(np.searchsorted(grid, bounds), 0, len(grid) - 1)
    return np.maximum(moment[index] / mass[index], expit(bounds))


def _logit(values: np.ndarray) -> np.ndarray:
    values = np.clip(values, 1e-9, 1 - 1e-9)
    return np.log(values) - np.log1p(-values)
