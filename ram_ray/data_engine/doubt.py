"""How likely a tag is wrong, from what the tagger and the teacher see, judged within its own category.

What there is of each (image, tag), found in the same way whether the image carries the tag or not (`SIGNALS`):

    whole      the tagger's probability on the whole picture
    agreement  its probability on the tag's region
    near       how near the region's embedding is to a look of the category (`data_engine.clustering`)
    found      the detector's score of the region
    company    how well the tag goes with the image's other tags (`data_engine.company`)

No absolute threshold means anything on these: the asymmetric loss leaves absent tags near 0.6, a rare tag scores lower
than a frequent one, distances depend on the teacher. What means something is the comparison with images that do not
carry the tag. A wrong tag is a tag on an image to which it does not belong, so its signals are those of such images:

    1. ranks     Each signal becomes its normal score among all rows of the category: any monotone change of a
                 probability, such as another calibration, changes nothing.
    2. weights   Fisher's linear discriminant of carried against absent. How far a signal can be trusted is thus learnt
                 from the run itself, tag by tag: a teacher that sees nothing gets no weight, signals that repeat each
                 other share theirs, and for a scene, which has no region, the whole picture decides.
    3. mixture   Along that direction the carried rows are right ones plus a share c of wrong ones, and the wrong ones
                 lie where the absent ones lie. Two normal curves of one width, fitted by expectation-maximisation, give
                 c, and with it each row's probability to be wrong. c is drawn towards the share that is expected,
                 as if `PRIOR` rows had been counted before, since little is known of a small category.

Steps 2 and 3 learn from the tags that captions say, and all carried ones are judged by what they learnt. A tag that
the engine added was chosen for the same signals, so added rows would look better than right ones do, and the right ones
among what captions say worse than they are: learning from all, as said below, 41% of the planted tags go when 10% of
the right ones are lost, and 50% learning from the said ones (a tagger of mAP 0.18, 11,000 tags added to 19,000).

A few absent rows are assumed in each category (`ASSUMED`), lower in every signal: where there are hardly any real ones,
the signals count alike, and a category that nearly all images carry can still be judged.

A category in which right and absent tags look alike has no removals by this: all probabilities stay near c.
A wrong mean and a wrong width of step 3 leave the order of step 2 as it is.

Alternatives, on 5,400 photos with one caption each, 10% false tags planted in proportion to how often they are said,
and a weak tagger asked about photos that it did not see (mAP 0.09, 250 tags). Of the false tags go, when 10% of the
right ones are lost:

    25%  the lowest probabilities, all tags alike              30%  `whole` by this file
    28%  the lowest ranks of the probability in each category  27%  `near` by this file (the paper's distance, 21%)
    27%  ranks of probability and distance, added              52%  `company` by this file
                                                               54%  all of them

and of 100 tags said to be wrong with probability 0.1, 0.2, 0.3, 0.4, 0.5 and more 12, 23, 34, 35 and 52 were wrong.

Letters: N carried rows, M absent rows, F signals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIGNALS = ("whole", "agreement", "near", "found", "company")
ASSUMED = 8  # absent rows that are assumed, `GAP` below the others in each signal
GAP = 1.5  # standard deviations
PRIOR = 30.0  # rows that the expected share of wrong ones counts as
RIDGE = 0.1  # of the variance that normal scores have, added to each: few rows must not give large weights
ITERATIONS = 50


@dataclass(frozen=True)
class Evidence:
    """What is known of the N carried rows of a category."""

    wrong: np.ndarray  # (N,) float64, probability that the tag is wrong
    parts: np.ndarray  # (N, F) float64: what each signal says for the tag, in nats against the category's mean
    share: float  # c, the estimated share of wrong ones
    weights: np.ndarray  # (F,) float64


def judge(carried: np.ndarray, absent: np.ndarray, *, said: np.ndarray, expected: float) -> Evidence:
    """Judge the carried rows (N, F) of a category by comparison with absent ones (M, F).

    Args:
        carried: (N, F) float signals of rows that have the tag.
        absent: (M, F) float signals of rows that do not.
        said: (N,) bool, the rows whose tag a caption says, and which are learnt from; all are where none is said.
        expected: share of the carried rows that is expected to be wrong, 0 to 1.

    Returns:
        For each carried row how likely its tag is wrong, (N,), and what each signal says for the tag, (N, F).
    """
    scores = normal_scores(np.concatenate([carried, absent]))
    right = scores[: len(carried)]
    known = right[said] if said.any() else right
    assumed = np.tile(known.mean(axis=0) - GAP * scores.std(axis=0), (ASSUMED, 1))
    other = np.concatenate([scores[len(carried) :], assumed])
    weights = discriminant(known, other)
    line, base = right @ weights, other @ weights
    share, centre, width = mixture(known @ weights, base, expected=expected)
    ratio = (line - (centre + base.mean()) / 2) * (centre - base.mean()) / width**2  # log of right : absent
    wrong = share / (share + (1 - share) * np.exp(np.clip(ratio, -50, 50)))
    slope = (centre - base.mean()) / width**2
    return Evidence(wrong, (right - right.mean(axis=0)) * weights * slope, share, weights)


def normal_scores(rows: np.ndarray) -> np.ndarray:
    """Each column's ranks (ties share theirs) as quantiles of the normal distribution.

    Args:
        rows: (N, F) float.

    Returns:
        (N, F) float64.
    """
    from scipy.special import ndtri
    from scipy.stats import rankdata

    return ndtri((rankdata(rows, axis=0) - 0.5) / len(rows))


def discriminant(right: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Fisher's direction from absent to carried; no signal counts against the tag.

    Args:
        right: (N, F) float, carried rows.
        other: (M, F) float, absent rows.

    Returns:
        (F,) float64, 0 or more.
    """
    gap = right.mean(axis=0) - other.mean(axis=0)
    centred = np.concatenate([right - right.mean(axis=0), other - other.mean(axis=0)])
    within = centred.T @ centred / len(centred) + RIDGE * np.eye(len(gap))
    from scipy.optimize import nnls

    root = np.linalg.cholesky(within)  # within w = gap, in least squares with w >= 0
    weights, _ = nnls(root.T, np.linalg.solve(root, gap))
    return weights


def mixture(line: np.ndarray, base: np.ndarray, *, expected: float) -> tuple[float, float, float]:
    """Fit carried rows as a mixture of wrong ones, which lie as absent rows do, and right ones.

    Args:
        line: (N,) float, carried rows along the discriminant.
        base: (M,) float, absent rows along it.
        expected: share of wrong ones that is expected, 0 to 1.

    Returns:
        Share of wrong ones, mean of the right ones, and the common standard deviation.
    """
    low, share = float(base.mean()), expected
    centre = max(float(line.mean()), low)
    width = max(float(np.sqrt(np.concatenate([line - line.mean(), base - low]).var())), 1e-6)
    for _ in range(ITERATIONS):
        ratio = (line - (centre + low) / 2) * (centre - low) / width**2
        wrong = share / (share + (1 - share) * np.exp(np.clip(ratio, -50, 50)))
        share = float((wrong.sum() + PRIOR * expected) / (len(line) + PRIOR))
        share = min(max(share, 1e-4), 0.9)
        centre = max(float(((1 - wrong) * line).sum() / max((1 - wrong).sum(), 1e-9)), low)
        spread = ((1 - wrong) * (line - centre) ** 2 + wrong * (line - low) ** 2).sum() + ((base - low) ** 2).sum()
        width = max(float(np.sqrt(spread / (len(line) + len(base)))), 1e-6)
    return share, centre, width
