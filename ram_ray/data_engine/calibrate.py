"""How often a tag that the model would add is right, though the only truth at hand are captions that leave things out.

A tag's precision against captions is too low by what captions do not say: half of the dogs that "no caption names" are
dogs. So the estimate goes in three steps, on pictures that the model did not see (letters below):

    g   how often captions say the tag at this score. One curve for the whole system, monotone (isotonic regression),
        bent for each tag by two numbers as far as the tag's own pictures say so: a rare tag keeps the system's curve.
    c   how often a caption says a tag that is true. Elkan and Noto (2008, "Learning classifiers from only positive and
        unlabeled data", section 2) show that g = c p, where p is how often the tag is true, if what is said does not
        depend on the score; so that where p is 1, among the surest pictures, g is c.
    r   how often the tag is true where no caption says it, which is what adding it gets right:
        r = (1 - c) p / (1 - c p). A tag that is nearly always said (c near 1) has little to add unless p is very near
        1, which so many surest pictures can show only so well.

c is the weak place: a model that is never sure has no picture with p = 1, and then g is only a bound, c >= g. Two
things help. Where pictures have several captions, one caption's silence is seen through another's word: the tags said
by none are estimated from those said once and twice (Chao 1987, the capture-recapture estimate that allows for things
of unequal salience). Where they have one, there is a second bound, from what the captions' other words imply
(`data_engine.implied`), and tags lend each other strength: the bounds spread over the tags as their logits do, and a
tag's c is the mean of that spread above the tag's own bound. If all tags agree,
as where a caption drops each thing with the same chance, the spread is small and c is that common rate; if they differ,
c is well above the bound, and little is added that is not sure. A tag whose mentions nearly all lie where g is highest
is one that the model tells apart, and keeps its own bound: the fourth power of their mean g over that highest one is
how far that is trusted, and how much the tag counts in the spread. All of this errs on the side of adding less.

The score is the tagger's with the tag's company weighed in (`data_engine.weigh`). Company is of the captions' own
words, which go together in phrases as well as in pictures, so that at the same truth a tag is said more often in its
usual company. The surest pictures are those, c comes out higher for it, and the estimate lower.

The captioner's word is a second witness: the odds of being said are so many times larger where a generated caption
names the tag, at the same score of the same tag (Mantel and Haenszel 1959), and r's odds with them.

Letters: T tags, B bins of the score, V votes (generated captions that name the tag, 0 to V - 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BINS = 160  # B
LOGITS = (-10.0, 10.0)
SUREST = 20  # pictures at least that c is read from
NEWTON = 30


@dataclass(frozen=True)
class Evidence:
    """Counts over pictures that the model did not see; all arrays are int64 or float64."""

    images: np.ndarray  # (V, T, B) pictures
    said: np.ndarray  # (V, T, B) of these, those of which a caption says the tag
    once: np.ndarray  # (T,) pictures of several captions of which exactly one says it
    twice: np.ndarray  # (T,) ... exactly two
    often: np.ndarray  # (T,) ... three or more
    captions: float = 1.0  # a picture of several captions has so many in the mean
    implied: np.ndarray | float = 0.0  # (T,) a bound on c from the captions alone (`data_engine.implied`)


@dataclass(frozen=True)
class Calibration:
    """What is known of each tag."""

    said: np.ndarray  # (V, T, B) g
    rate: np.ndarray  # (T,) c: share of the pictures showing the tag of which the captions say it
    right: np.ndarray  # (V, T, B) r
    vote: np.ndarray  # (V,) factor on the odds for so many generated captions that name the tag


def bin_of(logits: np.ndarray) -> np.ndarray:
    """Bins of logits; those beyond the ends are in the end bins.

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
        bins: int, of any shape; B is the end of the last.

    Returns:
        float64, in the shape of `bins`.
    """
    low, high = LOGITS
    return low + np.asarray(bins) * ((high - low) / BINS)


def calibrate(evidence: Evidence) -> Calibration:
    """See above.

    Raises:
        ValueError: if there is no picture, or no caption says any tag.
    """
    if not evidence.images.sum() or not evidence.said.sum():
        raise ValueError(
            "no picture to calibrate on has a tag in its captions; raise engine.holdout, set engine.folds from 2, or "
            "use engine.generate.threshold with engine.generate.precision=null"
        )
    odds = _vote_odds(evidence.images, evidence.said)
    curve = _bent(evidence.images, evidence.said, odds)
    rate = say_rate(evidence, curve)
    said = _sigmoid(_logit(curve) + np.log(odds)[:, None, None])
    true = np.minimum(said / rate[:, None], surest_share(evidence.said.sum((0, 2)))[:, None])
    unsaid = np.maximum(1 - rate[:, None] * true, 1e-9)
    return Calibration(said, rate, (1 - rate[:, None]) * true / unsaid, odds)


def surest_share(said: np.ndarray) -> np.ndarray:
    """The most that p can be: by the rule of succession, as if the surest pictures all show the tag.

    Args:
        said: (T,) pictures whose captions say the tag.

    Returns:
        (T,) float64, in (0, 1).
    """
    return 1 - 1 / (np.maximum(SUREST, said / 10) + 2)


def say_rate(evidence: Evidence, curve: np.ndarray) -> np.ndarray:
    """The rate c of each tag: the share of the pictures showing it whose captions say it.

    Args:
        evidence: counts of pictures.
        curve: (T, B) float, g where no generated caption names the tag.

    Returns:
        (T,) float64, in (0, 1).
    """
    images, said = evidence.images.sum(0), evidence.said.sum((0, 2))
    bound = _surest(images, curve, said)
    several = evidence.once + evidence.twice + evidence.often
    sure = ((evidence.said.sum(0) * curve).sum(1) / np.maximum(said, 1) / bound).clip(0, 1) ** 4
    higher = _logit(np.clip(np.maximum(bound, evidence.implied), 1e-6, 1 - 1e-6))
    mean, spread = _spread(higher, weights=said * sure**2)
    above = _logit(_mean_above(higher, mean=mean, spread=spread))
    rate = _sigmoid(higher + (1 - sure) * (above - higher))
    if several.sum():
        unseen = (evidence.captions - 1) / evidence.captions * evidence.once * np.maximum(evidence.once - 1, 0)
        unseen = unseen / (2 * (evidence.twice + 1))
        whole = several.sum() / (several.sum() + unseen.sum())
        seen = (several + 10 * whole) / (several + unseen + 10)  # ten pictures' worth of the system's rate
        rate = np.where(several > 0, np.maximum(seen, bound), np.maximum(whole, bound))
    return np.clip(rate, 1e-3, 1 - 1e-6)


def thresholds(calibration: Calibration, candidates: np.ndarray, *, precision: float) -> np.ndarray:
    """The lowest bin from which each tag is added so that its additions have this precision: (V, T), BINS for never.

    A tag's cells are taken from the surest on while the mean of those taken is good enough, whatever the votes, so that
    a vote lowers the bin that is asked for exactly as far as it makes the tag likelier.

    Args:
        calibration: how likely an addition is right, in each cell.
        candidates: (V, T, B) pictures that do not have the tag.
        precision: least share of a tag's additions that is to be right, 0 to 1.

    Returns:
        (V, T) int64 bins, 0 to B; B for never.
    """
    votes, tags, bins = candidates.shape
    right = calibration.right.transpose(1, 0, 2).reshape(tags, -1)
    weight = candidates.transpose(1, 0, 2).reshape(tags, -1) + 1e-6  # an empty cell counts as the rare thing that it is
    order = np.argsort(-right, axis=1, kind="stable")
    ranked, weights = np.take_along_axis(right, order, 1), np.take_along_axis(weight, order, 1)
    mean = np.cumsum(ranked * weights, axis=1) / np.cumsum(weights, axis=1)
    good = mean >= precision
    last = np.where(good.any(axis=1), good.shape[1] - 1 - good[:, ::-1].argmax(axis=1), -1)
    least = np.where(last >= 0, np.take_along_axis(ranked, np.maximum(last, 0)[:, None], 1)[:, 0], np.inf)
    enough = calibration.right >= least[:, None]  # (V, T, B), from some bin on, since r never falls
    return np.where(enough.any(axis=2), enough.argmax(axis=2), bins).reshape(votes, tags)


def isotonic(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The nearest nondecreasing values, in weighted squares (pool adjacent violators).

    Args:
        values: (N,) float.
        weights: (N,) float, over 0.

    Returns:
        (N,) float64.
    """
    means: list[float] = []
    masses: list[float] = []
    lengths: list[int] = []
    for value, weight in zip(values, weights, strict=True):
        means.append(float(value))
        masses.append(float(weight))
        lengths.append(1)
        while len(means) > 1 and means[-2] > means[-1]:
            mass = masses[-2] + masses[-1]
            means[-2:] = [(means[-2] * masses[-2] + means[-1] * masses[-1]) / mass]
            masses[-2:] = [mass]
            lengths[-2:] = [lengths[-2] + lengths[-1]]
    return np.repeat(means, lengths)


def _vote_odds(images: np.ndarray, said: np.ndarray) -> np.ndarray:
    """Factor on the odds of being said for each number of votes, (V,); never falls with the votes.

    Mantel and Haenszel's common odds ratio over the strata (tag, bin), with half a picture added on either side so
    that little evidence says little.
    """
    odds = [1.0]
    none_said, none_not = said[0], images[0] - said[0]
    for vote in range(1, len(images)):
        some_said, some_not = said[vote], images[vote] - said[vote]
        total = np.maximum(images[0] + images[vote], 1)
        up = (some_said * none_not / total).sum() + 0.5
        down = (some_not * none_said / total).sum() + 0.5
        odds.append(max(odds[-1], up / down))
    return np.array(odds)


def _bent(images: np.ndarray, said: np.ndarray, odds: np.ndarray) -> np.ndarray:
    """The curve g without a vote, (T, B): the system's curve, bent by a + b x for each tag, as its pictures ask for.

    The most likely a and b with a ~ N(0, 1) and b ~ N(1, 0.5), by Newton's method; votes shift the logit.
    """
    total, hits = images.sum((0, 1)), said.sum((0, 1))
    prior = hits.sum() / total.sum()
    smooth = isotonic((hits + prior) / (total + 1), total + 1)
    x = _logit(_ramp(smooth, total))  # (B,)
    shift = np.log(odds)[:, None]  # (V, 1)
    bend = np.tile([0.0, 1.0], (images.shape[1], 1))  # (T, 2)
    for _ in range(NEWTON):
        slope_a, slope_b = -bend[:, 0], -(bend[:, 1] - 1) / 0.25
        aa, ab, bb = np.ones(len(bend)), np.zeros(len(bend)), np.full(len(bend), 1 / 0.25)
        for vote in range(len(images)):
            at = _sigmoid(bend[:, :1] + bend[:, 1:] * x + shift[vote])  # (T, B)
            left, curve = said[vote] - images[vote] * at, images[vote] * at * (1 - at)
            slope_a, slope_b = slope_a + left.sum(1), slope_b + left @ x
            aa, ab, bb = aa + curve.sum(1), ab + curve @ x, bb + curve @ x**2
        scale = aa * bb - ab**2
        step = np.stack([(bb * slope_a - ab * slope_b) / scale, (aa * slope_b - ab * slope_a) / scale], axis=1)
        bend = bend + np.clip(step, -0.5, 0.5)
        bend[:, 1] = np.maximum(bend[:, 1], 0.05)
        if np.abs(step).max() < 1e-4:
            break
    return _sigmoid(bend[:, :1] + bend[:, 1:] * x)


def _ramp(steps: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """A nondecreasing step function as a line through the middles of its steps, flat beyond the first and the last."""
    starts = np.flatnonzero(np.diff(steps, prepend=-1) > 0)
    ends = np.append(starts[1:], len(steps))
    places = np.arange(len(steps))
    middles = [np.average(places[a:b], weights=weights[a:b] + 1e-6) for a, b in zip(starts, ends, strict=True)]
    return np.interp(places, middles, steps[starts])


def _surest(images: np.ndarray, curve: np.ndarray, said: np.ndarray) -> np.ndarray:
    """Mean of g over each tag's surest pictures, (T,): as many as a tenth of those that say it, at least SUREST."""
    wanted = np.maximum(SUREST, said / 10)[:, None]
    above = np.cumsum(images[:, ::-1], axis=1)[:, ::-1]
    taken = np.clip(wanted - (above - images), 0, images)  # of each bin, from the top
    return np.clip((taken * curve).sum(1) / np.maximum(taken.sum(1), 1e-9), 1e-6, 1 - 1e-6)


def _spread(logits: np.ndarray, *, weights: np.ndarray) -> tuple[float, float]:
    """Weighted mean and standard deviation; square roots of the weights, so that a few tags do not decide alone."""
    share = np.sqrt(weights + 1e-12) / np.sqrt(weights + 1e-12).sum()
    mean = float((share * logits).sum())
    return mean, max(float(np.sqrt((share * (logits - mean) ** 2).sum())), 0.05)


def _mean_above(bounds: np.ndarray, *, mean: float, spread: float) -> np.ndarray:
    """Mean of sigmoid(z), z ~ N(mean, spread), over z >= bound, (T,): by sums over a grid."""
    grid = mean + spread * np.linspace(-8, 8, 801)
    density = np.exp(-0.5 * ((grid - mean) / spread) ** 2)
    mass, moment = (np.cumsum(one[::-1])[::-1] for one in (density, density * _sigmoid(grid)))
    place = np.clip(np.searchsorted(grid, bounds), 0, len(grid) - 1)
    return np.maximum(moment[place] / mass[place], _sigmoid(bounds))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(values, -40, 40)))


def _logit(values: np.ndarray) -> np.ndarray:
    values = np.clip(values, 1e-9, 1 - 1e-9)
    return np.log(values) - np.log1p(-values)
