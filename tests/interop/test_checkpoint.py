"""Contract: a checkpoint in the released form loads as the same model, whatever its sizes. Any other file, foreign,
incomplete or hostile, is an error of one line, and no code in it runs."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ram_ray.interop.checkpoint import load_checkpoint, read_state, rename
from ram_ray.models.position_bias import resize_position_bias
from ram_ray.settings.models import SwinConfig, TransformerConfig
from tests import released

WIDE = TransformerConfig(width=20, layers=1, heads=5, ffn=16, dropout=0.0, norm_eps=1e-6)
SIZES = {
    "ram": {},
    "ram_plus": {},
    "tag2text": {},
    "ram other sizes": {
        "image_size": 40,
        "swin": SwinConfig(patch_size=4, window_size=5, embed_dim=12, depths=(2, 1), num_heads=(3, 4)),
        "image_proj": 28,
        "label_width": 20,
        "recognition": WIDE,
        "tag_encoder": WIDE.model_copy(update={"layers": 4, "heads": 2}),
        "caption_decoder": WIDE.model_copy(update={"layers": 4, "heads": 2}),
        "label_proj": False,
        "num_tags": 13,
    },
    "ram_plus smaller stages than windows": {
        "image_size": 32,
        "swin": SwinConfig(patch_size=4, window_size=4, embed_dim=8, depths=(2, 2, 2), num_heads=(1, 2, 2)),
        "num_tags": 5,
        "descriptions": 8,
    },
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return released.write(tmp_path_factory.mktemp("released") / "ram", released.model("ram"))


@pytest.fixture()
def copy(good: Path, tmp_path: Path) -> Path:
    shutil.copytree(good, tmp_path / "ram")
    return tmp_path / "ram"


def _load(folder: Path, **changes):
    return load_checkpoint(folder / "checkpoint.pth", **{"configs": folder / "configs", "num_tags": 7, **changes})


@pytest.mark.parametrize("name", SIZES)
def test_it_is_the_same_model(name: str, tmp_path: Path) -> None:
    model = released.model(name.split()[0], **SIZES[name])
    folder = released.write(tmp_path / "it", model, optimizer={"state": {0: torch.zeros(3)}}, epoch=4)
    loaded = _load(folder, num_tags=len(model.label_embed))
    pixels = torch.randn(2, 3, model.config.image_size, model.config.image_size)
    with torch.no_grad():
        tokens = model.encode(pixels)
        # Not bit for bit: with several threads a product depends on where its matrices lie in memory.
        torch.testing.assert_close(loaded.encode(pixels), tokens, rtol=0, atol=1e-5)
        torch.testing.assert_close(loaded.logits(tokens), model.logits(tokens), rtol=0, atol=1e-5)
        if model.config.captions:
            tags, prompt = torch.randint(1, 20, (2, 9)), torch.tensor([5, 6])
            expected = model.generate(tokens, tags, prompt, end=7, max_tokens=8)
            assert torch.equal(
                loaded.generate(tokens, tags, prompt, end=7, max_tokens=8, decoding=model.config.decoding), expected
            )
    for part in ("swin", "recognition", "tag_encoder", "image_size", "label_width", "descriptions", "label_proj"):
        if part not in ("swin", "tag_encoder") or model.config.captions:
            value, expected = getattr(loaded.config, part), getattr(model.config, part)
            assert value == expected or part == "swin", part


def test_of_tied_tensors_the_last_that_the_reference_loads_is_used(copy: Path) -> None:
    state = released.state(released.model("ram"))
    key = "crossattention.self.key.weight"
    state[f"tag_encoder.encoder.layer.0.{key}"] = torch.zeros_like(state[f"tag_encoder.encoder.layer.0.{key}"])
    words = state["text_decoder.cls.predictions.decoder.weight"] + 1
    state["text_decoder.cls.predictions.decoder.weight"] = words
    torch.save({"model": state}, copy / "checkpoint.pth")
    loaded = _load(copy)
    assert loaded.tag_encoder.layers[0].cross.key.weight.abs().sum() > 0
    assert loaded.tag_encoder.layers[0].cross is loaded.recognition.layers[0].cross
    assert torch.equal(loaded.caption_decoder.embedding.word.weight, words)


def test_wrapped_and_old_names_are_understood(copy: Path) -> None:
    state = released.state(released.model("ram"))
    old = {f"module.{name.replace('tagging_head', 'vision_multi')}": value.half() for name, value in state.items()}
    torch.save(old, copy / "checkpoint.pth", _use_new_zipfile_serialization=False)
    loaded = _load(copy)
    assert loaded.image_proj.weight.dtype == torch.float32
    torch.testing.assert_close(loaded.image_proj.weight, state["image_proj.weight"], atol=2e-3, rtol=2e-3)


def test_another_window_resizes_position_biases(copy: Path) -> None:
    file = copy / "configs" / "swin" / "config_swinB_384.json"
    tree = json.loads(file.read_text())
    file.write_text(json.dumps({**tree, "window_size": 6, "image_res": 96}))
    loaded, source = _load(copy), released.model("ram")
    name = "image_encoder.backbone.layers.0.blocks.0.attn.relative_position_bias_table"
    table = source.state_dict()[name]
    assert loaded.config.image_size == 96 and loaded.state_dict()[name].shape == (121, 1)
    assert torch.equal(loaded.state_dict()[name], resize_position_bias(table, 6))
    assert loaded.encode(torch.randn(1, 3, 96, 96)).shape == (1, 1 + 36, 20)


@pytest.mark.parametrize(("source", "target"), [(5, 7), (7, 5), (13, 23), (23, 13)])
def test_resized_position_biases_are_the_references(source: int, target: int, shared: Path) -> None:
    known = np.load(shared / "fixtures" / "relpos-interp" / "interp.npz")
    resized = resize_position_bias(torch.from_numpy(known[f"in_{source}_{target}"]), (target + 1) // 2)
    np.testing.assert_allclose(resized.numpy(), known[f"out_{source}_{target}"], atol=1e-6)


def test_a_resized_bias_has_the_same_middle_and_its_own_size_changes_nothing() -> None:
    torch.manual_seed(0)
    table = torch.randn(25, 2)
    assert torch.equal(resize_position_bias(table, 3), table)
    larger = resize_position_bias(table, 5)
    torch.testing.assert_close(larger.view(9, 9, 2)[4, 4], table.view(5, 5, 2)[2, 2], atol=1e-5, rtol=1e-5)
    for rows in (1, 9):  # windows of 1 and 2
        small = torch.randn(rows, 2)
        assert resize_position_bias(small, 4).shape == (49, 2)
        torch.testing.assert_close(resize_position_bias(small, 4)[24], small[rows // 2], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="position bias"):
        resize_position_bias(torch.randn(24, 2), 5)


def test_the_matching_swin_is_selected_among_several(copy: Path) -> None:
    file = copy / "configs" / "swin" / "config_swinB_384.json"
    tree = json.loads(file.read_text())
    others = {"a": {"embed_dim": 16}, "b": {"depths": [1, 2, 3]}, "z": {"image_res": 96, "window_size": 6}}
    for name, change in others.items():
        (file.parent / f"{name}.json").write_text(json.dumps({**tree, **change}))
    assert _load(copy).config.image_size == 48
    assert _load(copy, image_size=96).config.swin.window_size == 6
    with pytest.raises(ValueError, match="none of .* at 64 px"):
        _load(copy, image_size=64)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("q2l_config.json", {"hidden_size": 32}, "q2l_config.json has hidden_size 32, but the checkpoint has 24"),
        ("q2l_config.json", {"num_attention_heads": 7}, "q2l_config.json.*multiple of heads 7"),
        ("q2l_config.json", {"hidden_act": "relu"}, "q2l_config.json.*hidden_act"),
        ("med_config.json", {"num_hidden_layers": 12}, "num_hidden_layers 12, but the checkpoint has 3"),
        ("med_config.json", {"vocab_size": 30524}, "vocab_size 30524"),
        ("swin/config_swinB_384.json", {"depths": [2, 2, 18, 2]}, "none of config_swinB_384.json"),
        ("swin/config_swinB_384.json", {"image_res": -1}, "image_res"),
    ],
)
def test_json_files_that_disagree_are_an_error(file: str, change: dict, message: str, copy: Path) -> None:
    tree = json.loads((copy / "configs" / file).read_text())
    (copy / "configs" / file).write_text(json.dumps({**tree, **change}))
    with pytest.raises(ValueError, match=message) as caught:
        _load(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000])
def test_json_that_cannot_be_read_is_an_error(text: str, copy: Path) -> None:
    (copy / "configs" / "q2l_config.json").write_text(text)
    with pytest.raises(ValueError, match="q2l_config.json") as caught:
        _load(copy)
    assert "\n" not in str(caught.value)


def test_without_the_json_files_only_the_released_width_is_taken(good: Path) -> None:
    with pytest.raises(ValueError, match="give --config"):
        _load(good, configs=None)
    with pytest.raises(ValueError, match="no such folder"):
        _load(good, configs=good / "nowhere")


class _Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_a_hostile_file_runs_nothing(copy: Path, tmp_path: Path) -> None:
    file = copy / "checkpoint.pth"
    for zipped in (True, False):
        torch.save({"model": {"x": _Bomb(tmp_path / "trace")}}, file, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match="not loaded|not a whole checkpoint") as caught:
            _load(copy)
        assert "\n" not in str(caught.value) and not (tmp_path / "trace").exists()
    file.write_bytes(pickle.dumps({"model": _Bomb(tmp_path / "trace")}))
    with pytest.raises(ValueError, match="checkpoint"):
        _load(copy)
    assert not (tmp_path / "trace").exists()


def test_an_incomplete_or_foreign_file_is_an_error(copy: Path) -> None:
    file = copy / "checkpoint.pth"
    whole = file.read_bytes()
    for data in (b"", whole[:10], whole[: len(whole) // 2], whole[:-1000], b"\x00" * 1000, b"GIF89a" + whole[6:]):
        file.write_bytes(data)
        with pytest.raises(ValueError, match="checkpoint") as caught:
            _load(copy)
        assert "\n" not in str(caught.value) and str(file) in str(caught.value)
    with pytest.raises(ValueError, match="no such file"):
        _load(copy / "nowhere")


def test_invalid_tensors_are_an_error(copy: Path) -> None:
    state = released.state(released.model("ram"))
    cases = {
        "more than the file can hold": {"image_proj.weight": torch.zeros(1).expand(10**6, 10**6)},
        "not finite": {"image_proj.bias": torch.full((20,), torch.nan)},
        "not a plain tensor": {"image_proj.bias": "text"},
        "has shape": {"image_proj.bias": torch.zeros(3)},
        "do not fit together|has shape": {"label_embed": torch.zeros(7, 21)},
    }
    for message, change in cases.items():
        torch.save({"model": {**state, **change}}, copy / "checkpoint.pth")
        with pytest.raises(ValueError, match=message) as caught:
            _load(copy)
        assert "\n" not in str(caught.value)
    for missing in ("image_proj.bias", "visual_encoder.norm.weight", "fc.weight"):
        torch.save(
            {"model": {name: value for name, value in state.items() if name != missing}}, copy / "checkpoint.pth"
        )
        with pytest.raises(ValueError, match="missing"):
            _load(copy)
    torch.save({"model": {"layer.weight": torch.zeros(2)}}, copy / "checkpoint.pth")
    with pytest.raises(ValueError, match="none of RAM, RAM\\+\\+ and Tag2Text"):
        _load(copy)


def test_every_name_of_the_fixtures_is_translated(shared: Path) -> None:
    for folder in (shared / "fixtures").glob("tiny-*"):
        names = read_state(folder / "checkpoint.pth")
        ignored = [name for name in names if rename(name) is None]
        assert all(name.endswith(("relative_position_index", "attn_mask", "position_ids")) for name in ignored)
