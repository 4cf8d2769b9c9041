"""Contract: scores from pooled tokens add to the decoder's or stand alone, for any labels, in every way to run them."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from ram_ray.inference.backends.backend import make_label_set
from ram_ray.inference.backends.registry import make_backend
from ram_ray.models.losses import asymmetric_loss
from ram_ray.models.ram import RAM
from ram_ray.settings.models import PooledConfig
from ram_ray.settings.training import TagLossConfig
from tests.tiny import STACK, batch, config, tagger

POOLED = PooledConfig(width=8, dropout=0.5)
ALONE = STACK.model_copy(update={"layers": 0})


@pytest.fixture(params=[(2, 12), (0, 12), (0, None)], ids=["with_layers", "alone", "not_projected"])
def model(request: pytest.FixtureRequest) -> RAM:
    layers, image_proj = request.param
    sizes = {"recognition": STACK.model_copy(update={"layers": layers}), "image_proj": image_proj}
    made = tagger(spread=12.0, pooled=POOLED, **sizes)
    assert made.recognition.pooled is not None and not made.recognition.pooled.query.weight.any()
    torch.nn.init.normal_(made.recognition.pooled.query.weight)  # as a training leaves it, not at zero
    return made


@torch.no_grad()
def test_a_score_is_the_product_of_the_query_with_the_hidden_layer(model: RAM) -> None:
    tokens = model.encode(batch()["pixel_values"])
    queries = model.queries(model.label_embed, tokens)
    pooled = model.recognition.pooled
    assert pooled is not None
    scores = pooled(queries, tokens)
    parts = tokens[0, 0], tokens[0, 1:].max(0).values
    features = torch.cat([(part - part.mean()) / (part.var(correction=0) + 1e-5).sqrt() for part in parts])
    hidden = (pooled.hidden.weight @ features + pooled.hidden.bias).clamp(min=0)
    expected = float(pooled.query(queries[0, 1] / queries[0, 1].norm()) @ hidden)
    assert float(scores[0, 1]) == pytest.approx(expected, rel=1e-4) and scores.std() > 0.01
    model.recognition.pooled = None
    rest = model.logits(tokens)
    model.recognition.pooled = pooled
    torch.testing.assert_close(model.logits(tokens), rest + scores)


def test_without_layers_the_queries_of_the_labels_are_white() -> None:
    made = tagger(pooled=POOLED, recognition=ALONE, init_std=None)
    queries = made.recognition.queries(made.label_embed)[0].detach()
    used = queries.abs().sum(0) > 0
    white = queries[:, used]
    assert used.any() and (queries < 0).any()
    torch.testing.assert_close(white.T @ white / len(white) * used.sum(), torch.eye(white.shape[1]), atol=1e-3, rtol=0)


def test_other_labels_and_captions(model: RAM) -> None:
    tokens = model.encode(batch()["pixel_values"])
    logits = model.logits(tokens)
    torch.testing.assert_close(model.logits(tokens, model.label_embed.flip(0)[:2]), logits.flip(1)[:, :2])
    ids = model.generate(tokens, batch()["tag_ids"], torch.tensor([1, 2, 3]), end=4, max_tokens=4)
    assert ids.shape[0] == 3


@pytest.mark.parametrize(
    ("model", "backend"),
    [
        *[((2, 12), "torch"), ((0, None), "torch"), ((2, 12), "openvino")],
        pytest.param((0, None), "openvino", marks=pytest.mark.slow),
    ],
    indirect=["model"],
)
def test_backends(model: RAM, backend: str) -> None:
    pytest.importorskip(backend, reason=f"the extra {backend} is not installed")
    pixels = batch()["pixel_values"]
    expected = model.logits(model.encode(pixels)).detach()
    labels = make_label_set(model, model.label_embed)
    running = make_backend(backend, model, precision="fp32", threads=1)
    torch.testing.assert_close(running.logits(running.encode(pixels), labels), expected, atol=1e-4, rtol=0)


def test_it_learns_and_every_weight_has_a_gradient() -> None:
    model = tagger(pooled=POOLED, recognition=ALONE).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    plain = TagLossConfig(gamma_neg=0, clip=0)
    losses = []
    for _ in range(30):
        loss = model(batch(), tag_loss=plain)
        (loss["tag"] + loss["text"]).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss["tag"]))
    assert losses[-1] < 0.7 * losses[0]


def test_three_zeros_are_cross_entropy() -> None:
    model, inputs = tagger(pooled=POOLED), batch()
    loss = model(inputs, tag_loss=TagLossConfig(gamma_neg=0, gamma_pos=0, clip=0))["tag"]
    logits = model.logits(model.encode(inputs["pixel_values"]))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, inputs["targets"].float(), reduction="sum")
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(model(inputs)["tag"], asymmetric_loss(logits, inputs["targets"]))


def test_a_model_that_cannot_see_is_refused() -> None:
    with pytest.raises(ValidationError, match="set pooled.width, or one layer"):
        config(recognition=ALONE)
    with pytest.raises(ValueError, match="no attention to image tokens"):
        alone = tagger(pooled=POOLED, recognition=ALONE)
        alone.recognition.attention(alone.recognition.queries(alone.label_embed), torch.zeros(1, 17, 12))
