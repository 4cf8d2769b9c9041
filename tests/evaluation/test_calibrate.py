"""Contract: a label's threshold has the precision or recall that is asked, or the best F1, of all thresholds, and on
other images a precision near it; the bundle gets the thresholds of its labels, and what cannot be calibrated stays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from ram_ray.config import RunConfig
from ram_ray.evaluation.calibrate import MIN_POSITIVES, Goal, calibrate, choose_threshold, fit_probabilities
from ram_ray.inference import Predictor
from ram_ray.label_system import LabelSystem, is_present
from tests.tiny import jpeg


def figures(scores: np.ndarray, targets: np.ndarray, threshold: float) -> tuple[float, float, float]:
    """Precision, recall and F1 at a threshold."""
    predicted = is_present(scores, threshold)
    hits = (predicted & targets).sum()
    precision, recall = hits / max(1, predicted.sum()), hits / targets.sum()
    return precision, recall, 2 * precision * recall / max(1e-12, precision + recall)


@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_is_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = rng.random(60) < 0.4
    scores = np.round(np.clip(rng.normal(0.4 + 0.2 * targets, 0.15), 0, 1), 2).astype(np.float32)  # with ties
    all_figures = np.array([figures(scores, targets, value) for value in np.unique(scores)])
    precision, recall, f1 = all_figures.T
    best = choose_threshold(scores, targets, Goal("f1"))
    assert best is not None and figures(scores, targets, best)[2] == pytest.approx(f1.max())
    exact = choose_threshold(scores, targets, Goal("precision", 0.7))
    assert exact is not None and figures(scores, targets, exact)[0] >= 0.7
    assert figures(scores, targets, exact)[1] <= recall[precision >= 0.7].max()
    full = choose_threshold(scores, targets, Goal("recall", 0.8))
    assert full is not None and figures(scores, targets, full)[1] == recall[recall >= 0.8].min()


@pytest.mark.parametrize("precision", [0.5, 0.7, 0.8])
def test_other_images_have_the_precision_that_is_asked(precision: float) -> None:
    """100 labels with 30 positives of 500 images each; the lowest thresholds on these are 2 to 5 points too low."""
    rng = np.random.default_rng(0)
    hits = predicted = 0

    def draw(num: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
        targets = np.arange(num) % 50 < 3
        return expit(rng.normal(shift * targets - 3)), targets

    for shift in rng.uniform(1.5, 3.2, 100):
        threshold = choose_threshold(*draw(500, shift), Goal("precision", precision))
        if threshold is not None:
            scores, targets = draw(5000, shift)
            shown = is_present(scores, threshold)
            hits, predicted = hits + (shown & targets).sum(), predicted + shown.sum()
    assert precision - 0.01 <= hits / predicted <= precision + 0.05


def test_a_label_without_spread_or_without_an_error_has_probabilities() -> None:
    targets = np.arange(40) < 10
    assert fit_probabilities(np.full(40, 0.3), targets) == pytest.approx(np.full(40, 0.25), abs=0.02)
    separated = fit_probabilities(np.where(targets, 1.0, 0.0), targets)
    assert separated[:10].min() > 0.85 and separated[10:].max() < 0.1


def test_what_cannot_be_calibrated() -> None:
    scores = np.linspace(0, 1, 20, dtype=np.float32)
    few = np.arange(20) < MIN_POSITIVES - 1
    assert choose_threshold(scores, few, Goal("f1")) is None
    worst = np.arange(20) < 10  # the positives have the lowest scores
    assert choose_threshold(scores, worst, Goal("precision", 0.9)) is None
    for text in ("f2", "precision", "precision=2", "recall=0", "recall=x", "f1=0.5"):
        with pytest.raises(ValueError, match="use precision=0.9, recall=0.8 or f1"):
            Goal.parse(text)
    assert Goal.parse("recall=0.8") == Goal("recall", 0.8) and str(Goal("precision", 0.9)) == "precision=0.9"


def test_images_without_labels_are_one_line(ray_cluster: None, tiny_bundle: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    (tmp_path / "captions.jsonl").write_text('{"file_name": "a.jpg", "captions": ["a dog"]}\n')
    with pytest.raises(ValueError, match="no image has a label of the model"):
        calibrate(tiny_bundle, [str(tmp_path)], goal=Goal("f1"), config=RunConfig())


def test_a_bundle_gets_thresholds(ray_cluster: None, tiny_bundle: str, tmp_path: Path) -> None:
    bundle, folder = tmp_path / "bundle", tmp_path / "labelled"
    shutil.copytree(tiny_bundle, bundle)
    folder.mkdir()
    lines = []
    for seed in range(16):
        (folder / f"{seed}.jpg").write_bytes(jpeg(seed))
        labels = [name for name, has in (("dog", seed % 2), ("beach", seed == 3), ("zebra", True)) if has]
        lines.append({"file_name": f"{seed}.jpg", "labels": labels})
    lines.append({"file_name": "0.jpg", "caption": "a dog"})  # without human labels
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    record = calibrate(str(bundle), [str(folder)], goal=Goal("f1"), config=RunConfig())
    images = [str(folder / f"{seed}.jpg") for seed in range(16)]
    scores = Predictor.from_pretrained(tiny_bundle, device="cpu").probabilities(images)[:, 0]
    targets = np.arange(16) % 2 == 1
    system = LabelSystem.load(str(bundle / "label_system.json"))
    assert system[0].threshold == pytest.approx(choose_threshold(scores, targets, Goal("f1")), abs=1e-5)
    assert [label.threshold for label in system.labels[1:]] == [None] * 5
    assert system.version == LabelSystem.load(f"{tiny_bundle}/label_system.json").version
    counts = {name: record[name] for name in ("images", "calibrated", "few_positives", "no_positives", "unreached")}
    assert counts == {"images": 16, "calibrated": 1, "few_positives": 1, "no_positives": 4, "unreached": []}
    assert record == json.loads((bundle / "calibration.json").read_text())
    predictor = Predictor.from_pretrained(str(bundle), device="cpu")
    shown = np.array(["dog" in {tag.tag for tag in tags} for tags in predictor.tag(images)])
    hits = (shown & targets).sum()
    assert record["after"]["recall"] == pytest.approx(hits / 8) and record["after"]["precision"] == hits / shown.sum()
