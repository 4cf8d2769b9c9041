"""Contract: with a known mention rate the estimated precision of additions is within a few points of the true one, the
requested precision is reached, and a tag that cannot reach it gets no threshold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ram_ray.data_engine.calibrate import (
    BINS,
    Calibration,
    MentionCounts,
    bin_of,
    calibrate,
    edge_of,
    thresholds,
)

NUM_TAGS = 40


class World:
    """Images, their true tags, the tags that their captions mention, and a model that learnt from such captions.

    The model separates the truth by `separation` standard deviations and gives the logit of a mention, shifted as the
    asymmetric loss shifts it.
    """

    def __init__(
        self, *, images: int, mention_rate: np.ndarray, separation: float, captions: int = 1, votes: bool = False
    ) -> None:
        rng = np.random.default_rng(0)
        prior = rng.uniform(0.02, 0.2, NUM_TAGS)
        self.true = rng.random((images, NUM_TAGS)) < prior
        signal = rng.normal(size=self.true.shape) + separation * self.true
        logit = np.log(prior / (1 - prior)) + separation * signal - separation**2 / 2
        probability = (1 - (1 - mention_rate) ** captions) / (1 + np.exp(-logit))
        self.bins = bin_of(np.log(probability / (1 - probability)) + 0.7)
        mentions = (rng.random((captions, images, NUM_TAGS)) < mention_rate) & self.true  # (captions, N, T)
        self.mentioned = mentions.any(axis=0)
        generated = rng.random(self.true.shape) < np.where(self.true, 0.5, 0.02)  # independent of the score
        self.vote = generated.astype(int) if votes else np.zeros_like(self.bins)
        times = mentions.sum(axis=0)
        several = [((times == number).sum(0) if captions > 1 else np.zeros(NUM_TAGS)) for number in (1, 2)]
        often = (times > 2).sum(0) if captions > 1 else np.zeros(NUM_TAGS)
        num_votes = 2 if votes else 1
        counts = [self._count(num_votes, mask) for mask in (np.ones_like(self.mentioned), self.mentioned)]
        self.counts = MentionCounts(*counts, *several, often, captions=float(captions))
        self.candidates = counts[0] - counts[1]

    def _count(self, num_votes: int, mask: np.ndarray) -> np.ndarray:
        counts = np.zeros((num_votes, NUM_TAGS, BINS))
        tags = np.broadcast_to(np.arange(NUM_TAGS), mask.shape)
        np.add.at(counts, (self.vote[mask], tags[mask], self.bins[mask]), 1)
        return counts

    def add(self, calibration: Calibration, precision: float) -> tuple[int, float, float, float]:
        """Additions, their precision, the estimate of it, and their share of the true unmentioned tags."""
        min_bins = thresholds(calibration, self.candidates, precision=precision)
        tags = np.broadcast_to(np.arange(NUM_TAGS), self.bins.shape)
        added = (self.bins >= min_bins[self.vote, tags]) & ~self.mentioned
        estimate = calibration.correct[self.vote, tags, self.bins][added].mean()
        hits = (added & self.true).sum()
        return int(added.sum()), hits / added.sum(), float(estimate), hits / (self.true & ~self.mentioned).sum()


def test_with_equal_mention_rates_additions_have_the_requested_precision() -> None:
    world = World(images=4000, mention_rate=np.full(NUM_TAGS, 0.65), separation=4.0)
    calibration = calibrate(world.counts)
    assert calibration.mention_rate.mean() == pytest.approx(0.65, abs=0.04) and calibration.mention_rate.std() < 0.06
    added, precision, estimate, share = world.add(calibration, 0.8)
    assert precision > 0.78 and share > 0.7 and estimate == pytest.approx(precision, abs=0.1)
    against_captions = world.mentioned.sum() / (world.mentioned.sum() + world.candidates.sum())
    assert added > 1000 and against_captions < 0.1


def test_the_precision_of_a_weak_model_is_estimated() -> None:
    world = World(images=4000, mention_rate=np.full(NUM_TAGS, 0.65), separation=2.5)
    _, precision, estimate, _ = world.add(calibrate(world.counts), 0.6)
    assert precision > 0.58 and estimate == pytest.approx(precision, abs=0.1)


def test_well_separated_tags_keep_their_own_mention_rate() -> None:
    mention_rate = np.where(np.arange(NUM_TAGS) % 2, 0.3, 0.8)
    world = World(images=4000, mention_rate=mention_rate, separation=4.5)
    calibration = calibrate(world.counts)
    assert np.abs(calibration.mention_rate - mention_rate).mean() < 0.12
    assert (calibration.mention_rate > mention_rate - 0.05).all()
    _, precision, _, share = world.add(calibration, 0.8)
    assert precision > 0.8 and share > 0.3


def test_the_implied_bound_raises_the_mention_rate_of_a_weak_model() -> None:
    world = World(images=4000, mention_rate=np.full(NUM_TAGS, 0.8), separation=1.5)
    unbounded = calibrate(world.counts)
    bounded = calibrate(replace(world.counts, rate_bounds=np.full(NUM_TAGS, 0.75)))
    assert unbounded.mention_rate.mean() < 0.75 < bounded.mention_rate.mean()
    assert (bounded.correct <= unbounded.correct + 1e-12).mean() > 0.9
    _, precision, estimate, _ = world.add(bounded, 0.25)
    assert estimate == pytest.approx(precision, abs=0.08)


def test_several_captions_give_the_mention_rate_of_each_tag() -> None:
    mention_rate = np.linspace(0.2, 0.7, NUM_TAGS)
    world = World(images=4000, mention_rate=mention_rate, separation=3.0, captions=2)
    calibration = calibrate(world.counts)
    assert np.abs(calibration.mention_rate - (1 - (1 - mention_rate) ** 2)).mean() < 0.05
    _, precision, estimate, share = world.add(calibration, 0.7)
    assert precision > 0.68 and estimate == pytest.approx(precision, abs=0.1) and share > 0.5


def test_votes_of_generated_captions_find_more_at_the_same_precision() -> None:
    mention_rate = np.full(NUM_TAGS, 0.5)
    without, with_votes = (
        World(images=4000, mention_rate=mention_rate, separation=2.5, captions=2, votes=votes)
        for votes in (False, True)
    )
    calibration = calibrate(with_votes.counts)
    assert calibration.vote_odds[0] == 1 and calibration.vote_odds[1] > 3
    min_bins = thresholds(calibration, with_votes.candidates, precision=0.7)
    assert (min_bins[1] <= min_bins[0]).all()
    _, _, _, share_without = without.add(calibrate(without.counts), 0.7)
    _, precision, _, share = with_votes.add(calibration, 0.7)
    assert precision > 0.65 and share > 1.1 * share_without


def test_tags_that_are_always_mentioned_have_nothing_to_add() -> None:
    mention_rate = np.where(np.arange(NUM_TAGS) < 5, 0.999, 0.4)
    world = World(images=4000, mention_rate=mention_rate, separation=3.5, captions=2)
    min_bins = thresholds(calibrate(world.counts), world.candidates, precision=0.7)
    assert (min_bins[0, :5] == BINS).all() and (min_bins[0, 5:] < BINS).mean() > 0.9


def test_a_rare_tag_keeps_the_common_curve_and_an_unusual_tag_gets_its_own() -> None:
    world = World(images=3000, mention_rate=np.full(NUM_TAGS, 0.6), separation=3.0)
    images, mentioned = world.counts.images.copy(), world.counts.mentioned.copy()
    images[0, 0], mentioned[0, 0] = 0, 0
    images[0, 0, BINS // 2], mentioned[0, 0, BINS // 2] = 2, 2  # two images, mentioned in both
    mentioned[0, 1] = np.round(mentioned[0, 1] * 0.2)  # mentioned five times less often at the same score
    zeros = np.zeros(NUM_TAGS)
    curves = calibrate(MentionCounts(images, mentioned, zeros, zeros, zeros)).mentioned[0, :, BINS // 2]
    common = curves[2:].mean()
    assert common < curves[0] < common + 0.25
    assert curves[1] < 0.5 * common


def test_right_never_falls_with_the_score_and_stays_a_share() -> None:
    world = World(images=500, mention_rate=np.linspace(0.1, 0.9, NUM_TAGS), separation=2.0, votes=True)
    correct = calibrate(world.counts).correct
    assert (np.diff(correct, axis=2) >= -1e-12).all() and correct.min() >= 0 and correct.max() <= 1
    assert (correct[1] >= correct[0]).all()


def test_without_mentions_the_error_names_the_settings_to_change() -> None:
    cells, tags = np.zeros((1, 3, BINS)), np.zeros(3)
    with pytest.raises(ValueError, match=r"raise engine.holdout.*engine.folds.*engine.generate.threshold"):
        calibrate(MentionCounts(cells, cells, tags, tags, tags))


def test_a_bin_holds_its_lower_end() -> None:
    assert bin_of(np.array([-50.0, 50.0, 0.0])).tolist() == [0, BINS - 1, BINS // 2]
    edges = edge_of(np.arange(BINS))
    assert (bin_of(edges + 1e-9) == np.arange(BINS)).all() and (bin_of(edges - 1e-9)[1:] == np.arange(BINS - 1)).all()
