"""Contract: of a class the images whose rank changed most are named on the side that they are on, and the curves are
those of each system's own scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from ram_ray.evaluation.changed_images import look_at_classes
from ram_ray.evaluation.class_curves import precision_recall
from ram_ray.evaluation.score_files import ScoreManifest, write_manifest, write_scores

KEYS = [f"{number:02}" for number in range(60)]


def write(folder: Path, names: list[str], scores: np.ndarray, targets: np.ndarray) -> str:
    write_scores([(KEYS, scores, targets)], str(folder))
    manifest = ScoreManifest(
        set_name="set", system="system", identity="", images=60, classes=names, matched_by=["name"] * len(names)
    )
    write_manifest(str(folder), manifest)
    return str(folder)


def test_images_are_on_the_side_that_they_moved_to(tmp_path: Path) -> None:
    """The second system has its classes in another order, and so many that they lie in another block."""
    targets = np.zeros((60, 2), np.int8)
    targets[:10, 0], targets[5, 0] = 1, -1
    targets[:20, 1] = 1
    scores = np.stack([np.linspace(0.9, 0.1, 60), np.linspace(0.9, 0.1, 60)], axis=1).astype(np.float32)
    changed = scores.copy()
    changed[2, 0] = 0.05  # true, and now the last
    changed[40, 0] = 0.95  # not true, and now the first
    changed[9, 0] = 0.99  # true, and now the first of all
    changed[5, 0] = 0.0  # does not count
    others = np.zeros((60, 64), np.float32)
    first = write(tmp_path / "first", ["dog", "cat"], scores, targets)
    second = write(
        tmp_path / "second",
        [*(f"other {number}" for number in range(64)), "cat", "dog"],
        np.concatenate([others, changed[:, ::-1]], axis=1),
        np.concatenate([others.astype(np.int8), targets[:, ::-1]], axis=1),
    )
    dog, cat = look_at_classes([first, second], ["dog", "cat"])
    assert (dog.name, cat.name) == ("dog", "cat") and not cat.better and not cat.worse
    assert [image.key for image in dog.worse[:2]] == ["40", "02"] and dog.better[0].key == "09"
    assert dog.worse[0].second == pytest.approx(1 / 59) and not dog.worse[0].is_true
    assert (dog.worse[1].first, dog.worse[1].second) == (pytest.approx(2 / 59), pytest.approx(58 / 59))
    assert dog.better[0].second == 0 and all(len(side) <= 4 for side in (dog.better, dog.worse))
    assert "05" not in {image.key for image in (*dog.better, *dog.worse)}
    known = targets[:, 0] >= 0
    for points, values in zip(dog.curves, (scores[:, 0], changed[:, 0]), strict=True):
        recall, precision, _ = precision_recall(values[known], targets[known, 0] == 1)
        of_curve = set(zip(recall.tolist(), precision.tolist(), strict=True))
        assert set(points) <= of_curve and points[-1][0] == 1
        steps = np.diff(recall, prepend=0) * precision
        assert steps.sum() == pytest.approx(average_precision_score(targets[known, 0] == 1, values[known]), abs=1e-9)
    assert all(reliability is not None and reliability.counts.sum() == 59 for reliability in dog.reliabilities)
