"""Contract: a bundle's scores on a named set are those of `Predictor`, for labels by name, by the mapping and for
texts; a regression that is planted in three labels of a bundle is named by the command, and nothing else is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from ram_ray.cli.compare import compare_systems, parse_systems
from ram_ray.evaluation.score_files import read_block, read_manifest
from ram_ray.evaluation.systems.registry import make_system
from ram_ray.inference import Predictor
from ram_ray.runtime import cluster
from tests.tiny import jpeg

NUM_IMAGES = 100
PLANTED, REPLACED_BY = [0, 1, 4], [4, 4, 1]  # labels that answer for others in the second bundle
CLASSES = ["Dog", "beach", "crimson", "zebra", "traffic light", "Person"]  # by name, by the mapping, by text


def normal(scores: np.ndarray) -> np.ndarray:
    return (scores - scores.mean(axis=0)) / scores.std(axis=0)


def test_a_planted_regression_is_named_and_nothing_else(
    ray_cluster: None,
    tiny_bundle: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(NUM_IMAGES):
        (images / f"{number:03}.jpg").write_bytes(jpeg(number))
    (images / "broken.jpg").write_bytes(jpeg(99)[:400])
    predictor = Predictor.from_pretrained(tiny_bundle, device="cpu")
    tokens = predictor.encode([str(images / f"{number:03}.jpg") for number in range(NUM_IMAGES)])
    own, zebra = predictor.token_probabilities(tokens), predictor.token_probabilities(tokens, tags=["zebra"])
    expected = np.stack([own[:, 0], own[:, 1], own[:, 2], zebra[:, 0], own[:, 4], own[:, [3, 5]].max(axis=1)], axis=1)
    usual = normal(expected) + np.random.default_rng(0).normal(0, 0.3, expected.shape)
    usual[:, PLANTED] = normal(expected)[:, PLANTED]
    for label, other in zip(PLANTED, REPLACED_BY, strict=True):  # true is what the other label does not tell
        usual[:, label] -= np.corrcoef(expected[:, [label, other]].T)[0, 1] * normal(expected)[:, other]
    truth = usual >= np.quantile(usual, 0.6, axis=0)

    worse = tmp_path / "worse"
    shutil.copytree(tiny_bundle, worse)
    weights = load_file(worse / "model.safetensors")
    weights["label_embed"][PLANTED] = weights["label_embed"][REPLACED_BY]
    save_file(weights, worse / "model.safetensors", metadata={"format": "pt"})
    rows = [[f"{n:03}.jpg", *(CLASSES[i] for i in np.flatnonzero(row))] for n, row in enumerate(truth)]
    rows += [["broken.jpg", "Dog"], ["gone", "Dog"]]
    (tmp_path / "truth.txt").write_text("\n".join(map(",".join, rows)))
    (tmp_path / "classes.txt").write_text("\n".join([*CLASSES, "unicorn"]))
    (tmp_path / "map.txt").write_text("crimson = red\nperson = person | run\nunicorn = -")
    eval_set = f"tiny={tmp_path}/truth.txt,images={images},classes={tmp_path}/classes.txt,map={tmp_path}/map.txt"

    monkeypatch.setattr(cluster, "stop", lambda: None)  # the cluster is that of all tests
    out = tmp_path / "out"
    with caplog.at_level("INFO"):
        assert compare_systems([tiny_bundle, str(worse)], [eval_set], str(out), replicates=300) == 0
    result = json.loads((out / "compare.json").read_text())["tiny"]
    assert sorted(result["worse"]) == ["beach", "dog", "traffic light"] and result["better"] == []
    assert result["num_classes"] == 6 and result["mAP"]["interval"][1] < 0
    assert {line["class"]: line["difference"] for line in result["per_class"][3:]} == {
        "crimson": 0,
        "zebra": 0,
        "person": 0,
    }
    page = (out / "compare.html").read_text()
    assert 3 * 4 < page.count("<img ") <= 3 * 8 and "cannot be read" not in page
    assert page.count("<section ") == 3 and page.count("Got worse") == 3 and "does not differ" not in page
    assert page.count("<svg ") == 3 * 2 and page.count("</i>bundle<") == page.count("</i>worse<") == 3 * 2
    assert any("worse: 3 of 6 classes: " in record.getMessage() for record in caplog.records)

    scores = str(out / "scores/tiny/bundle")
    manifest = read_manifest(scores)
    assert manifest.classes == [name.lower() for name in CLASSES] and manifest.unsupported == ["unicorn"]
    assert manifest.matched_by == ["name", "name", "map", "open", "name", "map"]
    assert manifest.images == NUM_IMAGES and manifest.notes == ["2 images could not be read"]
    block = read_block(scores, 0, num_classes=6)
    assert block.keys == [f"{number:03}.jpg" for number in range(NUM_IMAGES)]
    np.testing.assert_allclose(block.scores, expected, atol=1e-5)
    np.testing.assert_array_equal(block.targets, truth)

    before = {path: path.stat().st_mtime_ns for path in (out / "scores").rglob("*.parquet")}
    assert compare_systems([str(worse), tiny_bundle], [eval_set], str(out), replicates=300) == 0
    again = json.loads((out / "compare.json").read_text())["tiny"]
    assert sorted(again["better"]) == sorted(result["worse"]) and again["worse"] == []
    after = {path: path.stat().st_mtime_ns for path in (out / "scores").rglob("*.parquet")}
    assert before == after, "scores that are there are not computed again"


def test_the_systems_of_a_comparison_are_checked_before_anything_runs(tiny_bundle: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="takes two systems"):
        compare_systems([tiny_bundle], ["x.tar"], str(tmp_path), replicates=20)
    with pytest.raises(ValueError, match="name labelled images"):
        compare_systems([tiny_bundle, tiny_bundle], [], str(tmp_path), replicates=20)
    assert [spec.name for spec in parse_systems([tiny_bundle, tiny_bundle])] == ["bundle-1", "bundle-2"]
    (tmp_path / "run/models/pretrain").mkdir(parents=True)
    with pytest.raises(ValueError, match="has no finetuned model"):
        make_system(parse_systems([str(tmp_path / "run")])[0])
    (tmp_path / "tags.csv").write_text("a")
    with pytest.raises(ValueError, match="ends with .jsonl"):
        make_system(parse_systems([str(tmp_path / "tags.csv")])[0])
