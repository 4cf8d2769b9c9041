"""Contract: curves and reliability of a class are scikit-learn's; its images are those with the extreme scores; its
confusions are the counts that a loop over images gives. All is the same however the scores lie in parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, precision_recall_curve

from ram_ray.evaluation import confusions
from ram_ray.evaluation.class_curves import (
    add_reliabilities,
    measure_reliability,
    precision_recall,
    thin_curve,
)
from ram_ray.evaluation.class_details import (
    MAX_PER_GROUP,
    describe_classes,
    images_per_group,
    read_details,
    reliability_of,
    select_images,
    write_details,
)
from ram_ray.evaluation.confusions import Together, count_together, find_confusions
from ram_ray.evaluation.score_files import part_files, read_part, write_scores
from ram_ray.records import Json

N, C = 300, 70  # two blocks of classes
NAMES = [f"class {index}" for index in range(C)]


def draw(seed: int = 0) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Keys, scores with ties, and targets of which some are not known; the last class has no positives."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((N, C)) < rng.uniform(0.02, 0.4, C)).astype(np.int8)
    scores = np.clip(rng.beta(1, 4, (N, C)) + 0.4 * targets, 0, 1).round(2).astype(np.float32)
    scores[:, 1] = np.maximum(scores[:, 0] - 0.01, 0)  # predicted together, and never true together
    targets[:, 1] = (rng.random(N) < 0.1) & (targets[:, 0] == 0)
    targets[rng.random((N, C)) < 0.05] = -1
    targets[:, -1] = np.minimum(targets[:, -1], 0)
    return [f"s/{number:03}" for number in rng.permutation(N)], scores, targets


def write(folder: Path, *, size: int) -> str:
    keys, scores, targets = draw()
    parts = [slice(start, start + size) for start in range(0, N, size)]
    write_scores([(keys[part], scores[part], targets[part]) for part in parts], str(folder))
    return str(folder)


THRESHOLDS = np.linspace(0.2, 0.6, C).astype(np.float32)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Json]:
    folder = write(tmp_path_factory.mktemp("scores"), size=64)
    return describe_classes(folder, names=NAMES, thresholds=THRESHOLDS)


def known(column: int) -> tuple[np.ndarray, np.ndarray]:
    _, scores, targets = draw()
    rows = targets[:, column] >= 0
    return scores[rows, column], targets[rows, column] == 1


@pytest.mark.parametrize("column", [0, 1, 5, 64, 68])
def test_curves_are_those_of_scikit_learn(column: int) -> None:
    scores, targets = known(column)
    recall, precision, thresholds = precision_recall(scores, targets)
    expected = precision_recall_curve(targets, scores)
    np.testing.assert_allclose(precision[::-1], expected[0][:-1], atol=1e-9)
    np.testing.assert_allclose(recall[::-1], expected[1][:-1], atol=1e-9)
    np.testing.assert_array_equal(thresholds[::-1], expected[2])
    for values in (scores, scores.astype(np.float64)):
        share, mean = calibration_curve(targets, values, n_bins=10)
        reliability = measure_reliability(values, targets)
        assert reliability is not None and reliability.counts.sum() == len(scores)
        np.testing.assert_allclose(
            reliability.points, np.stack([mean, share], axis=1), atol=1e-9 if values.itemsize == 8 else 1e-6
        )
        weights = reliability.counts[reliability.counts > 0] / len(scores)
        assert reliability.error == pytest.approx((weights * np.abs(share - mean)).sum(), abs=1e-6)


def test_a_thin_curve_has_points_of_the_curve_and_both_ends() -> None:
    recall, precision, _ = precision_recall(*known(3))
    points = thin_curve(recall, num_points=20)
    assert len(points) <= 20 and points[0] == 0 and points[-1] == len(recall) - 1
    of_full_recall = precision[recall == 1]
    assert set(precision[points][recall[points] == 1]) == {of_full_recall[0], of_full_recall[-1]}
    assert list(thin_curve(np.array([0.0, 0.0, 0.0, 0.5, 1.0, 1.0]))) == [0, 2, 3, 4, 5]
    assert not len(thin_curve(np.zeros(0)))


def test_scores_that_are_no_probabilities_have_no_reliability() -> None:
    targets = np.array([True, False])
    assert measure_reliability(np.array([0.2, 1.2]), targets) is None
    assert measure_reliability(np.array([-0.5, 0.2]), targets) is None
    almost = measure_reliability(np.array([np.nextafter(np.float32(0), np.float32(-1)), 0.2]), targets)
    assert almost is not None and almost.counts.tolist() == [1, 1, *[0] * 8]
    assert add_reliabilities([almost, None]) is None and add_reliabilities([]) is None
    total = add_reliabilities([almost, almost])
    assert total is not None and total.counts.sum() == 4 and total.error == pytest.approx(almost.error)
    empty = measure_reliability(np.zeros(0), np.zeros(0, bool))
    assert empty is not None and empty.error is None and empty.points == []


def test_figures_of_each_class(rows: list[Json]) -> None:
    assert [row["index"] for row in rows] == list(range(C))
    for row in rows[:3] + rows[-6:-1]:
        scores, targets = known(row["index"])
        predicted = scores >= THRESHOLDS[row["index"]]
        assert row["ap"] == pytest.approx(average_precision_score(targets, scores), abs=1e-9)
        assert (row["tp"], row["fp"]) == ((predicted & targets).sum(), (predicted & ~targets).sum())
        assert row["fn"] == (~predicted & targets).sum() and row["num_images"] == len(scores)
        reliability = reliability_of(row)
        assert reliability is not None and reliability.positives.sum() == row["num_positives"] == targets.sum()
    last = rows[-1]
    assert np.isnan(last["ap"]) and last["recall"] == [] and last["num_positives"] == 0 and last["fp"] > 0
    assert {image["group"] for image in last["images"]} == {"wrong"}


def test_images_have_the_extreme_scores(rows: list[Json]) -> None:
    keys, scores, targets = draw()
    at = {key: row for row, key in enumerate(keys)}
    for row in rows[:4]:
        column = row["index"]
        by_group = {
            group: [image for image in row["images"] if image["group"] == group]
            for group in ("right", "missed", "wrong")
        }
        for group, images in by_group.items():
            assert len(images) == MAX_PER_GROUP and len({image["key"] for image in images}) == len(images)
            for image in images:
                assert image["score"] == scores[at[image["key"]], column]
                assert targets[at[image["key"]], column] == (group != "wrong")
        positive, negative = (np.sort(scores[targets[:, column] == target, column]) for target in (1, 0))
        assert [image["score"] for image in by_group["right"]] == positive[::-1][:MAX_PER_GROUP].tolist()
        assert [image["score"] for image in by_group["missed"]] == positive[:MAX_PER_GROUP].tolist()
        assert [image["score"] for image in by_group["wrong"]] == negative[::-1][:MAX_PER_GROUP].tolist()
        image = by_group["wrong"][0]
        its_scores, its_targets = scores[at[image["key"]]], targets[at[image["key"]]]
        others = [i for i in np.argsort(-its_scores, kind="stable") if its_scores[i] >= THRESHOLDS[i]]
        expected = [NAMES[i] for i in others[:8] if i != column]
        assert [other["class"] for other in image["others"]] == expected
        assert [other["true"] for other in image["others"]] == [
            None if its_targets[NAMES.index(name)] < 0 else its_targets[NAMES.index(name)] == 1 for name in expected
        ]
        assert image["true"] == [NAMES[i] for i in np.flatnonzero(its_targets == 1)[:12]]


def test_few_positives_are_in_one_group_each() -> None:
    scores = np.array([0.9, 0.8, 0.3, 0.7, 0.1])
    targets, predicted = np.array([1, 0, 1, 1, 0], bool), scores >= 0.5
    groups = {name: list(rows) for name, rows in select_images(scores, targets, predicted, per_group=6).items()}
    assert groups == {"right": [0, 3], "missed": [2], "wrong": [1, 4]}
    groups = {name: list(rows) for name, rows in select_images(scores, targets, predicted, per_group=1).items()}
    assert groups == {"right": [0], "missed": [2], "wrong": [1]}
    assert (images_per_group(10), images_per_group(4_585), images_per_group(1_000)) == (6, 1, 4)


def test_confusions_are_the_counts_of_a_loop(rows: list[Json]) -> None:
    _, scores, targets = draw()
    predicted = scores >= THRESHOLDS
    wrong = [row for row in range(N) if predicted[row, 1] and targets[row, 1] == 0]
    first = rows[1]["confusions"][0]
    assert first["class"] == "class 0"
    assert first["count"] == sum(bool(predicted[row, 0]) for row in wrong)
    assert first["right"] == sum(bool(predicted[row, 0] and targets[row, 0] == 1) for row in wrong) > 0
    chance = predicted[:, 0].mean() * len(wrong)
    assert first["lift"] == pytest.approx(first["count"] / chance, abs=1e-9) and first["lift"] > 1
    for row in rows:
        assert row["class"] not in {other["class"] for other in row["confusions"]}
        assert all(other["lift"] > 1 for other in row["confusions"])


def test_a_class_that_is_never_wrong_has_no_confusions() -> None:
    together = Together.of_classes(3)
    together.num_images, together.predicted = 10, np.array([0, 5, 5])
    assert find_confusions(together, 0) == []


def test_parts_do_not_change_anything(rows: list[Json], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confusions, "IMAGES_AT_ONCE", 3)
    folder = write(tmp_path / "scores", size=7)
    again = describe_classes(folder, names=NAMES, thresholds=THRESHOLDS)
    assert again[:-1] == rows[:-1] and again[-1]["images"] == rows[-1]["images"]
    paths, whole = part_files(folder), Together.of_classes(C)
    for path in paths:
        whole.add(count_together([path], thresholds=THRESHOLDS, keys=()))
    at_once = count_together(paths, thresholds=THRESHOLDS, keys=())
    assert at_once.num_images == N and (at_once.counts == whole.counts).all() and (at_once.right == whole.right).all()
    part = read_part(paths[0], num_classes=C)
    keys, scores, targets = draw()
    at = [keys.index(key) for key in part.keys]
    np.testing.assert_array_equal(part.scores, scores[at])
    np.testing.assert_array_equal(part.targets, targets[at])


def test_the_file_is_sorted_by_ap(rows: list[Json], tmp_path: Path) -> None:
    write_details(rows, str(tmp_path / "classes.parquet"))
    read = list(read_details(str(tmp_path / "classes.parquet")))
    assert len(read) == C and read[-1]["class"] == NAMES[-1], "without positives: last"
    values = [row["ap"] for row in read[:-1]]
    assert values == sorted(values)
    by_name = {row["class"]: row for row in read}
    for row in rows[:3]:
        assert by_name[row["class"]]["confusions"] == row["confusions"]
        assert by_name[row["class"]]["recall"] == row["recall"]
        assert [image["key"] for image in by_name[row["class"]]["images"]] == [image["key"] for image in row["images"]]
