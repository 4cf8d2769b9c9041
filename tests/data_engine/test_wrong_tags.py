"""Contract: wrong tags are separated from right ones by comparison with negatives; a signal without information gets no
weight, and no monotone change of a signal matters."""

import numpy as np
import pytest

from ram_ray.data_engine.wrong_tags import SIGNALS, Evidence, estimate_wrong


def make_signals(
    seed: int = 0,
    *,
    right: int = 360,
    wrong: int = 40,
    negatives: int = 80,
    gaps: tuple[float, ...] = (2.0, 2.0, 2.0, 0.0, 0.0),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positives (N, F), negatives (M, F), and which positives are wrong (N,); gaps in standard deviations."""
    rng = np.random.default_rng(seed)
    positive = rng.normal(size=(right + wrong, len(SIGNALS)))
    positive[:right] += gaps
    order = rng.permutation(right + wrong)
    return positive[order], rng.normal(size=(negatives, len(SIGNALS))), (np.arange(right + wrong) >= right)[order]


def estimate_all_mentioned(positive: np.ndarray, negative: np.ndarray) -> Evidence:
    """The estimate if captions mention all tags."""
    return estimate_wrong(positive, negative, mentioned=np.ones(len(positive), bool), expected=0.1)


def test_wrong_tags_get_high_and_calibrated_probabilities():
    positive, negative, planted = make_signals()
    evidence = estimate_all_mentioned(positive, negative)
    assert evidence.wrong[planted].mean() > 0.7 and evidence.wrong[~planted].mean() < 0.05
    assert evidence.wrong.mean() == pytest.approx(0.1, abs=0.03) and evidence.share == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("planted, low, high", [(0, 0.0, 0.04), (120, 0.2, 0.4)])
def test_the_share_of_wrong_tags_is_estimated_of_each_label(planted, low, high):
    positive, negative, _ = make_signals(right=400 - planted, wrong=planted)
    assert low <= estimate_all_mentioned(positive, negative).share <= high


def test_regions_of_two_detectors_are_compared_with_their_own() -> None:
    """What a detector adds to all signals of its regions is no evidence; the signals of the whole image are shared."""
    positive, negative, planted = make_signals(gaps=(2.0, 2.0, 2.0, 2.0, 0.0))
    detected = np.random.default_rng(2).random(len(positive) + len(negative)) < 0.5
    options = {"mentioned": np.ones(len(positive), bool), "expected": 0.1}
    plain = estimate_wrong(positive, negative, detected=detected, **options).wrong
    rows = np.concatenate([positive, negative])
    rows[np.ix_(detected, [1, 2, 3])] += 50.0
    moved, others = rows[: len(positive)], rows[len(positive) :]
    assert np.allclose(estimate_wrong(moved, others, detected=detected, **options).wrong, plain)
    assert plain[planted].mean() > 0.8 > estimate_wrong(moved, others, **options).wrong[planted].mean()
    for same in (np.zeros_like(detected), np.ones_like(detected)):
        expected = estimate_wrong(positive, negative, **options).wrong
        assert np.array_equal(estimate_wrong(positive, negative, detected=same, **options).wrong, expected)


def test_weights_of_signals_follow_their_information():
    positive, negative, planted = make_signals(gaps=(2.0, 0.0, 0.7, 0.0, 0.0))
    evidence = estimate_all_mentioned(positive, negative)
    whole, agreement, near, detected, _ = evidence.weights
    assert whole > near > max(agreement, detected) >= 0
    order = np.argsort(-evidence.wrong)[:40]
    assert planted[order].mean() > planted[np.argsort(positive.mean(axis=1))[:40]].mean()


def test_added_tags_with_high_signals_do_not_hide_wrong_tags():
    positive, negative, planted = make_signals(gaps=(1.0,) * 5)
    added = np.random.default_rng(1).normal(4.0, 0.5, (300, len(SIGNALS)))
    both, mentioned = np.concatenate([positive, added]), np.arange(700) < 400
    wrong = estimate_wrong(both, negative, mentioned=mentioned, expected=0.1).wrong
    fitted_on_all = estimate_all_mentioned(both, negative).wrong
    assert wrong[:400][planted].mean() > 0.35 > 0.15 > fitted_on_all[:400][planted].mean()
    assert wrong[:400][~planted].mean() < 0.05 and wrong[400:].max() < 0.01, "added tags are estimated as well"


def test_a_signal_of_the_wrong_sign_has_no_weight():
    positive, negative, _ = make_signals(gaps=(2.0, -1.5, 0.0, 0.0, 0.0))
    assert estimate_all_mentioned(positive, negative).weights[1] == 0


def test_a_label_without_information_loses_nothing():
    positive, negative, _ = make_signals(gaps=(0.0,) * 5)
    assert estimate_all_mentioned(positive, negative).wrong.max() < 0.5


def test_monotone_changes_change_nothing():
    positive, negative, _ = make_signals(3)
    changed = [
        np.stack([1 / (1 + np.exp(-image)), region**3, np.exp(similarity), 5 * detected, co_occurrence + 7], axis=1)
        for image, region, similarity, detected, co_occurrence in (positive.T, negative.T)
    ]
    assert np.allclose(estimate_all_mentioned(positive, negative).wrong, estimate_all_mentioned(*changed).wrong)


def test_constant_and_repeated_signals_as_a_scene_has_them():
    positive, negative, planted = make_signals(gaps=(2.0, 0.0, 1.0, 0.0, 0.0))
    for rows in (positive, negative):
        rows[:, 1], rows[:, 3] = rows[:, 0], 0.0
    evidence = estimate_all_mentioned(positive, negative)
    assert np.isfinite(evidence.wrong).all()
    assert evidence.wrong[planted].mean() > 0.25 > 0.1 > evidence.wrong[~planted].mean()
    assert (evidence.contributions[:, 3] == 0).all()


@pytest.mark.parametrize("num_negatives", [0, 1, 5])
def test_with_few_negatives_all_signals_have_similar_weights(num_negatives):
    positive, negative, planted = make_signals(negatives=num_negatives, gaps=(2.0,) * 5)
    evidence = estimate_all_mentioned(positive, negative)
    assert np.allclose(evidence.weights / evidence.weights.max(), 1, atol=0.5)
    assert planted[np.argsort(-evidence.wrong)[:40]].mean() > 0.7
