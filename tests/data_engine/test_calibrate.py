"""Contract: where captions leave things out at a known rate, the estimated precision of what would be added is the true
one within a few points, the precision asked for is reached, and a tag that cannot reach it gets no threshold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ram_ray.data_engine.calibrate import BINS, Calibration, Evidence, bin_of, calibrate, edge_of, isotonic, thresholds

NUM_TAGS = 40


class World:
    """Pictures, what is true of them, what their captions say of it, and a model that learnt from such captions.

    A model that knows the truth with separation `sharp` gives the logit of how often captions say the tag, shifted
    as the asymmetric loss shifts it.
    """

    def __init__(self, *, pictures: int, say: np.ndarray, sharp: float, captions: int = 1, votes: bool = False) -> None:
        rng = np.random.default_rng(0)
        often = rng.uniform(0.02, 0.2, NUM_TAGS)
        self.true = rng.random((pictures, NUM_TAGS)) < often
        seen = rng.normal(size=self.true.shape) + sharp * self.true
        logit = np.log(often / (1 - often)) + sharp * seen - sharp**2 / 2
        chance = (1 - (1 - say) ** captions) / (1 + np.exp(-logit))
        self.place = bin_of(np.log(chance / (1 - chance)) + 0.7)
        mentions = (rng.random((captions, pictures, NUM_TAGS)) < say) & self.true  # (captions, N, T)
        self.said = mentions.any(axis=0)
        named = rng.random(self.true.shape) < np.where(self.true, 0.5, 0.02)  # a witness of its own
        self.vote = named.astype(int) if votes else np.zeros_like(self.place)
        times = mentions.sum(axis=0)
        several = [((times == one).sum(0) if captions > 1 else np.zeros(NUM_TAGS)) for one in (1, 2)]
        often_said = (times > 2).sum(0) if captions > 1 else np.zeros(NUM_TAGS)
        number = 2 if votes else 1
        counts = [self._count(number, one) for one in (np.ones_like(self.said), self.said)]
        self.evidence = Evidence(*counts, *several, often_said, captions=float(captions))
        self.open = counts[0] - counts[1]

    def _count(self, votes: int, which: np.ndarray) -> np.ndarray:
        counts = np.zeros((votes, NUM_TAGS, BINS))
        tags = np.broadcast_to(np.arange(NUM_TAGS), which.shape)
        np.add.at(counts, (self.vote[which], tags[which], self.place[which]), 1)
        return counts

    def add(self, found: Calibration, precision: float) -> tuple[int, float, float, float]:
        """Additions, their precision, the estimate of it, and the share of what is unsaid that they are."""
        least = thresholds(found, self.open, precision=precision)
        tags = np.broadcast_to(np.arange(NUM_TAGS), self.place.shape)
        added = (self.place >= least[self.vote, tags]) & ~self.said
        estimate = found.right[self.vote, tags, self.place][added].mean()
        hits = (added & self.true).sum()
        return int(added.sum()), hits / added.sum(), float(estimate), hits / (self.true & ~self.said).sum()


def test_things_dropped_with_one_chance_are_found_at_the_precision_asked() -> None:
    world = World(pictures=4000, say=np.full(NUM_TAGS, 0.65), sharp=4.0)
    found = calibrate(world.evidence)
    assert found.rate.mean() == pytest.approx(0.65, abs=0.04) and found.rate.std() < 0.06
    added, precision, estimate, share = world.add(found, 0.8)
    assert precision > 0.78 and share > 0.7 and estimate == pytest.approx(precision, abs=0.1)
    against_captions = world.said.sum() / (world.said.sum() + world.open.sum())
    assert added > 1000 and against_captions < 0.1


def test_a_model_that_is_never_sure_still_knows_how_often_it_is_right() -> None:
    world = World(pictures=4000, say=np.full(NUM_TAGS, 0.65), sharp=2.5)
    _, precision, estimate, _ = world.add(calibrate(world.evidence), 0.6)
    assert precision > 0.58 and estimate == pytest.approx(precision, abs=0.1)


def test_tags_that_are_told_apart_keep_their_own_rate_and_blurred_ones_borrow() -> None:
    say = np.where(np.arange(NUM_TAGS) % 2, 0.3, 0.8)
    world = World(pictures=4000, say=say, sharp=4.5)
    found = calibrate(world.evidence)
    assert np.abs(found.rate - say).mean() < 0.12 and (found.rate > say - 0.05).all()
    _, precision, _, share = world.add(found, 0.8)
    assert precision > 0.8 and share > 0.3


def test_what_captions_imply_raises_the_rate_of_a_model_that_is_never_sure() -> None:
    world = World(pictures=4000, say=np.full(NUM_TAGS, 0.8), sharp=1.5)
    weak = calibrate(world.evidence)
    told = calibrate(replace(world.evidence, implied=np.full(NUM_TAGS, 0.75)))
    assert weak.rate.mean() < 0.75 < told.rate.mean() and (told.right <= weak.right + 1e-12).mean() > 0.9
    _, precision, estimate, _ = world.add(told, 0.25)
    assert estimate == pytest.approx(precision, abs=0.08)


def test_several_captions_tell_how_often_each_tag_is_said() -> None:
    say = np.linspace(0.2, 0.7, NUM_TAGS)
    world = World(pictures=4000, say=say, sharp=3.0, captions=2)
    found = calibrate(world.evidence)
    assert np.abs(found.rate - (1 - (1 - say) ** 2)).mean() < 0.05
    _, precision, estimate, share = world.add(found, 0.7)
    assert precision > 0.68 and estimate == pytest.approx(precision, abs=0.1) and share > 0.5


def test_a_second_witness_finds_more_at_the_same_precision() -> None:
    say = np.full(NUM_TAGS, 0.5)
    deaf, heard = (World(pictures=4000, say=say, sharp=2.5, captions=2, votes=votes) for votes in (False, True))
    found = calibrate(heard.evidence)
    assert found.vote[0] == 1 and found.vote[1] > 3
    assert (thresholds(found, heard.open, precision=0.7)[1] <= thresholds(found, heard.open, precision=0.7)[0]).all()
    alone, both = deaf.add(calibrate(deaf.evidence), 0.7), heard.add(found, 0.7)
    assert both[1] > 0.65 and both[3] > 1.1 * alone[3]


def test_tags_that_are_always_said_have_nothing_to_add() -> None:
    say = np.where(np.arange(NUM_TAGS) < 5, 0.999, 0.4)
    world = World(pictures=4000, say=say, sharp=3.5, captions=2)
    least = thresholds(calibrate(world.evidence), world.open, precision=0.7)
    assert (least[0, :5] == BINS).all() and (least[0, 5:] < BINS).mean() > 0.9


def test_a_rare_tag_keeps_the_systems_curve_and_a_strange_one_gets_its_own() -> None:
    world = World(pictures=3000, say=np.full(NUM_TAGS, 0.6), sharp=3.0)
    images, said = world.evidence.images.copy(), world.evidence.said.copy()
    images[0, 0], said[0, 0] = 0, 0
    images[0, 0, BINS // 2], said[0, 0, BINS // 2] = 2, 2  # two pictures, said in both
    said[0, 1] = np.round(said[0, 1] * 0.2)  # captions say it five times less often at the same score
    nothing = np.zeros(NUM_TAGS)
    found = calibrate(Evidence(images, said, nothing, nothing, nothing))
    middle = found.said[0, 2:, BINS // 2].mean()
    assert middle < found.said[0, 0, BINS // 2] < middle + 0.25
    assert found.said[0, 1, BINS // 2] < 0.5 * middle


def test_right_never_falls_with_the_score_and_stays_a_share() -> None:
    world = World(pictures=500, say=np.linspace(0.1, 0.9, NUM_TAGS), sharp=2.0, votes=True)
    found = calibrate(world.evidence)
    assert (np.diff(found.right, axis=2) >= -1e-12).all() and found.right.min() >= 0 and found.right.max() <= 1
    assert (found.right[1] >= found.right[0]).all()


def test_nothing_to_calibrate_on_says_what_to_do() -> None:
    nothing, none = np.zeros((1, 3, BINS)), np.zeros(3)
    with pytest.raises(ValueError, match=r"raise engine.holdout.*engine.folds.*engine.generate.threshold"):
        calibrate(Evidence(nothing, nothing, none, none, none))


def test_isotonic_pools_what_falls() -> None:
    found = isotonic(np.array([0.1, 0.4, 0.2, 0.2, 0.9, 0.8]), np.array([1.0, 1, 1, 2, 1, 3]))
    assert found == pytest.approx([0.1, 0.25, 0.25, 0.25, 0.825, 0.825])


def test_a_bin_holds_its_lower_end() -> None:
    assert bin_of(np.array([-50.0, 50.0, 0.0])).tolist() == [0, BINS - 1, BINS // 2]
    edges = edge_of(np.arange(BINS))
    assert (bin_of(edges + 1e-9) == np.arange(BINS)).all() and (bin_of(edges - 1e-9)[1:] == np.arange(BINS - 1)).all()
