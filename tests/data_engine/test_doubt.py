"""Contract: a wrong tag is told from a right one by comparison with images that do not carry it; a signal that tells
nothing gets no say, and no monotone change of a signal matters."""

import numpy as np
import pytest

from ram_ray.data_engine.doubt import SIGNALS, Evidence, judge


def category(
    seed: int = 0,
    *,
    right: int = 360,
    wrong: int = 40,
    absent: int = 80,
    gaps: tuple[float, ...] = (2.0, 2.0, 2.0, 0.0, 0.0),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Carried (N, F), absent (M, F), and which of the carried are wrong (N,); gaps in standard deviations."""
    rng = np.random.default_rng(seed)
    carried = rng.normal(size=(right + wrong, len(SIGNALS)))
    carried[:right] += gaps
    order = rng.permutation(right + wrong)
    return carried[order], rng.normal(size=(absent, len(SIGNALS))), (np.arange(right + wrong) >= right)[order]


def judge_said(carried: np.ndarray, absent: np.ndarray) -> Evidence:
    """Where captions say all that the images carry."""
    return judge(carried, absent, said=np.ones(len(carried), bool), expected=0.1)


def test_wrong_tags_get_high_probabilities_that_mean_what_they_say():
    carried, absent, planted = category()
    found = judge_said(carried, absent)
    assert found.wrong[planted].mean() > 0.7 and found.wrong[~planted].mean() < 0.05
    assert found.wrong.mean() == pytest.approx(0.1, abs=0.03) and found.share == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("planted, low, high", [(0, 0.0, 0.04), (120, 0.2, 0.4)])
def test_the_share_of_wrong_tags_is_found_in_each_category(planted, low, high):
    carried, absent, _ = category(right=400 - planted, wrong=planted)
    assert low <= judge_said(carried, absent).share <= high


def test_signals_count_as_far_as_they_tell_something():
    carried, absent, planted = category(gaps=(2.0, 0.0, 0.7, 0.0, 0.0))
    found = judge_said(carried, absent)
    whole, agreement, near, nothing, _ = found.weights
    assert whole > near > max(agreement, nothing) >= 0
    order = np.argsort(-found.wrong)[:40]
    assert planted[order].mean() > planted[np.argsort(carried.mean(axis=1))[:40]].mean()


def test_what_was_added_for_its_signals_does_not_hide_wrong_tags():
    carried, absent, planted = category(gaps=(1.0,) * 5)
    added = np.random.default_rng(1).normal(4.0, 0.5, (300, len(SIGNALS)))
    both, said = np.concatenate([carried, added]), np.arange(700) < 400
    beside, learnt = judge(both, absent, said=said, expected=0.1).wrong, judge_said(both, absent).wrong
    assert beside[:400][planted].mean() > 0.35 > 0.15 > learnt[:400][planted].mean()
    assert beside[:400][~planted].mean() < 0.05 and beside[400:].max() < 0.01, "what was added is judged as well"


def test_a_signal_that_speaks_the_wrong_way_round_has_no_say():
    carried, absent, _ = category(gaps=(2.0, -1.5, 0.0, 0.0, 0.0))
    assert judge_said(carried, absent).weights[1] == 0


def test_a_category_that_looks_like_any_picture_loses_nothing():
    carried, absent, _ = category(gaps=(0.0,) * 5)
    assert judge_said(carried, absent).wrong.max() < 0.5


def test_monotone_changes_change_nothing():
    carried, absent, _ = category(3)
    changed = [
        np.stack([1 / (1 + np.exp(-x[:, 0])), x[:, 1] ** 3, np.exp(x[:, 2]), 5 * x[:, 3], x[:, 4] + 7], axis=1)
        for x in (carried, absent)
    ]
    assert np.allclose(judge_said(carried, absent).wrong, judge_said(*changed).wrong)


def test_constant_and_repeated_signals_as_a_scene_has_them():
    carried, absent, planted = category(gaps=(2.0, 0.0, 1.0, 0.0, 0.0))
    for rows in (carried, absent):
        rows[:, 1], rows[:, 3] = rows[:, 0], 0.0
    found = judge_said(carried, absent)
    assert np.isfinite(found.wrong).all()
    assert found.wrong[planted].mean() > 0.25 > 0.1 > found.wrong[~planted].mean()
    assert (found.parts[:, 3] == 0).all()


@pytest.mark.parametrize("absent", [0, 1, 5])
def test_with_nothing_to_compare_with_all_signals_count_alike(absent):
    carried, others, planted = category(absent=absent, gaps=(2.0,) * 5)
    found = judge_said(carried, others)
    assert np.allclose(found.weights / found.weights.max(), 1, atol=0.5)
    assert planted[np.argsort(-found.wrong)[:40]].mean() > 0.7
