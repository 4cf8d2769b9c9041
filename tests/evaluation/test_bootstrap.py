"""Contract: a replicate's weights follow from key, seed and number alone; its AP is that of the images written out as
often as they weigh; intervals have their level; a test of equally good models names none."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from ram_ray.evaluation import bootstrap
from ram_ray.evaluation.bootstrap import (
    Resampling,
    ap_replicates,
    holm,
    image_ids,
    image_weights,
    interval,
    mean_over_classes,
    paired_p_value,
    weight_chunks,
)

KEYS = [f"shard/{number}" for number in range(400)]


def test_weights_are_poisson_and_do_not_depend_on_the_other_images(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, resampling = image_ids(KEYS), Resampling(1001, seed=3)
    weights = image_weights(ids, resampling)
    assert weights.shape == (400, 1001) and weights.dtype == np.uint8
    assert weights.mean() == pytest.approx(1, abs=0.01) and weights.var() == pytest.approx(1, abs=0.02)
    assert abs(np.corrcoef(weights[:60].astype(float))[np.triu_indices(60, 1)]).max() < 0.15, "images are independent"
    assert abs(np.corrcoef(weights[:, :60].T.astype(float))[np.triu_indices(60, 1)]).max() < 0.25, "and replicates are"
    np.testing.assert_array_equal(image_weights(ids[::-3], resampling), weights[::-3])
    assert (image_weights(ids, Resampling(1001, seed=4)) != weights).mean() > 0.4
    monkeypatch.setattr(bootstrap, "CHUNK_WEIGHTS", 400 * 101)
    chunks = list(weight_chunks(ids, resampling))
    assert len(chunks) == 11
    np.testing.assert_array_equal(np.concatenate([part for _, part in chunks], axis=1), weights)
    assert chunks[-1][0].stop == 1001


@pytest.mark.parametrize("decimals", [1, 6])
def test_a_replicate_is_the_ap_of_images_written_out(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    targets = rng.random(400) < 0.1
    scores = (rng.random(400) + 0.3 * targets).round(decimals).astype(np.float32)  # one decimal: many ties
    weights = image_weights(image_ids(KEYS), Resampling(20))
    weights[:, 7] = np.where(targets, 0, weights[:, 7])
    replicates = ap_replicates(scores, targets, weights)
    assert np.isnan(replicates[7])
    for column in set(range(20)) - {7}:
        written = np.repeat(np.arange(400), weights[:, column])
        expected = average_precision_score(targets[written], scores[written])
        assert replicates[column] == pytest.approx(expected, abs=1e-6)
    assert np.isnan(ap_replicates(scores, np.zeros(400, bool), weights)).all()


def test_an_interval_of_95_percent_holds_the_true_value_about_as_often() -> None:
    rng = np.random.default_rng(0)

    def draw(size: int) -> tuple[np.ndarray, np.ndarray]:
        targets = rng.random(size) < 0.3
        return rng.normal(targets * 1.0, 1), targets

    true_ap = average_precision_score(*reversed(draw(200_000)))
    ids, held = image_ids(KEYS), 0
    for trial in range(200):
        scores, targets = draw(400)
        replicates = ap_replicates(scores, targets, image_weights(ids, Resampling(200, seed=trial)))
        low, high = interval(average_precision_score(targets, scores), replicates) or (0, 0)
        held += low <= true_ap <= high
    assert 180 <= held <= 198  # 95% of 200, within 3 standard deviations


def test_the_interval_of_a_map_of_rare_classes_is_about_the_mean_of_test_sets_of_this_size() -> None:
    """Some 6 positives a class: the replicates of the mAP lie above it, and their quantiles would not hold it."""
    rng = np.random.default_rng(2)
    ids, results, intervals, biases = image_ids(KEYS), [], [], []
    for trial in range(60):
        weights, aps, drawn = image_weights(ids, Resampling(100, seed=trial)), [], []
        for _ in range(15):
            targets = rng.random(400) < 0.015
            targets[0] = True
            scores = rng.normal(targets * 1.0, 1)
            aps.append(average_precision_score(targets, scores))
            drawn.append(ap_replicates(scores, targets, weights))
        replicates = mean_over_classes(np.stack(drawn))
        results.append(np.mean(aps))
        biases.append(replicates.mean() - results[-1])
        intervals.append(interval(results[-1], replicates) or (0, 0))
    assert np.mean(biases) > np.std(results), "a bias as large as the spread"
    held = sum(low <= np.mean(results) <= high for low, high in intervals)
    assert held >= 52  # 95% of 60, within 3 standard deviations


def test_no_class_is_named_by_chance_and_a_true_difference_is() -> None:
    """Two exchangeable models on 100 classes with few and many positives: in how many of 40 trials is any named?"""
    rng = np.random.default_rng(1)
    ids, named, found = image_ids(KEYS), 0, 0
    for trial in range(40):
        weights = image_weights(ids, Resampling(200, seed=trial))
        p_values = []
        for number in range(50):
            targets = np.arange(400) < (3, 10, 40, 120)[number % 4]
            shared = rng.normal(targets * 1.5, 1)
            noise = [rng.normal(0, 0.5, 400) for _ in range(2)]
            if number == 3:
                noise[1] -= 1.5 * targets  # the one true difference, of a class with 120 positives
            scores = [shared + part for part in noise]
            values = [average_precision_score(targets, part) for part in scores]
            replicates = [ap_replicates(part, targets, weights) for part in scores]
            difference = replicates[1] - replicates[0]
            p_values.append(paired_p_value(values[1] - values[0], difference, num_positives=int(targets.sum())))
        corrected = holm(np.array(p_values))
        found += corrected[3] <= 0.05
        named += (np.delete(corrected, 3) <= 0.05).any()
    assert found == 40 and named <= 6  # 5% of 40, within 3 standard deviations


def test_holm_by_hand() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])).tolist() == [1, 1] and holm(np.zeros(0)).size == 0


def test_what_cannot_be_said() -> None:
    assert interval(0.4, np.array([0.4, np.nan])) is None and interval(0.4, np.zeros(0)) is None
    drawn = np.array([0.1, 0.2, np.nan])
    assert paired_p_value(0.0, drawn) == paired_p_value(0.1, drawn[:1]) == 1
    assert paired_p_value(0.1, np.full(9, 0.1)) == paired_p_value(0.3, drawn, num_positives=1) == 1
    assert paired_p_value(-0.9, drawn) == paired_p_value(0.9, drawn) < 1e-6
    assert paired_p_value(0.9, drawn, num_positives=2) > 0.01, "two positives say little"
    means = mean_over_classes(np.array([[0.2, np.nan, np.nan], [0.4, 0.6, np.nan]]))
    assert means[:2].tolist() == pytest.approx([0.3, 0.6]) and np.isnan(means[2])
