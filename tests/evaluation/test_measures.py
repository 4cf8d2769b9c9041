"""Contract: figures are scikit-learn's, on what is known of each class; the threshold of a system is the best by its
rule; a comparison names the classes that differ and no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

from ram_ray.evaluation.bootstrap import Resampling
from ram_ray.evaluation.comparison import compare_figures
from ram_ray.evaluation.measures import (
    Tuning,
    candidate_thresholds,
    choose_common_threshold,
    count_at,
    measure_block,
    summarise_figures,
)
from ram_ray.evaluation.score_files import (
    ClassBlock,
    ScoreManifest,
    num_blocks,
    part_files,
    read_block,
    read_manifest,
    start_folder,
    to_score_blocks,
    write_manifest,
    write_part,
    write_scores,
)

KEYS = [f"s/{number:03}" for number in range(300)]
NAMES = [f"class {number}" for number in range(70)]


def draw(seed: int = 0, *, num_classes: int = 70) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties and targets of which the class 1 is never true and the class 2 never predicted."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((300, num_classes)) < 0.15).astype(np.int8)
    scores = (0.6 * rng.random((300, num_classes)) + 0.3 * targets).round(3).astype(np.float32)
    targets[:, 1], scores[:, 2] = 0, 0
    return scores, targets


def test_figures_are_those_of_scikit_learn() -> None:
    scores, targets = draw(num_classes=12)
    figures = measure_block(
        ClassBlock(0, KEYS, scores, targets), thresholds=np.full(12, 0.5, np.float32), resampling=Resampling(50)
    )
    summary = summarise_figures(figures, names=NAMES[:12])
    counted = [column for column in range(12) if column != 1]
    truth, predicted = targets[:, counted], scores[:, counted] >= np.float32(0.5)
    assert summary["mAP"]["value"] == pytest.approx(average_precision_score(truth, scores[:, counted], average="macro"))
    for kind in ("macro", "micro"):
        for name, function in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
            value = summary[f"{kind}_{name}"]
            assert value["value"] == pytest.approx(function(truth, predicted, average=kind, zero_division=0))
            low, high = value["interval"]
            assert low < value["value"] < high
    assert summary["num_classes"] == 11 and summary["num_images"] == 300
    assert summary["mean_prevalence"] == pytest.approx(truth.mean())
    lines = summary["per_class"]
    assert [line["ap"]["value"] for line in lines[2:]] == pytest.approx(
        [average_precision_score(targets[:, column], scores[:, column]) for column in range(2, 12)]
    )
    assert lines[1]["ap"]["value"] is None and not lines[1]["counted"] and lines[2]["predicted"] == 0
    few = summarise_figures(figures, names=NAMES[:12], min_positives=10_000)
    assert few["mAP"] == {"value": None, "interval": None} and few["num_classes"] == 0


def test_images_that_do_not_count_for_a_class_are_as_if_they_were_not_there() -> None:
    scores, targets = draw(num_classes=3)
    targets[::4, 0] = -1
    kept = np.arange(300) % 4 != 0
    thresholds, resampling = np.full(3, 0.5, np.float32), Resampling(40)
    masked = measure_block(ClassBlock(0, KEYS, scores, targets), thresholds=thresholds, resampling=resampling)[0]
    keys = [key for key, is_kept in zip(KEYS, kept, strict=True) if is_kept]
    apart = measure_block(
        ClassBlock(0, keys, scores[kept], targets[kept]), thresholds=thresholds, resampling=resampling
    )[0]
    assert masked.num_images == 225 and masked.ap == apart.ap and masked.counts.tolist() == apart.counts.tolist()
    np.testing.assert_array_equal(masked.ap_replicates, apart.ap_replicates)
    np.testing.assert_array_equal(masked.count_replicates, apart.count_replicates)


@pytest.mark.parametrize("rule", ["f1", "balanced", "precision=0.6"])
def test_the_threshold_of_a_system_is_the_best_by_its_rule(rule: str) -> None:
    scores, targets = draw(num_classes=8)
    block, tuning = ClassBlock(0, KEYS, scores, targets), Tuning.parse(rule)
    candidates = candidate_thresholds([block])
    tp, fp, positives = count_at(block, candidates)
    threshold = choose_common_threshold(candidates, tp, fp, positives, tuning, min_positives=1)
    truth, kept = targets[:, [0, *range(2, 8)]], scores[:, [0, *range(2, 8)]]

    def figure(value: float, function) -> float:
        return function(truth, kept >= value, average="macro", zero_division=0)

    if rule == "f1":
        assert figure(threshold, f1_score) == pytest.approx(max(figure(value, f1_score) for value in np.unique(kept)))
    elif rule == "balanced":
        gaps = [abs(figure(v, precision_score) - figure(v, recall_score)) for v in np.unique(scores[targets == 1])]
        assert abs(figure(threshold, precision_score) - figure(threshold, recall_score)) == pytest.approx(min(gaps))
    else:
        assert figure(threshold, precision_score) >= 0.6
        assert all(figure(v, precision_score) < 0.6 for v in candidates[candidates < threshold])
    assert str(tuning) == rule


@pytest.mark.parametrize("text", ["f2", "f1=1", "precision", "precision=2", "balanced=1", "precision=x"])
def test_a_wrong_rule_is_one_line(text: str) -> None:
    with pytest.raises(ValueError, match="use f1, balanced or precision=0.8"):
        Tuning.parse(text)


def test_files_hold_what_was_scored_in_any_order(tmp_path: Path) -> None:
    scores, targets = draw()
    folder = str(tmp_path / "scores")
    digest, done = start_folder(folder, {"model": 1})
    order = np.random.default_rng(0).permutation(300)
    parts = [(order[start : start + 90]) for start in range(0, 300, 90)]
    first = pa.concat_tables(
        [to_score_blocks([KEYS[i] for i in part], scores[part], targets[part]) for part in parts[:2]]
    )
    assert write_part(first, folder) == 180 and write_part(first, folder) == 180, "a task that ran again"
    batches = [([KEYS[index] for index in part], scores[part], targets[part]) for part in parts[2:]]
    written = write_scores(batches, folder)
    assert done is None and written == 120 and len(part_files(folder)) == 3
    for number in range(num_blocks(70)):
        block = read_block(folder, number, num_classes=70)
        columns = slice(number * 64, number * 64 + 64)
        assert block.keys == KEYS and block.first == number * 64
        np.testing.assert_array_equal(block.scores, scores[:, columns])
        np.testing.assert_array_equal(block.targets, targets[:, columns])
    manifest = ScoreManifest(
        set_name="s", system="m", identity=digest, images=300, classes=NAMES, matched_by=["name"] * 70
    )
    write_manifest(folder, manifest)
    assert start_folder(folder, {"model": 1}) == (digest, manifest) and read_manifest(folder) == manifest
    write_scores([(KEYS[:1], scores[:1], targets[:1])], folder)
    with pytest.raises(ValueError, match="'s/000' has two rows"):
        read_block(folder, 0, num_classes=70)
    assert start_folder(folder, {"model": 2})[1] is None and not part_files(folder), "another model starts anew"
    with pytest.raises(ValueError, match="holds no finished scores"):
        read_manifest(folder)


def test_a_comparison_names_the_three_classes_that_got_worse_and_the_one_that_got_better() -> None:
    scores, targets = draw(3)
    rng = np.random.default_rng(4)
    other = (scores + rng.normal(0, 0.02, scores.shape)).astype(np.float32)  # as a second training differs
    for column in (5, 30, 66):
        other[:, column] = rng.permutation(other[:, column])
    other[:, 40] += 0.4 * targets[:, 40]

    def figures(values: np.ndarray) -> dict:
        blocks = [
            ClassBlock(first, KEYS, values[:, first : first + 64], targets[:, first : first + 64]) for first in (0, 64)
        ]
        thresholds, resampling = np.full(70, 0.5, np.float32), Resampling(300)
        rows = [row for block in blocks for row in measure_block(block, thresholds=thresholds, resampling=resampling)]
        return {NAMES[row.index]: row for row in rows}

    first, second = figures(scores), figures(other)
    result = compare_figures(first, second)
    assert sorted(result["worse"]) == ["class 30", "class 5", "class 66"] and result["better"] == ["class 40"]
    assert result["num_classes"] == 69, "a class without positives is not compared"
    low, high = result["mAP"]["interval"]
    assert low < result["mAP"]["difference"] < high and result["mAP"]["p_value"] < 1e-3
    same = compare_figures(first, first)
    assert same["better"] == same["worse"] == [] and same["mAP"]["difference"] == 0 and same["mAP"]["p_value"] == 1
    del second["class 0"]
    assert compare_figures(first, second)["only_first"] == ["class 0"]
    second["class 9"].num_positives += 1
    with pytest.raises(ValueError, match="'class 9' has 300 images"):
        compare_figures(first, second)
