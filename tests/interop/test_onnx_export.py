"""Contract: the ONNX file is written only if it has the bundle's logits, for any batch and any label embeddings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ram_ray.cli.main import main
from ram_ray.inference.predictor import Predictor
from ram_ray.interop import onnx_export
from tests import released
from tests.tiny import photo

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")


@pytest.fixture(
    scope="module", params=["ram", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("ram_plus", "tag2text"))]
)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("released")
    source = released.write(folder / "it", released.model(request.param))
    arguments = ["--config", str(source / "configs"), "--tokenizer", str(source / "tokenizer")]
    assert main(["import", str(source / "checkpoint.pth"), str(folder / "bundle"), *arguments]) == 0
    return folder / "bundle"


def test_the_file_tags_any_batch_with_any_tags(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    photo(1).save(tmp_path / "a.png")
    out = tmp_path / "out"
    assert main(["export", "--onnx", str(bundle), str(out), "--images", str(tmp_path / "a.png")]) == 0
    assert "on 1 images" in capsys.readouterr().out
    predictor = Predictor.from_pretrained(str(bundle), device="cpu")
    metadata = json.loads((out / "model.json").read_text())
    assert metadata["tags"] == predictor.labels.names and metadata["mean"] == list(predictor.config.mean)
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    pixels = predictor.preprocess([photo(seed) for seed in range(5)])
    feed = {"pixel_values": pixels.numpy()}
    if predictor.config.architecture == "tag2text":
        assert [tensor.name for tensor in session.get_inputs()] == ["pixel_values"]
        np.testing.assert_allclose(session.run(None, feed)[0], predictor.logits(pixels), atol=1e-4)
        return
    embed = np.load(out / "model.label_embed.npy")
    np.testing.assert_allclose(
        session.run(None, {**feed, "label_embed": embed})[0], predictor.logits(pixels), atol=1e-4
    )
    own = embed[[4, 2]]
    logits = session.run(None, {"pixel_values": pixels.numpy()[:1], "label_embed": own})[0]
    expected = predictor.logits(pixels[:1], embeddings=torch.from_numpy(own))
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_a_file_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_bundle: str) -> None:
    monkeypatch.setattr(onnx_export, "TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="not written"):
        onnx_export.export_onnx(tiny_bundle, str(tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def test_an_export_overwrites_nothing(tmp_path: Path, tiny_bundle: str) -> None:
    (tmp_path / "it.onnx").write_bytes(b"mine")
    with pytest.raises(ValueError, match="is there already"):
        onnx_export.export_onnx(tiny_bundle, str(tmp_path / "it.onnx"))
    assert (tmp_path / "it.onnx").read_bytes() == b"mine"
