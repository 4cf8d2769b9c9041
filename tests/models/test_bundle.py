"""Contract: a bundle is self-contained and runs no code; parts that do not match are a clear error."""

from __future__ import annotations

import json
import pickle
import shutil
import uuid
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from ram_ray.label_system import Label, LabelSystem
from ram_ray.models.bundle import load_bundle, save_bundle


@pytest.fixture()
def copy(tiny_bundle: str, tmp_path: Path) -> Path:
    """A copy of the bundle that a test may damage."""
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    return tmp_path / "bundle"


def _logits(bundle) -> torch.Tensor:
    torch.manual_seed(1)
    with torch.no_grad():
        return bundle.model.logits(bundle.model.encode(torch.randn(2, 3, 32, 32)))


def test_a_bundle_that_is_saved_again_gives_identical_logits(tiny_bundle: str, tmp_path: Path) -> None:
    first = load_bundle(tiny_bundle)
    parts = {"labels": first.labels, "tokenizer": first.tokenizer, "teacher": first.teacher()}
    save_bundle(tmp_path / "again", first.model, **parts, card={"stage": "pretrain"})
    shutil.rmtree(tmp_path / "again" / "text_encoder" / ".cache", ignore_errors=True)
    (tmp_path / "again").rename(tmp_path / "moved")
    second = load_bundle(str(tmp_path / "moved"))
    torch.testing.assert_close(_logits(first), _logits(second), rtol=0, atol=1e-5)
    assert second.labels.labels == first.labels.labels and second.model.config == first.model.config
    assert len(second.tokenizer) == len(first.tokenizer)
    names = [["a new tag"], ["{}"]]
    assert torch.equal(first.teacher().label_embeddings(*names), second.teacher().label_embeddings(*names))
    assert "| stage | pretrain |" in (tmp_path / "moved" / "README.md").read_text()


def test_loaded_weights_do_not_depend_on_the_initialisation(copy: Path, tiny_bundle: str) -> None:
    config = copy / "config.json"
    text = config.read_text()
    assert '"init_std": 0.02' in text
    config.write_text(text.replace('"init_std": 0.02', '"init_std": null'))
    torch.testing.assert_close(_logits(load_bundle(str(copy))), _logits(load_bundle(tiny_bundle)), rtol=0, atol=1e-5)


def test_shared_weights_are_shared_after_loading(tiny_bundle: str) -> None:
    model = load_bundle(tiny_bundle).model
    assert model.tag_encoder.layers[0].cross is model.recognition.layers[0].cross
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_a_bundle_is_loaded_from_a_uri(scheme: str, tiny_bundle: str) -> None:
    uri = f"file://{tiny_bundle}"
    if scheme == "memory":
        uri = f"memory://{uuid.uuid4().hex}/models/bundle"
        fs, path = fsspec.url_to_fs(uri)
        fs.put(f"{tiny_bundle}/", f"{path}/", recursive=True)
    bundle = load_bundle(uri)
    torch.testing.assert_close(_logits(bundle), _logits(load_bundle(tiny_bundle)), rtol=0, atol=1e-5)
    assert bundle.teacher().encode_texts(["dog"]).shape == (1, 16)


def test_nothing_in_a_bundle_is_a_pickle(tiny_bundle: str) -> None:
    suffixes = {path.suffix for path in Path(tiny_bundle).rglob("*") if path.is_file()}
    assert suffixes == {".safetensors", ".json", ".md"}


class _Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("path", ["model.safetensors", "text_encoder/model.safetensors"])
def test_a_pickle_in_place_of_weights_is_an_error_and_runs_nothing(path: str, copy: Path, tmp_path: Path) -> None:
    (copy / path).write_bytes(pickle.dumps({"model": _Bomb(tmp_path / "trace")}))
    with pytest.raises(ValueError, match=r"the weights cannot be read, copy model.safetensors again"):
        load_bundle(str(copy)).teacher()
    assert not (tmp_path / "trace").exists()
    pickle.loads((copy / path).read_bytes())
    assert (tmp_path / "trace").exists(), "unpickling runs the code"


def test_truncated_weights_are_a_clear_error(copy: Path) -> None:
    for path in ("model.safetensors", "text_encoder/model.safetensors"):
        weights = (copy / path).read_bytes()
        for size in (len(weights) - 100, 20, 0):
            (copy / path).write_bytes(weights[:size])
            with pytest.raises(ValueError, match="the weights cannot be read, copy model.safetensors again") as caught:
                load_bundle(str(copy)).teacher()
            assert "\n" not in str(caught.value) and str(copy) in str(caught.value)
        (copy / path).write_bytes(weights)


def test_missing_weights_are_a_clear_error(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="weights"):
        load_bundle(str(copy))


def test_labels_that_do_not_match_the_weights_are_a_clear_error(copy: Path) -> None:
    LabelSystem([Label(0, "dog", "object")]).save(str(copy / "label_system.json"))
    with pytest.raises(ValueError, match="the weights do not fit") as caught:
        load_bundle(str(copy))
    assert "\n" not in str(caught.value)


def test_labels_that_do_not_match_the_model_are_not_saved(tiny_bundle: str, tmp_path: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    labels = LabelSystem([Label(0, "dog", "object")])
    with pytest.raises(ValueError, match="1 labels but 6 label embeddings"):
        save_bundle(tmp_path, bundle.model, labels=labels, tokenizer=bundle.tokenizer, teacher=bundle.teacher())


def test_a_folder_of_another_kind_is_a_clear_error(copy: Path, tiny_bundle: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    cases = {
        str(tmp_path / "nowhere"): "no such file or folder; give a path, a URI",
        str(tmp_path / "empty"): "is not a model bundle",
        f"{tiny_bundle}/text_encoder": "is not a model bundle",
        str(copy): "is not a model bundle's",
    }
    tree = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**tree, "kind": "clip"}))
    for path, message in cases.items():
        with pytest.raises(ValueError, match=message) as caught:
            load_bundle(path)
        assert path in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "\x00", '{"kind": "ram_ray.bundle", "colour": 3}'])
def test_a_config_that_cannot_be_read_is_a_clear_error(text: str, copy: Path) -> None:
    (copy / "config.json").write_text(text)
    with pytest.raises(ValueError, match="bundle") as caught:
        load_bundle(str(copy))
    assert "\n" not in str(caught.value)


def test_weights_of_other_sizes_are_a_clear_error(copy: Path) -> None:
    tree = json.loads((copy / "config.json").read_text())
    tree["recognition"]["layers"] = 1
    (copy / "config.json").write_text(json.dumps(tree))
    with pytest.raises(ValueError, match="weights missing|unknown") as caught:
        load_bundle(str(copy))
    assert "\n" not in str(caught.value)


def test_label_embeddings_equal_those_of_the_text_encoder(tiny_bundle: str) -> None:
    bundle = load_bundle(tiny_bundle)
    expected = bundle.teacher().label_embeddings(bundle.labels.names, list(bundle.model.config.templates))
    np.testing.assert_allclose(bundle.model.label_embed.numpy(), expected.numpy(), atol=1e-6)
