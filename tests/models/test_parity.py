"""Contract: with a released checkpoint's weights every array equals the reference's: inside the Swin, in the decoders,
logits, losses, gradients, three steps of AdamW, and captions token by token, alone and in a batch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ram_ray.interop.checkpoint import rename
from ram_ray.models.losses import combine
from tests.models.parity import MODELS, Reference, caption_tokens

LOSSES = {"text": "t2t", "tag": "tag", "distill": "dis", "alignment": "alignment"}


@pytest.fixture(scope="module", params=MODELS)
def reference(request: pytest.FixtureRequest, shared: Path) -> Reference:
    return Reference(shared / "fixtures" / request.param)


@pytest.fixture(scope="module")
def ram(shared: Path) -> Reference:
    return Reference(shared / "fixtures" / "tiny-ram")


@pytest.fixture(scope="module")
def plus(shared: Path) -> Reference:
    return Reference(shared / "fixtures" / "tiny-ram-plus")


@pytest.fixture(scope="module")
def tag2text(shared: Path) -> Reference:
    return Reference(shared / "fixtures" / "tiny-tag2text")


@pytest.fixture(params=["ram", "tag2text"])
def captioner(request: pytest.FixtureRequest) -> Reference:
    return request.getfixturevalue(request.param)


def _record_output(module: torch.nn.Module, outputs: dict[str, torch.Tensor], name: str) -> None:
    module.register_forward_hook(lambda _, __, output: outputs.__setitem__(name, output))


def test_image_tokens_and_logits(reference: Reference) -> None:
    reference.check("image_embeds", reference.tokens)
    with torch.no_grad():
        logits = reference.model.logits(reference.tokens)
    reference.check("logits", logits)
    reference.check("sigmoid", logits.sigmoid())


def test_inside_the_swin(ram: Reference) -> None:
    model, outputs = ram.load(), {}
    swin = model.image_encoder.backbone
    _record_output(swin.patch_embed, outputs, "swin.patch_embed")
    _record_output(swin.layers[0].blocks[1], outputs, "swin.layers.0.blocks.1")
    for stage in (1, 2, 3):
        _record_output(swin.layers[stage].downsample, outputs, f"swin.layers.{stage - 1}.after_downsample")
    with torch.no_grad():
        ram.check("swin_tokens", model.image_encoder(ram.input("images")))
    for name, value in outputs.items():
        ram.check(name, value.flatten(1, 2))
    assert len(outputs) == 5


def test_inside_the_recognition_decoder(ram: Reference) -> None:
    model, outputs = ram.load(), {}
    for index, layer in enumerate(model.recognition.layers):
        _record_output(layer.cross, outputs, f"tagging_head.layer{index}.crossattention")
        _record_output(layer, outputs, f"tagging_head.layer{index}.out")
    with torch.no_grad():
        queries = model.recognition.queries(model.label_embed)
        model.recognition(queries, ram.tokens)
    ram.check("label_embed_proj", queries[0])
    assert len(outputs) == 4
    for name, value in outputs.items():
        ram.check(name, value)


def test_inside_tag2texts_recognition_decoder(tag2text: Reference) -> None:
    model, outputs = tag2text.load(), {}
    _record_output(model.recognition.layers[-1], outputs, "last")
    with torch.no_grad():
        model.logits(tag2text.tokens)
    tag2text.check("tagging_embed_first64", outputs["last"][:, :64])


def test_inside_ram_plus(plus: Reference) -> None:
    model, outputs = plus.load(), {}
    for index, layer in enumerate(model.recognition.layers):
        _record_output(layer, outputs, f"tagging_head.layer{index}.out")
    with torch.no_grad():
        plus.check("swin_tokens", model.image_encoder(plus.input("images")))
        image = plus.tokens[:, 0]
        reweighted = model.reweigh(model.label_embed, image)
        scores = (
            model.reweight_scale.exp() * image / image.norm(dim=-1, keepdim=True) @ model.label_embed.flatten(0, 1).T
        )
        scores = scores.view(2, -1, model.config.descriptions)
        plus.check("reweight_logits", scores)
        plus.check("reweight_weights", scores.softmax(-1))
        plus.check("label_embed_reweight", reweighted)
        plus.check("label_embed_proj", model.recognition.queries(reweighted))
        model.logits(plus.tokens)
        assert len(outputs) == 2
        for name, value in outputs.items():
            plus.check(name, value)
        plus.check("alignment_logits", model.alignment_logits(plus.tokens, plus.input("batch_text_embed")))


@torch.no_grad()
def test_logits_of_other_tags(ram: Reference, plus: Reference) -> None:
    noise = ram.config["float32_vs_float64_max_abs"]["logits"]
    ram.check("openset_logits", ram.model.logits(ram.tokens, ram.input("openset_label_embed")), noise=noise)
    embed = plus.input("openset_label_embed").view(int(plus.inputs["openset_num_class"]), -1, 512)
    noise = plus.config["float32_vs_float64_max_abs"]["logits"]
    plus.check("openset_logits", plus.model.logits(plus.tokens, embed), noise=noise)


def test_token_ids(captioner: Reference) -> None:
    expected, tags, ids = captioner.expected, captioner.tag_ids().numpy(), captioner.caption_ids().numpy()
    np.testing.assert_array_equal(tags, expected["tag_input_ids"])
    np.testing.assert_array_equal(tags != 0, expected["tag_attention_mask"])
    np.testing.assert_array_equal(ids, expected["decoder_input_ids"])
    np.testing.assert_array_equal(ids != 0, expected["decoder_attention_mask"])
    targets = np.where(ids == 0, -100, ids)
    targets[:, : len(captioner.prompt())] = -100
    np.testing.assert_array_equal(targets, expected["decoder_targets"])
    assert captioner.tokenizer.dec == captioner.config["special_token_ids"]["dec_bos"]
    assert len(captioner.prompt()) == captioner.config["prompt_length"]


@torch.no_grad()
def test_tag_encoder_and_caption_logits(captioner: Reference) -> None:
    context = captioner.model.tag_encoder(captioner.tag_ids(), captioner.tokens)
    captioner.check("tag_encoder_out", context, noise=2e-6)
    logits = captioner.model.caption_decoder(captioner.caption_ids(), context, None)
    captioner.check("caption_logits", logits, noise=1e-6)


@torch.no_grad()
def test_tag_encoder_of_the_models_own_tags(tag2text: Reference) -> None:
    context = tag2text.model.tag_encoder(
        tag2text.tag_ids(tag2text.expected["generate.beam3.tags"].tolist()), tag2text.tokens
    )
    tag2text.check("generate.beam3.tag_encoder_out", context.repeat_interleave(3, dim=0), noise=2e-6)


GENERATED = {
    "beam1": {"num_beams": 1},
    "beam3": {},
    "beam3_rp1.1": {"repetition_penalty": 1.1},
    "beam3_len50": {"max_length": 50},
    "beam3_usertags": {},
    "beam5_min3": {"num_beams": 5, "min_length": 3, "max_length": 20},
}
DEFAULTS = {"num_beams": 3, "max_length": 30, "min_length": 10}


@pytest.mark.parametrize("name", ["beam1", "beam3", "beam3_rp1.1"])
def test_captions_of_ram_token_by_token(name: str, ram: Reference) -> None:
    generated = ram.captions(None, **{**DEFAULTS, **GENERATED[name]})
    assert caption_tokens(generated, start=0, end=102) == caption_tokens(
        ram.expected[f"generate_ids_{name}"], start=4, end=102
    )


@pytest.mark.parametrize("name", GENERATED)
def test_captions_of_tag2text_token_by_token(name: str, tag2text: Reference) -> None:
    tags = tag2text.expected[f"generate.{name}.tags"].tolist()
    if name == "beam3_usertags":
        assert tags == tag2text.inputs["user_tag_input"].tolist()
    generated = tag2text.captions(tags, **{**DEFAULTS, **GENERATED[name]})
    expected = caption_tokens(tag2text.expected[f"generate.{name}.ids"], start=4, end=102)
    assert caption_tokens(generated, start=0, end=102) == expected
    texts = [tag2text.tokenizer.decode_caption(row, prompt="a picture of ") for row in expected]
    assert texts == tag2text.expected[f"generate.{name}.captions"].tolist()


@pytest.mark.parametrize("row", [0, 1])
def test_a_single_image_gets_the_same_caption(row: int, tag2text: Reference) -> None:
    tags = tag2text.expected["generate.beam3.tags"].tolist()[row : row + 1]
    generated = tag2text.captions(tags, tokens=tag2text.tokens[row : row + 1], **DEFAULTS)
    expected = caption_tokens(tag2text.expected[f"generate.single{row}.ids"], start=4, end=102)
    assert caption_tokens(generated, start=0, end=102) == expected
    assert expected == caption_tokens(tag2text.expected["generate.beam3.ids"][row : row + 1], start=4, end=102)


def test_losses_and_gradients(reference: Reference) -> None:
    model, expected = reference.load(), reference.expected
    model.requires_grad_(True)
    losses = model(reference.batch())
    for ours, theirs in LOSSES.items():
        assert (ours in losses) == (f"loss_{theirs}_eval" in expected)
        if ours in losses:
            assert losses[ours].item() == pytest.approx(float(expected[f"loss_{theirs}_eval"]), rel=1e-5)
            assert losses[ours].item() == pytest.approx(float(expected[f"loss_{theirs}_train_nodrop"]), rel=1e-5)
    if "text" in losses:
        assert losses["text"].item() == pytest.approx(float(expected["loss_t2t_stepwise"]), rel=1e-5)
    total = combine(losses)
    assert total.item() == pytest.approx(float(expected["total_train_nodrop"]), rel=1e-5)
    total.backward()
    ours = dict(model.named_parameters(remove_duplicate=False))
    for name, norm in json.loads((reference.folder / "grad_norms.json").read_text()).items():
        own_name = rename(name)
        assert own_name is not None, name
        if own_name == "label_embed" and own_name not in ours:
            continue  # frozen
        gradient = ours[own_name].grad
        assert (gradient is None) == (norm is None), name
        if gradient is not None:
            assert gradient.norm().item() == pytest.approx(norm, rel=2e-4, abs=1e-6), name
    for name in expected:
        if name.startswith("grad."):
            gradient = ours[rename(name.removeprefix("grad.")) or ""].grad
            assert gradient is not None, name
            scale = float(np.abs(expected[name]).max())
            np.testing.assert_allclose(gradient.numpy(), expected[name], atol=1e-4 * scale, rtol=0, err_msg=name)


def test_three_steps_of_adamw(reference: Reference) -> None:
    model, settings = reference.load(), reference.config["adamw"]
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings["lr"], weight_decay=settings["weight_decay"])
    columns = {theirs: ours for ours, theirs in LOSSES.items()}
    for expected in reference.expected["adamw_steps"]:
        losses = model(reference.batch())
        losses["total"] = combine(losses)
        names = [columns.get(column.removeprefix("loss_"), column) for column in settings["columns"]]
        np.testing.assert_allclose([losses[name].item() for name in names], expected, rtol=2e-4)
        optimizer.zero_grad()
        losses["total"].backward()
        optimizer.step()


def test_every_array_has_a_test(shared: Path) -> None:
    """Every array of the fixtures is named in a test; a new array needs a test."""
    text = "".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
    known = {f"generate.{name}.{part}" for name in GENERATED for part in ("ids", "captions", "tags")}
    known |= {f"generate_ids_{name}" for name in GENERATED} | {"generate.single0.ids", "generate.single1.ids"}
    known |= {f"loss_{loss}_{mode}" for loss in LOSSES.values() for mode in ("eval", "train_nodrop")}
    known |= {f"tagging_head.layer{i}.{part}" for i in (0, 1) for part in ("crossattention", "out")}
    known |= {f"swin.layers.{i}.after_downsample" for i in (0, 1, 2)}
    for model in MODELS:
        names = np.load(shared / "fixtures" / model / "expected.npz").files
        untested = [
            name for name in names if name not in known and not name.startswith("grad.") and f'"{name}"' not in text
        ]
        assert not untested, model
