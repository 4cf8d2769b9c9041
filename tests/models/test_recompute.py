"""Contract: with recompute fewer tensors are kept for the backward pass, and every gradient is the same, with dropout,
drop path and bf16."""

from __future__ import annotations

import pytest
import torch

from ram_ray.models.image_encoder import ImageEncoder
from ram_ray.models.ram import RAM
from ram_ray.settings.models import SwinConfig, TimmConfig
from tests.bench.memory import count_saved
from tests.tiny import STACK, SWIN, batch, tagger

DROPS = {
    "swin": SWIN.model_copy(update={"drop_path": 0.5}),
    "recognition": STACK.model_copy(update={"dropout": 0.3}),
    "tag_encoder": STACK.model_copy(update={"dropout": 0.3, "layers": 3}),
    "caption_decoder": STACK.model_copy(update={"dropout": 0.3}),
}


def _step(model: RAM, *, precision: torch.dtype) -> tuple[int, dict[str, torch.Tensor]]:
    """Bytes that a forward pass keeps, and the gradients."""
    inputs = batch()
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16), count_saved(model) as saved:
        losses = model(inputs)
        kept = saved.num_bytes
    sum(losses.values()).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return kept, gradients


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("encoder", [TimmConfig(), TimmConfig(name="test_vit", drop_path=0.5)])
def test_gradients_are_the_same_and_less_is_kept(precision: torch.dtype, encoder: TimmConfig) -> None:
    model = tagger(**DROPS, image_encoder=encoder).train()
    kept, expected = _step(model, precision=precision)
    model.set_recompute(True)
    kept_less, gradients = _step(model, precision=precision)
    assert set(gradients) == set(expected)
    for name, gradient in expected.items():
        assert torch.equal(gradients[name], gradient), name
    assert kept_less < 0.6 * kept
    model.set_recompute(False)
    assert _step(model, precision=precision)[0] == kept


def test_each_part_keeps_less() -> None:
    model = tagger(**DROPS).train()
    parts = [model.image_encoder, model.recognition, model.tag_encoder, model.caption_decoder]
    kept = [_step(model, precision=torch.float32)[0]]
    for part in parts:
        if isinstance(part, ImageEncoder):
            part.set_recompute(True)
        else:
            part.recompute = True
        kept.append(_step(model, precision=torch.float32)[0])
    assert kept == sorted(kept, reverse=True) and len(set(kept)) == len(kept)


def test_an_encoder_whose_batch_norms_count_images_is_not_computed_again() -> None:
    """A second pass would count the images twice."""
    images = torch.randn(2, 3, 64, 64)
    states = []
    for enabled in (False, True):
        torch.manual_seed(0)
        encoder = ImageEncoder(TimmConfig(name="test_resnet"), image_size=64)
        encoder.set_recompute(enabled)
        encoder(images).sum().backward()
        states.append({name: value.clone() for name, value in encoder.state_dict().items() if "running" in name})
    for name, value in states[0].items():
        assert torch.equal(states[1][name], value), name


def test_the_convolution_stem_is_never_computed_again() -> None:
    swin = SwinConfig(**{**SWIN.model_dump(), "stem": "convolutions"})
    model = tagger(swin=swin).train()
    model.set_recompute(True)
    model(batch())["tag"].backward()
    counts = [value for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")]
    assert counts and all(int(count) == 1 for count in counts)


def test_without_gradients_recompute_changes_nothing() -> None:
    model = tagger()
    with torch.no_grad():
        expected = model(batch())
        model.set_recompute(True)
        assert all(torch.equal(loss, expected[name]) for name, loss in model(batch()).items())
