"""Contract: a stage starts from another model's weights, at another window and with a larger label system."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import pytest
import timm
import torch

from ram_ray.data.images import Limits
from ram_ray.label_system import Label, LabelSystem
from ram_ray.models.bundle import load_bundle, save_bundle
from ram_ray.models.dual_encoder import DualEncoder
from ram_ray.models.label_match import MATCH_FILE
from ram_ray.models.teacher import Teacher
from ram_ray.runtime.input_file import InputFile
from ram_ray.settings.models import DualEncoderConfig, ModelConfig, TimmConfig
from ram_ray.settings.training import AugmentConfig, TrainConfig, TrainingConfig
from ram_ray.training.build import TaggerJob, freeze_captioner, load_weights
from ram_ray.training.feed import TaggerFeed
from ram_ray.training.order import Table
from ram_ray.training.text_column import write_texts
from tests.models.test_towers import write_bert
from tests.tiny import NAMES, STACK, SWIN, batch, config, tagger, tokenizer


def _backbone(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if name.startswith("image_encoder.")}


def test_all_weights_but_the_label_embeddings_are_taken_over() -> None:
    first, second = tagger(seed=1), tagger(seed=2)
    own = second.label_embed.clone()
    load_weights(second, first.state_dict())
    for name, value in first.state_dict().items():
        if name != "label_embed":
            assert torch.equal(value, second.state_dict()[name]), name
    assert torch.equal(second.label_embed, own) and not torch.equal(own, first.label_embed)
    assert second.tag_encoder.layers[0].cross is second.recognition.layers[0].cross


def test_a_larger_label_system_gives_more_logits_of_the_same_model() -> None:
    first, second = tagger(seed=1), tagger(seed=2)
    second.label_embed = torch.cat([first.label_embed, torch.randn(3, 10)])
    load_weights(second, first.state_dict())
    tokens = first.encode(torch.randn(2, 3, 32, 32))
    assert second.logits(tokens).shape == (2, 9)
    torch.testing.assert_close(second.logits(tokens)[:, :6], first.logits(tokens))


@pytest.mark.parametrize("sizes", [{}, {"architecture": "tag2text", "label_width": 16}], ids=["ram", "tag2text"])
def test_without_captions_every_trainable_weight_gets_a_gradient(sizes: dict) -> None:
    model = tagger(**sizes)
    freeze_captioner(model)
    inputs = {name: value for name, value in batch().items() if name in ("pixel_values", "targets")}
    sum(model.train()(inputs).values()).backward()
    parameters = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    trained = {name: weight.grad is not None for name, weight in parameters.items()}
    assert all(trained.values()), [name for name, has_gradient in trained.items() if not has_gradient]
    assert any(name.startswith("recognition.layers.0.cross") for name in trained), "shared weights are trained"
    assert not any(name.startswith("caption_decoder") for name in trained)


def test_learnt_queries_are_taken_over_as_weights_are() -> None:
    sizes = {"architecture": "tag2text", "label_width": 16}
    first, second, third = (tagger(seed=seed, **sizes) for seed in (1, 2, 3))
    load_weights(second, first.state_dict())
    assert torch.equal(second.label_embed, first.label_embed)
    own = third.label_embed.clone()
    load_weights(third, _backbone(first))
    assert torch.equal(third.label_embed, own) and not torch.equal(own, first.label_embed)


@pytest.mark.parametrize(("window", "size"), [(2, 32), (8, 64), (4, 48)])
def test_position_biases_are_resized_to_another_window(window: int, size: int) -> None:
    first = tagger(seed=1)
    with torch.no_grad():
        for name, parameter in first.named_parameters():
            if "relative_position_bias_table" in name:
                parameter.normal_()
    second = tagger(seed=2, image_size=size, swin=SWIN.model_copy(update={"window_size": window}))
    load_weights(second, first.state_dict())
    old = first.image_encoder.backbone.layers[0].blocks[0].attn
    new = second.image_encoder.backbone.layers[0].blocks[0].attn
    assert torch.equal(new.qkv.weight, old.qkv.weight)
    assert new.relative_position_bias_table.shape == ((2 * window - 1) ** 2, 1)
    tables = (old.relative_position_bias_table, new.relative_position_bias_table)
    middle_old, middle_new = (table[len(table) // 2] for table in tables)
    torch.testing.assert_close(middle_new, middle_old, atol=0.02, rtol=0.02)
    assert new.relative_position_bias_table.std() > 0.1
    assert second.encode(torch.randn(1, 3, size, size)).isfinite().all()


def test_a_backbone_alone_does_not_change_other_weights() -> None:
    first, second, untouched = tagger(seed=1), tagger(seed=2), tagger(seed=2)
    load_weights(second, _backbone(first))
    for name, value in second.state_dict().items():
        source = first if name.startswith("image_encoder.") else untouched
        assert torch.equal(value, source.state_dict()[name]), name


def test_weights_of_another_model_are_a_clear_error() -> None:
    model, state = tagger(), tagger().state_dict()
    with pytest.raises(ValueError, match="the model to start from differs: missing .*image_proj"):
        load_weights(model, {name: value for name, value in state.items() if not name.startswith("image_proj")})
    with pytest.raises(ValueError, match="differs: .*unknown .*other"):
        load_weights(model, {**state, "other.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="the model to start from differs"):
        load_weights(model, {**state, "image_proj.weight": torch.zeros(3, 3)})
    with pytest.raises(ValueError, match="the model to start from differs"):
        load_weights(model, {name: value for name, value in state.items() if "layers.1.blocks.0.mlp" not in name})


def _job(folder: Path, model: ModelConfig, *, start: str, bundle: str | None = None, **train) -> TaggerJob:
    """A training of `model` with labels.json and teacher/ in the folder."""
    settings = TrainConfig(**{"image_size": 32, "window_size": 4, "augment": AugmentConfig(), **train, "start": start})
    return TaggerJob(
        stage="pretrain",
        config=settings,
        training=TrainingConfig(),
        model=model,
        feed=TaggerFeed(Table("", ()), settings, 0, Limits(8, 10**6, 10**6), f"{folder}/teacher"),
        total_steps=1,
        steps_per_epoch=1,
        label_system=f"{folder}/labels.json",
        teacher=f"{folder}/teacher",
        start=bundle,
    )


def test_a_named_encoder_starts_from_its_weights_with_its_normalisation_and_a_bundle_needs_neither(
    tmp_path: Path,
) -> None:
    words, labels = tokenizer(), LabelSystem([Label(id, name, "object") for id, name in enumerate(NAMES)])
    labels.save(f"{tmp_path}/labels.json")
    sizes = {"image_size": 32, "swin": SWIN, "text": STACK, "embed_dim": 12, "vocab_size": len(words)}
    (tmp_path / "teacher").mkdir()
    DualEncoder(DualEncoderConfig(**sizes)).save(tmp_path / "teacher", words)
    weights = timm.create_model("test_vit3").state_dict()
    torch.save(weights, tmp_path / "encoder.pth")
    model = config(image_encoder=TimmConfig(name="test_vit3", weights=f"{tmp_path}/encoder.pth"))

    job = _job(tmp_path, model, start="scratch", image_size=160, backbone_lr=1e-5)
    step = job.build(torch.device("cpu"))
    backbone = step.model.image_encoder.backbone
    assert torch.equal(backbone.norm.weight, weights["norm.weight"])
    assert torch.equal(backbone.blocks[1].mlp.fc1.weight, weights["blocks.1.mlp.fc1.weight"])
    assert not any(weight.requires_grad for weight in backbone.attn_pool.parameters()), "no token depends on them"
    assert backbone.norm.weight.requires_grad
    assert step.model.config.mean == (0.5, 0.5, 0.5) != model.mean

    job.save(step, f"{tmp_path}/bundle")
    (tmp_path / "encoder.pth").unlink()
    loaded = load_bundle(f"{tmp_path}/bundle").model
    assert torch.equal(loaded.image_encoder.backbone.norm.weight, weights["norm.weight"])
    assert loaded.config.mean == (0.5, 0.5, 0.5) and loaded.config.image_size == 160
    frozen = _job(tmp_path, model, start="previous", bundle=f"{tmp_path}/bundle", image_size=96, backbone_lr=0)
    encoder = frozen.build(torch.device("cpu")).model.image_encoder
    assert encoder.backbone.pos_embed.shape[1] == 37 and not any(p.requires_grad for p in encoder.parameters())
    with pytest.raises(ValueError, match="encoder.pth: no such file"):
        _job(tmp_path, model, start="scratch").build(torch.device("cpu"))


def test_without_a_dual_encoder_nothing_is_distilled_and_the_text_encoder_embeds_the_labels(tmp_path: Path) -> None:
    pooling = {"pooling_mode_mean_tokens": True}
    write_bert(tmp_path / "teacher", pooling=pooling)
    words, labels = tokenizer(), LabelSystem([Label(id, name, "object") for id, name in enumerate(NAMES)])
    labels.save(f"{tmp_path}/labels.json")
    words.save(tmp_path)
    job = _job(tmp_path, config(image_proj=20), start="represent")
    assert job.config.distill_loss
    job = dataclasses.replace(job, feed=dataclasses.replace(job.feed, tokenizer=str(tmp_path)))
    step = job.build(torch.device("cpu"))
    assert step._teacher == [None] and step.model.image_proj.out_features == 20
    teacher = Teacher.from_pretrained(f"{tmp_path}/teacher")
    expected = teacher.label_embeddings(list(NAMES), list(step.model.config.templates))
    torch.testing.assert_close(step.model.label_embed, expected)
    job.save(step, f"{tmp_path}/bundle")
    torch.testing.assert_close(
        torch.from_numpy(load_bundle(f"{tmp_path}/bundle").teacher().encode_texts(["a red dog"])),
        torch.from_numpy(teacher.encode_texts(["a red dog"])),
    )


def test_first_weights_come_from_represent_or_a_bundle_or_are_new_as_the_stage_says(tmp_path: Path) -> None:
    words, labels = tokenizer(), LabelSystem([Label(id, name, "object") for id, name in enumerate(NAMES)])
    labels.save(f"{tmp_path}/labels.json")
    sizes = {"image_size": 32, "swin": SWIN, "text": STACK, "embed_dim": 12, "vocab_size": len(words)}
    encoder = DualEncoder(DualEncoderConfig(**sizes))
    (tmp_path / "teacher").mkdir()
    encoder.save(tmp_path / "teacher", words)
    trained = tagger(seed=5, label_width=12, vocab_size=len(words))
    teacher = Teacher.from_pretrained(str(tmp_path / "teacher"))
    save_bundle(f"{tmp_path}/bundle", trained, labels=labels, tokenizer=words, teacher=teacher, card={})

    def first_weights(start: str, bundle: str | None = None) -> torch.Tensor:
        job = _job(tmp_path, config(), start=start, bundle=bundle)
        return job.build(torch.device("cpu")).model.image_encoder.backbone.layers[0].blocks[0].attn.qkv.weight

    backbone, bundled = (
        source.image_encoder.backbone.layers[0].blocks[0].attn.qkv.weight for source in (encoder, trained)
    )
    assert torch.equal(first_weights("represent"), backbone)
    assert torch.equal(first_weights("previous", f"{tmp_path}/bundle"), bundled)
    new = first_weights("scratch")
    assert not torch.equal(new, backbone) and not torch.equal(new, bundled)


def _bundle_folder(tmp_path: Path, **sizes) -> tuple[str, LabelSystem]:
    """A teacher, labels.json and a bundle of another shape than `config()` that descends from a given one."""
    words, labels = tokenizer(), LabelSystem([Label(id, name, "object") for id, name in enumerate(NAMES)])
    labels.save(f"{tmp_path}/labels.json")
    (tmp_path / "teacher").mkdir()
    dual = {"image_size": 32, "swin": SWIN, "text": STACK, "embed_dim": 12, "vocab_size": len(words)}
    DualEncoder(DualEncoderConfig(**dual)).save(tmp_path / "teacher", words)
    made = tagger(seed=5, vocab_size=len(words), mean=(0.1, 0.2, 0.3), **sizes)
    save_bundle(f"{tmp_path}/bundle", made, labels=labels, tokenizer=words, teacher=None)
    (tmp_path / "bundle" / MATCH_FILE).write_text('{"kept_ids": [1, 4]}')
    return f"{tmp_path}/bundle", labels


def test_a_training_from_a_bundle_has_its_shape_and_label_embeddings(tmp_path: Path) -> None:
    bundle, _ = _bundle_folder(tmp_path, recognition=STACK.model_copy(update={"heads": 4}), label_width=14)
    first = load_bundle(bundle).model
    job = _job(tmp_path, config(image_proj=99), start="./bundle", bundle=bundle, image_size=64, window_size=8)
    step = job.build(torch.device("cpu"))
    assert step.model.config.recognition.heads == 4 and step.model.config.mean == (0.1, 0.2, 0.3)
    assert step.model.config.image_size == 64 and step.model.config.swin.window_size == 8
    assert torch.equal(step.model.label_embed, first.label_embed)
    assert torch.equal(step.model.image_proj.weight, first.image_proj.weight)
    job.save(step, f"{tmp_path}/trained")
    trained = load_bundle(f"{tmp_path}/trained")
    assert not trained.has_text_encoder, "the run's encoder did not make the embeddings"
    assert (tmp_path / "trained" / MATCH_FILE).is_file(), "the next training knows the old labels too"


def test_old_labels_are_kept_by_the_model_that_the_training_starts_from(tmp_path: Path) -> None:
    bundle, _ = _bundle_folder(tmp_path)
    trained = _job(tmp_path, config(), start="./bundle", bundle=bundle).build(torch.device("cpu"))
    kept = _job(tmp_path, config(), start="./bundle", bundle=bundle, old_labels="keep").build(torch.device("cpu"))
    assert trained._keeper == [None] and kept._kept_ids.tolist() == [1, 4]
    (keeper,) = kept._keeper
    assert (
        keeper is not None and not keeper.training and not any(weight.requires_grad for weight in keeper.parameters())
    )
    assert {name.split(".")[0] for name in kept.state_dict()} == {"model"}
    (Path(bundle) / MATCH_FILE).unlink()
    job = _job(tmp_path, config(), start="./bundle", bundle=bundle, old_labels="keep")
    assert job.build(torch.device("cpu"))._kept_ids.tolist() == list(range(6)), "all labels of a model of the run"


def test_a_teacher_of_another_width_cannot_be_distilled_nor_into_tokens_without_projection(tmp_path: Path) -> None:
    bundle, _ = _bundle_folder(tmp_path, image_proj=20)
    narrow = partial(_job, tmp_path, config(), start="./bundle", bundle=bundle)
    not_projected = partial(_job, tmp_path, config(image_proj=None), start="scratch")
    for job, width in ((narrow, "20"), (not_projected, "no projection")):
        message = f"pretrain.distill_loss: .* has features of 12 values, .* has {width}.*; set pretrain.distill_loss to"
        with pytest.raises(ValueError, match=message):
            job().build(torch.device("cpu"))
        job(distill_loss=False).build(torch.device("cpu"))
    with pytest.raises(ValueError, match="image_proj is the width of both, not null"):
        config(architecture="ram_plus", captions=False, image_proj=None)


def test_ram_plus_is_trained_with_descriptions_and_its_alignment_loss(tmp_path: Path) -> None:
    _bundle_folder(tmp_path)
    (tmp_path / "texts.json").write_text('{"dog": ["a pet that barks", "a dog"]}')
    model = config(architecture="ram_plus", captions=False, descriptions=3)
    job = _job(tmp_path, model, start="scratch", caption_loss=False)
    job = dataclasses.replace(job, descriptions=InputFile.find(f"{tmp_path}/texts.json"))
    step = job.build(torch.device("cpu"))
    assert step.model.label_embed.shape == (6, 3, 12)
    expected = Teacher.from_pretrained(f"{tmp_path}/teacher").encode_texts(["a pet that barks", "a dog"])
    torch.testing.assert_close(step.model.label_embed[0, :2], torch.from_numpy(expected))
    inputs = {
        "pixels": torch.randint(0, 256, (3, 1, 32, 32, 3), dtype=torch.uint8),
        "targets": torch.randint(0, 2, (3, 6), dtype=torch.uint8),
        "caption_text": torch.from_numpy(write_texts(["a red dog", "a beach", ""])),
        "weight": torch.ones(3),
    }
    losses = step.train()(inputs)
    assert losses.keys() == {"tag", "distill", "alignment", "total"} and all(map(torch.isfinite, losses.values()))
    losses["total"].backward()
    trainable = {name: weight for name, weight in step.named_parameters() if weight.requires_grad}
    assert all(weight.grad is not None for weight in trainable.values()) and "model.reweight_scale" in trainable
    other = {**inputs, "caption_text": torch.from_numpy(write_texts(["run", "a beach", ""]))}
    assert step.eval()(other)["alignment"] != step(inputs)["alignment"]
    job.save(step, f"{tmp_path}/ram-plus")
    again = dataclasses.replace(job, start=f"{tmp_path}/ram-plus", descriptions=None).build(torch.device("cpu"))
    assert again(inputs)["alignment"].isfinite()
