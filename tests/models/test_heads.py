"""Contract: ML-Decoder and MKT are the formulas of their papers, learn, and are saved, loaded, traced and asked as the
recognition decoder is. Group queries score the labels of their training alone; the other heads score any label."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from ram_ray.inference.backends.backend import make_label_set
from ram_ray.inference.backends.registry import make_backend
from ram_ray.inference.predictor import Predictor
from ram_ray.interop.onnx_export import export_onnx
from ram_ray.label_system import Label, LabelSystem
from ram_ray.models.bundle import load_bundle, save_bundle
from ram_ray.models.label_match import LabelMatch
from ram_ray.models.losses import UNKNOWN, ranking_loss
from ram_ray.models.mkt import MKTHead
from ram_ray.models.ml_decoder import GroupLinear, MLDecoder
from ram_ray.models.ram import RAM
from ram_ray.models.relabel import relabel
from ram_ray.settings.models import MKTConfig, MLDecoderConfig
from ram_ray.settings.training import TagLossConfig
from tests.tiny import NAMES, batch, config, photo, tagger, tokenizer

GROUPS = MLDecoderConfig(width=16, heads=2, ffn=32, dropout=0.0, groups=4, layers=2)
HEADS: dict[str, dict] = {
    "groups": {"head": "ml_decoder", "ml_decoder": GROUPS},
    "learned": {"head": "ml_decoder", "ml_decoder": GROUPS.model_copy(update={"learned_queries": True})},
    "texts": {"head": "ml_decoder", "ml_decoder": GROUPS.model_copy(update={"text_queries": True})},
    "mkt": {"head": "mkt", "mkt": MKTConfig(top_k=5, hidden=7)},
    "mkt_distilled": {"head": "mkt", "mkt": MKTConfig(tune_labels=True), "label_width": 12},
}
OPEN = ("texts", "mkt", "mkt_distilled")
LABELS = LabelSystem(Label(number, name, "object") for number, name in enumerate(NAMES))


@pytest.fixture(params=list(HEADS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def make(kind: str, **changes) -> RAM:
    """A model with one of the heads, its weights as a training leaves them."""
    model = tagger(spread=2.0, **HEADS[kind], **changes)
    if isinstance(model.recognition, MKTHead) and model.recognition.label_map is not None:
        torch.nn.init.normal_(model.recognition.label_map.weight, std=0.2)
    return model


@pytest.mark.parametrize(("labels", "groups"), [(6, 4), (7, 3), (5, 100), (101, 100), (8, 1)])
def test_each_group_scores_its_own_labels(labels: int, groups: int) -> None:
    layer = GroupLinear(labels, groups, 8)
    torch.nn.init.normal_(layer.bias)
    size = -(-labels // min(groups, labels))
    assert layer.num_groups <= groups and (layer.num_groups - 1) * size < labels <= layer.num_groups * size
    x = torch.randn(3, layer.num_groups, 8)
    expected = torch.stack(
        [x[:, n // size] @ layer.weight[n // size, :, n % size] + layer.bias[n] for n in range(labels)], dim=1
    )
    torch.testing.assert_close(layer(x), expected)
    layer(x).square().sum().backward()
    assert layer.weight.grad is not None
    used = torch.arange(layer.num_groups * size).view(layer.num_groups, size) < labels
    assert (layer.weight.grad.abs().sum(1) > 0).equal(used), "a slot without a label has no gradient"


@torch.no_grad()
def test_group_queries_are_those_of_a_decoder_without_self_attention() -> None:
    """The same layers by plain attention, on the authors' order of steps; each group is computed once."""
    model = make("groups")
    head, tokens = model.recognition, model.encode(batch()["pixel_values"])
    assert isinstance(head, MLDecoder) and head.groups is not None and head.groups.num_groups == 3
    memory = F.relu(tokens @ head.context_proj.weight.T + head.context_proj.bias)
    x = F.layer_norm(2 * head.group_queries, (16,), eps=0.0).expand(3, -1, -1)
    for layer in head.layers:
        cross, ffn = layer.cross, layer.ffn
        q, k, v = (
            map_(side).unflatten(-1, (2, 8))
            for map_, side in ((cross.query, x), (cross.key, memory), (cross.value, memory))
        )
        weights = (torch.einsum("bkhd,blhd->bhkl", q, k) / 8**0.5).softmax(-1)
        seen = torch.einsum("bhkl,blhd->bkhd", weights, v).flatten(2)
        x = F.layer_norm(x + cross.out(seen), (16,), cross.norm.weight, cross.norm.bias, 1e-5)
        x = F.layer_norm(x + ffn.down(F.relu(ffn.up(x))), (16,), ffn.norm.weight, ffn.norm.bias, 1e-5)
    torch.testing.assert_close(model.logits(tokens), head.groups(x), atol=1e-4, rtol=1e-4)
    queries = model.queries(model.label_embed, tokens)
    torch.testing.assert_close(queries[:, 0], queries[:, 1])
    assert not torch.allclose(queries[:, 1], queries[:, 2])


@torch.no_grad()
def test_mkt_is_a_product_with_the_mean_and_the_best_positions() -> None:
    model = make("mkt")
    head, tokens = model.recognition, model.encode(batch()["pixel_values"])
    assert isinstance(head, MKTHead)
    unit = model.label_embed[2] / model.label_embed[2].norm()
    local = [
        float(unit @ (head.local_head.weight @ torch.tanh(head.local_hidden(token)) + head.local_head.bias))
        for token in tokens[1, 1:]
    ]
    best = sum(sorted(local)[-5:]) / 5
    expected = float(unit @ head.global_head(tokens[1, 0])) + best
    assert len(local) == 16 and float(model.logits(tokens)[1, 2]) == pytest.approx(expected, rel=1e-4)
    few = tokens[:, :4]  # fewer positions than are averaged
    assert head(model.queries(model.label_embed, few), few).isfinite().all()


def test_what_is_distilled_is_what_mkt_scores() -> None:
    model = make("mkt_distilled")
    assert isinstance(model.recognition, MKTHead) and isinstance(model.recognition.global_head, torch.nn.Identity)
    assert model.image_proj.out_features == model.recognition.width == batch()["teacher"].shape[1]
    fresh = tagger(**HEADS["mkt_distilled"])
    queries = fresh.recognition.queries(fresh.label_embed)[0]
    torch.testing.assert_close(queries, F.normalize(fresh.label_embed, dim=-1))  # the map starts as the identity


def test_every_weight_learns(kind: str) -> None:
    model = make(kind, captions=False).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    inputs = {name: value for name, value in batch().items() if name in ("pixel_values", "targets")}
    loss = TagLossConfig(kind="ranking") if kind.startswith("mkt") else TagLossConfig(gamma_neg=0, clip=0)
    losses = []
    for _ in range(40):
        value = model(inputs, tag_loss=loss)["tag"]
        value.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        assert all(parameter.grad.abs().sum() > 0 for parameter in model.recognition.parameters()) or losses
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(value))
    assert losses[-1] < 0.7 * losses[0]


def test_recompute_changes_no_gradient(kind: str) -> None:
    model = make(kind).train()
    gradients = []
    for recompute in (False, True):
        model.set_recompute(recompute)
        torch.manual_seed(1)
        model(batch())["tag"].backward()
        gradients.append([parameter.grad.clone() for parameter in model.recognition.parameters()])
        model.zero_grad()
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_backends(kind: str, backend: str) -> None:
    pytest.importorskip(backend, reason=f"the extra {backend} is not installed")
    if backend == "openvino" and kind in ("learned", "mkt_distilled"):
        return  # the same operations as of "groups" and "mkt"
    model, pixels = make(kind), batch()["pixel_values"]
    expected = model.logits(model.encode(pixels)).detach()
    own = make_label_set(model, model.label_embed)
    other = make_label_set(model, model.label_embed.flip(0)[:4]) if kind in OPEN else None
    running = make_backend(backend, model, precision="fp32", threads=1)
    tokens = running.encode(pixels)
    torch.testing.assert_close(running.logits(tokens, own), expected, atol=1e-4, rtol=1e-4)
    if other is not None:
        torch.testing.assert_close(running.logits(tokens, other), expected.flip(1)[:, :4], atol=1e-4, rtol=1e-4)


def save(kind: str, folder: Path) -> RAM:
    words = tokenizer()
    model = make(kind, vocab_size=len(words))
    save_bundle(folder, model, labels=LABELS, tokenizer=words, teacher=None)
    return model


def test_a_bundle_gives_the_same_scores(kind: str, tmp_path: Path) -> None:
    model = save(kind, tmp_path)
    loaded = load_bundle(str(tmp_path))
    tokens = model.encode(batch()["pixel_values"])
    torch.testing.assert_close(loaded.model.logits(tokens), model.logits(tokens))
    assert loaded.model.config == model.config
    predictor = Predictor.from_pretrained(str(tmp_path))
    image = photo()
    (attention,) = predictor.attention(image, [[4, 0]])
    assert attention.shape == (2, 4, 4) and attention.sum((1, 2)) == pytest.approx(1, abs=1e-5)
    expected = model.logits(model.encode(predictor.preprocess(image))).sigmoid()[0].detach().numpy()
    assert predictor.probabilities(image)[0] == pytest.approx(expected, abs=1e-5)
    pixels, embeddings = predictor.preprocess(image), torch.randn(3, model.config.label_width)
    if kind in OPEN:
        assert predictor.logits(pixels, embeddings=embeddings).shape == (1, 3)
    else:
        with pytest.raises(ValueError, match="group queries answers for its own tags alone; use a model with"):
            predictor.logits(pixels, embeddings=embeddings)
        with pytest.raises(ValueError, match="answers for its own tags alone"):
            predictor.tag(image, tags=["cat"])


@pytest.mark.parametrize("kind", ["groups", pytest.param("mkt", marks=pytest.mark.slow)], indirect=True)
def test_onnx(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    save(kind, tmp_path / "bundle")
    export_onnx(str(tmp_path / "bundle"), str(tmp_path / "tagger.onnx"))  # it compares with the bundle itself


def test_group_queries_keep_their_labels() -> None:
    model = make("groups")
    same = LabelMatch(tuple(range(len(NAMES))), frozenset(), ())
    before = model.recognition.state_dict()
    relabel(model, same, None)
    assert all(value.equal(model.recognition.state_dict()[name]) for name, value in before.items())
    with pytest.raises(ValueError, match="labels.system to the label_system.json of its bundle"):
        relabel(model, LabelMatch((1, 0, 2, 3, 4, 5), frozenset(), ()), None)
    with pytest.raises(ValueError, match="scores the 6 labels of its training, not 5"):
        model.recognition.queries(model.label_embed[:5])


def test_the_ranking_loss_is_the_mean_over_violated_pairs() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 7), torch.randint(0, 2, (5, 7))
    targets[0, 3] = targets[1, :2] = UNKNOWN
    targets[2], targets[3] = 0, 1
    weight = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
    total = 0.0
    for row in (0, 1):
        pairs = [
            0.5 + float(logits[row, n]) - float(logits[row, p])
            for p in range(7)
            for n in range(7)
            if targets[row, p] == 1 and targets[row, n] == 0
        ]
        violated = [value for value in pairs if value > 0]
        assert violated and len(violated) < len(pairs)
        total += sum(violated) / len(violated)
    assert float(ranking_loss(logits, targets, margin=0.5, weight=weight)) == pytest.approx(total, rel=1e-5)
    leaf = logits.clone().requires_grad_()
    ranking_loss(leaf, targets, weight=weight).backward()
    assert (leaf.grad[targets == 1] <= 0).all() and (leaf.grad[targets == UNKNOWN] == 0).all()
    assert leaf.grad[0].abs().sum() > 0 and not leaf.grad[2:].any(), "no pair, or no weight"


def test_settings_that_contradict_a_head_are_refused() -> None:
    with pytest.raises(ValidationError, match="head mkt is for architecture ram; tag2text has a decoder of its own"):
        config(head="mkt", architecture="tag2text", label_width=16)
    with pytest.raises(ValidationError, match="width 16 is not a multiple of heads 3"):
        MLDecoderConfig(width=16, heads=3)
    with pytest.raises(ValidationError, match="layers"):
        MLDecoderConfig(layers=0)
    blind = config().recognition.model_copy(update={"layers": 0})
    assert config(head="mkt", recognition=blind).scores_any_label
    assert not config(**HEADS["groups"]).scores_any_label
