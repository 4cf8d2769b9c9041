"""Contract: any timm model is an image encoder: its tokens are timm's, and a bundle and its exports keep them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from ram_ray.inference.backends.backend import make_label_set
from ram_ray.inference.backends.registry import make_backend
from ram_ray.label_system import Label, LabelSystem
from ram_ray.models.bundle import load_bundle, save_bundle
from ram_ray.models.image_encoder import ImageEncoder, check_encoder, token_width
from ram_ray.models.ram import RAM
from ram_ray.settings.models import SwinConfig, TimmConfig
from ram_ray.training.build import freeze_captioner
from tests.tiny import NAMES, batch, photo, tagger, tokenizer

SIZE = 160
FAMILIES = {  # side of the grid of tokens at 160 px
    "test_vit": 10,
    "test_vit2": 10,
    "test_vit3": 10,
    "test_vit4": 10,
    "test_vit_relpos": 10,
    "test_efficientnet": 5,
    "test_convnext": 5,
    "test_mambaout": 5,
    "test_maxvit": 5,
    "test_resnet": 5,
}


def named(name: str, **changes) -> RAM:
    """A tagger with this image encoder; BatchNorm's statistics are not those of new weights."""
    model = tagger(image_encoder=TimmConfig(name=name), image_size=SIZE, **changes)
    for module in model.image_encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def pixels(count: int = 2, *, seed: int = 1, size: int = SIZE) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_bundle_gives_the_tokens_of_its_model_and_saves_its_name(name: str, tmp_path: Path) -> None:
    model, words = named(name, vocab_size=len(tokenizer())), tokenizer()
    labels = LabelSystem([Label(id, text, "object") for id, text in enumerate(NAMES)])
    save_bundle(tmp_path, model, labels=labels, tokenizer=words, teacher=None)
    loaded = load_bundle(str(tmp_path)).model
    assert json.loads((tmp_path / "config.json").read_text())["image_encoder"]["name"] == name
    with torch.no_grad():
        tokens = model.image_encoder(pixels())
        torch.testing.assert_close(loaded.image_encoder(pixels()), tokens, rtol=0, atol=0)
        torch.testing.assert_close(loaded.logits(loaded.encode(pixels())), model.logits(model.encode(pixels())))
    assert tokens.shape == (2, 1 + FAMILIES[name] ** 2, token_width(model.config.encoder))
    torch.testing.assert_close(tokens[:, 0], tokens[:, 1:].mean(1))
    assert tokens[0].std(0).mean() > 1e-3, "tokens differ from each other"


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_are_timms_last_features_in_reading_order(name: str) -> None:
    encoder = ImageEncoder(TimmConfig(name=name), image_size=SIZE).eval()
    backbone = encoder.backbone
    with torch.no_grad():
        maps = backbone.forward_intermediates(
            pixels(), indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )[0]
        if name == "test_efficientnet":
            maps = backbone.forward_features(pixels())  # with the last convolution
        if name in ("test_convnext", "test_mambaout"):
            maps = backbone.head.norm(maps if name == "test_convnext" else maps.permute(0, 2, 3, 1))
            maps = maps if name == "test_convnext" else maps.permute(0, 3, 1, 2)
        expected = maps.flatten(2).transpose(1, 2)
        if name in ("test_vit2", "test_vit4", "test_vit_relpos"):  # they pool before the norm
            expected = backbone.fc_norm(backbone.forward_features(pixels())[:, backbone.num_prefix_tokens :])
        torch.testing.assert_close(encoder(pixels())[:, 1:], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_weight_that_is_not_frozen_gets_a_gradient(name: str) -> None:
    model = named(name)
    freeze_captioner(model)
    model.image_encoder.freeze_unused()
    model.train()({"pixel_values": pixels(), "targets": batch(2)["targets"]})["tag"].backward()
    weights = [(key, weight) for key, weight in model.image_encoder.named_parameters() if weight.requires_grad]
    assert not [key for key, weight in weights if weight.grad is None]
    frozen = {key for key, weight in model.image_encoder.named_parameters() if not weight.requires_grad}
    assert bool(frozen) == (name in ("test_vit3", "test_mambaout")), "pooling and a head that no token passes"


def test_a_swin_by_its_name_is_the_swin_of_its_sizes() -> None:
    sizes = SwinConfig(embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), window_size=4, drop_path=0.0)
    torch.manual_seed(0)
    first = ImageEncoder(sizes, image_size=64).eval()
    config = TimmConfig(name="swin_tiny_patch4_window7_224.ms_in22k", window_size=4)
    second = ImageEncoder(config, image_size=64).eval()
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        assert torch.equal(first(pixels(size=64)), second(pixels(size=64)))
    assert first.first_stride == second.first_stride == 4 and first.width == second.width == token_width(config) == 768


@pytest.mark.parametrize(("weights", "learns"), [(None, True), ("file.pth", False)])
def test_batch_norm_keeps_the_statistics_of_pretrained_weights(weights: str | None, learns: bool) -> None:
    encoder = ImageEncoder(TimmConfig(name="test_efficientnet", weights=weights), image_size=64).train()
    before = encoder.backbone.bn1.running_mean.clone()
    encoder(pixels(size=64))
    assert torch.equal(encoder.backbone.bn1.running_mean, before) != learns
    assert encoder.training and encoder.backbone.bn1.weight.requires_grad


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit"])
@pytest.mark.parametrize(("backend", "precision"), [("torch", "fp32"), ("torch", "bf16"), ("openvino", "fp32")])
def test_backends_give_the_plain_models_logits(name: str, backend: str, precision: str) -> None:
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    model = named(name)
    with torch.no_grad():
        expected = model.logits(model.encode(pixels()))
    labels = make_label_set(model, model.label_embed)
    made = make_backend(backend, model, precision=precision, threads=1)
    torch.testing.assert_close(
        made.logits(made.encode(pixels()), labels), expected, atol=1e-4 if precision == "fp32" else 0.2, rtol=0
    )


@pytest.mark.parametrize("name", ["test_efficientnet", pytest.param("test_vit", marks=pytest.mark.slow)])
def test_the_onnx_file_has_the_bundles_logits_and_normalisation(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    from ram_ray.interop.onnx_export import TOLERANCE, export_onnx

    model = named(name, vocab_size=len(tokenizer()), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    labels = LabelSystem([Label(id, text, "object") for id, text in enumerate(NAMES)])
    save_bundle(tmp_path / "bundle", model, labels=labels, tokenizer=tokenizer(), teacher=None)
    assert export_onnx(str(tmp_path / "bundle"), str(tmp_path / "out"), images=[photo(1)]).difference <= TOLERANCE
    written = json.loads((tmp_path / "out" / "model.json").read_text())
    assert (written["mean"], written["std"]) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])


def test_what_timm_cannot_make_is_one_clear_error() -> None:
    for name in ("nothing", "test_vit.of_nobody"):
        with pytest.raises(ValueError, match="timm cannot make this model") as caught:
            ImageEncoder(TimmConfig(name=name), image_size=64)
        assert "\n" not in str(caught.value)
    check_encoder(TimmConfig(name="test_vit"), image_size=48)
    with pytest.raises(ValueError, match="test_vit takes no images of 40 px"):
        check_encoder(TimmConfig(name="test_vit"), image_size=40)
    with pytest.raises(ValueError, match="weights need the name"):
        TimmConfig(weights="some.pth")


def test_drop_path_is_the_configs() -> None:
    def rates(**changes) -> set[float]:
        encoder = ImageEncoder(TimmConfig(name="swin_tiny_patch4_window7_224", window_size=2, **changes), image_size=64)
        return {round(module.drop_prob, 3) for module in encoder.modules() if isinstance(module, timm.layers.DropPath)}

    assert rates() == set() and max(rates(drop_path=0.2)) == 0.2
    assert ImageEncoder(TimmConfig(name="mobilenetv3_small_050"), image_size=64).width == 288


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_vit"])
def test_a_frozen_encoder_gives_the_same_tokens_and_keeps_its_weights(name: str) -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder(TimmConfig(name=name, weights="w"), image_size=64)
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 2)
    pixels = torch.randn(2, 3, 64, 64)
    expected, weights = encoder.eval()(pixels), encoder.state_dict()
    encoder.freeze()
    draws = torch.get_rng_state()
    tokens = encoder.train()(pixels)
    assert torch.equal(torch.get_rng_state(), draws), "or a resumed training would draw other numbers"
    assert not tokens.requires_grad
    torch.testing.assert_close(tokens, expected.detach(), atol=1e-4 * float(expected.abs().max()), rtol=0)
    assert encoder.state_dict().keys() == weights.keys()
    has_norms = any(isinstance(module, torch.nn.BatchNorm2d) for module in encoder.backbone.modules())
    running = encoder._running_backbone()
    assert has_norms == (running is not encoder.backbone)
    left = sum(isinstance(module, torch.nn.BatchNorm2d) for module in running.modules())
    assert left == (1 if name == "test_resnet" else 0), "its stem is a sequence of layers before a norm"
