"""Contract: a linear probe is scikit-learn's logistic regression, k-NN a vote of the nearest images; no image is scored
by a probe that saw it, and what does not count changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ram_ray.evaluation import probe
from ram_ray.evaluation.probe import FEATURES, FOLDS, FeatureActor, knn_scores, linear_scores
from ram_ray.evaluation.score_files import read_block, read_manifest
from ram_ray.evaluation.sets.prepare import EvalSet
from ram_ray.models.dual_encoder import DualEncoder
from ram_ray.models.teacher import Teacher
from ram_ray.settings.models import DualEncoderConfig
from tests.tiny import STACK, SWIN, tokenizer

N, F, C = 300, 8, 3


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    """Features, and classes of which the features say something."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(N, F)).astype(np.float32) * np.linspace(0.5, 20, F, dtype=np.float32)
    logits = features / features.std(0) @ rng.normal(size=(F, C))
    targets = (rng.random((N, C)) < 1 / (1 + np.exp(-logits))).astype(np.int8)
    return features, targets


@pytest.mark.parametrize("decay", [1.0, 1e-3])
def test_the_linear_probe_is_a_logistic_regression(data: tuple[np.ndarray, np.ndarray], decay: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    features, targets = data
    x = (features - features.mean(0)) / features.std(0)
    _, (_, weights) = probe._fits(torch.from_numpy(x), torch.from_numpy(targets).float(), (decay, decay))
    for index in range(C):
        model = linear_model.LogisticRegression(C=1 / (N * decay), tol=1e-8, max_iter=1000).fit(x, targets[:, index])
        np.testing.assert_allclose(weights[:-1, index], model.coef_[0], atol=2e-3)
        assert weights[-1, index] == pytest.approx(model.intercept_[0], abs=2e-3)


def test_the_probe_has_no_use_for_noise_and_finds_what_is_there(data: tuple[np.ndarray, np.ndarray]) -> None:
    features, targets = data
    scores = linear_scores(features[:200], targets[:200], features[200:])
    assert scores.dtype == np.float32 and ((scores > 0.5) == targets[200:]).mean() > 0.75
    noise = np.random.default_rng(1).integers(0, 2, (200, C)).astype(np.int8)
    assert linear_scores(features[:200], noise, features[200:]).std(0).max() < 0.15, "strong decay is chosen for noise"


def test_the_linear_probe_is_fitted_without_what_does_not_count(data: tuple[np.ndarray, np.ndarray]) -> None:
    features, targets = data
    x, part = torch.from_numpy(features / features.std(0)), targets.copy()
    part[5:90, 0] = -1
    kept = np.delete(np.arange(N), np.arange(5, 90))
    fits = [
        probe._fits(rows, torch.from_numpy(labels).float(), (0.01, 0.01))[-1][1]
        for rows, labels in ((x, part), (x[kept], targets[kept]), (x, targets))
    ]
    np.testing.assert_allclose(fits[0][:, 0], fits[1][:, 0], atol=2e-3)
    np.testing.assert_allclose(fits[0][:, 1:], fits[2][:, 1:], atol=2e-3)
    assert (fits[0][:, 0] - fits[2][:, 0]).abs().max() > 0.02, "those images say something of the class"


def test_knn_is_a_weighted_vote_of_the_nearest(data: tuple[np.ndarray, np.ndarray]) -> None:
    features, targets = data
    part = targets[:200].copy()
    part[::7, 1] = -1
    scores = knn_scores(features[:200], part, features[200:])
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for row, vector in enumerate(unit[200:]):
        cosines = unit[:200] @ vector
        nearest = np.argsort(-cosines)[: probe.NEIGHBOURS]
        votes = np.exp(cosines[nearest] / probe.TEMPERATURE)
        known = part[nearest] >= 0
        expected = votes @ (part[nearest] == 1) / (votes @ known)
        np.testing.assert_allclose(scores[row], expected, atol=1e-4)


def test_an_image_is_scored_by_what_the_other_folds_fitted(tmp_path: Path) -> None:
    """The class of an image is its own feature: a probe that saw the image would know it, one that did not cannot."""
    keys = [f"s/{number}" for number in range(60)]
    features = np.eye(60, dtype=np.float32) * 50
    truth = [["a"] if number % 2 else [] for number in range(60)]
    columns = {"key": keys, "features": list(features), "truth": truth, "ignored": [[]] * 60, "absent": [None] * 60}
    (tmp_path / "features").mkdir()
    pq.write_table(pa.table(columns, schema=FEATURES), tmp_path / "features" / "0.parquet")
    eval_set = EvalSet(
        name="s", folder="", identity="", images=61, rejected=0, has_images=True, classes=["a"], synonyms=[[]]
    )
    manifests = probe._fit_and_score("encoder", eval_set, str(tmp_path), {"linear": "1", "knn": "2"})
    assert manifests["linear"] == read_manifest(f"{tmp_path}/linear") and manifests["linear"].identity == "1"
    assert manifests["knn"].images == 60 and manifests["knn"].notes == ["1 images could not be read"]
    block = read_block(f"{tmp_path}/linear", 0, num_classes=1)
    assert block.keys == sorted(keys)
    assert [bool(value) for value in block.targets[:, 0]] == [bool(truth[int(key[2:])]) for key in block.keys]
    correct = (block.scores[:, 0] > 0.5) == (block.targets[:, 0] == 1)
    assert correct.mean() < 0.7, "an image was scored by a probe that saw it"
    assert FOLDS == 5 and (tmp_path / "knn" / "manifest.json").is_file()


def test_features_are_those_before_the_projection(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = DualEncoderConfig(
        image_size=32, swin=SWIN, text=STACK, embed_dim=12, vocab_size=len(tokenizer()), max_text_tokens=10
    )
    model = DualEncoder(config).eval()
    model.save(tmp_path, tokenizer())
    pixels = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    batch = {
        "key": np.array(["s/0", "s/1", "s/2"]),
        "pixels": pixels,
        "reason": np.array([None, "truncated", None], dtype=object),
        "truth": np.array([["dog"], [], ["tree", "dog"]], dtype=object),
        "ignored": np.array([[], [], ["cat"]], dtype=object),
        "absent": np.array([None, None, np.nan], dtype=object),
    }
    seen: list[int] = []
    table = FeatureActor(str(tmp_path), add=seen.append)(batch)
    assert table.schema == FEATURES and table["key"].to_pylist() == ["s/0", "s/2"] and seen == [2]
    assert table["truth"].to_pylist() == [["dog"], ["tree", "dog"]] and table["absent"].to_pylist() == [None, None]
    teacher = Teacher.from_pretrained(str(tmp_path))
    expected = teacher.pooled(torch.from_numpy(pixels[[0, 2]])).numpy()
    np.testing.assert_allclose(np.stack(table["features"].to_numpy()), expected, atol=1e-5)
    projected = model.image_proj(torch.from_numpy(expected)).detach()
    np.testing.assert_allclose(
        projected / projected.norm(dim=1, keepdim=True), teacher.encode_images(pixels[[0, 2]]), atol=1e-5
    )
