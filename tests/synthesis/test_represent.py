"""Contract: rows have the locations of synthetic images; a dual encoder is trained on several views of each caption."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import timm
import torch

from ram_ray.config import RunConfig
from ram_ray.data.images import Limits, decode, read_bytes
from ram_ray.models.dual_encoder import DualEncoder
from ram_ray.models.teacher import Teacher
from ram_ray.records import SAMPLE, to_table
from ram_ray.settings.models import DualEncoderConfig, TimmConfig
from ram_ray.settings.synthesis import RepresentConfig
from ram_ray.settings.training import AugmentConfig, TrainConfig, TrainingConfig
from ram_ray.synthesis.pairs import PairFeed, Selection, real_rows, synthetic_rows
from ram_ray.synthesis.represent import PairJob, PairStep, RepresentSettings, _check_clip, _copy_encoders
from ram_ray.synthesis.synthetic_images import SYNTHETIC, Synthesizer, SyntheticSettings
from ram_ray.training.build import load_weights
from ram_ray.training.order import Table
from ram_ray.training.rows import ROWS
from ram_ray.training.rows import to_training_table as to_training
from tests.models.test_towers import write_bert
from tests.tiny import STACK, SWIN, tagger, tokenizer

LIMITS = Limits(1, 10_000, 100_000)
CAPTIONS = ["a red sun in the sky", "a blue umbrella on the beach", "a green anchor"]
TRAIN = TrainConfig(image_size=32, augment=AugmentConfig(crop_scale=(0.8, 1.0), randaugment=None))
CONFIG = RepresentConfig(images_per_caption=3, views_per_caption=2, head=(16, 8), train=TRAIN)


def _settings(*, seed: int) -> SyntheticSettings:
    return SyntheticSettings.from_config(RunConfig(represent=CONFIG, seed=seed))


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """Rows and images of three captions, made by `DrawnGenerator`."""
    folder = tmp_path_factory.mktemp("synthetic")
    rows = [{"key": f"s/{n}", "shard": "s", "captions": [text, "another caption"]} for n, text in enumerate(CAPTIONS)]
    return Synthesizer(_settings(seed=3), folder=str(folder / "images"), device="cpu")(to_table(rows, SAMPLE))


def test_encoders_apart_are_copied_to_the_run(tmp_path: Path) -> None:
    text = write_bert(tmp_path / "text", pooling={"pooling_mode_mean_tokens": True})
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "resnet.pth")
    image = {"name": "test_resnet", "weights": str(tmp_path / "resnet.pth")}
    represent = {"text_encoder": str(text), "image_size": 64}
    tree = {"represent": represent, "model": {"image_encoder": image}, "engine": {"rounds": 1}}
    settings = RepresentSettings.from_config(RunConfig.model_validate(tree))
    assert settings.training is None and settings.clip is None and settings.apart is not None
    _copy_encoders(settings.apart, "memory://run/models/represent")
    original = Teacher.apart(str(text), image=TimmConfig(**image), image_size=64)
    for file in (text / "model.safetensors", tmp_path / "resnet.pth"):
        file.unlink()
    teacher = Teacher.from_pretrained("memory://run/models/represent")
    pixels = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(teacher.encode_images(pixels), original.encode_images(pixels))
    np.testing.assert_allclose(teacher.encode_texts(["a dog"]), original.encode_texts(["a dog"]), atol=1e-6)
    other = {**tree, "represent": {**represent, "image_encoder": {"name": "test_vit", "weights": "x.pth"}}}
    settings = RepresentSettings.from_config(RunConfig.model_validate(other))
    assert settings.apart is not None and settings.apart.image == TimmConfig(name="test_vit", weights="x.pth")


def test_a_dual_encoder_of_a_timm_model_starts_from_its_weights_and_the_tagger_from_it(tmp_path: Path) -> None:
    weights = timm.create_model("test_efficientnet").state_dict()
    torch.save(weights, tmp_path / "encoder.pth")
    tokenizer().save(tmp_path)
    train = TRAIN.model_copy(update={"backbone_lr": 1e-5})
    represent = CONFIG.model_copy(update={"train": train, "text": STACK, "embed_dim": 12})
    image = {"name": "test_efficientnet", "weights": f"{tmp_path}/encoder.pth"}
    config = RunConfig.model_validate({"represent": represent.model_dump(), "model": {"image_encoder": image}})
    settings = RepresentSettings.from_config(config).training
    assert settings is not None
    job = PairJob("represent", train, TrainingConfig(), _feed(tmp_path), 1, 1, settings=settings)
    step = job.build(torch.device("cpu"))
    assert step.model.config.mean == (0.485, 0.456, 0.406)
    assert torch.equal(step.model.image_encoder.backbone.conv_head.weight, weights["conv_head.weight"])
    ids = torch.from_numpy(tokenizer().encode(CAPTIONS, first=tokenizer().enc, max_tokens=10))
    pixels = torch.randint(0, 255, (3, 2, 32, 32, 3), dtype=torch.uint8)
    step({"pixels": pixels, "text_ids": ids, "caption": torch.arange(3)})["total"].backward()
    trained = {name: weight.grad is not None for name, weight in step.named_parameters() if weight.requires_grad}
    assert all(trained.values()), [name for name, has_gradient in trained.items() if not has_gradient]
    job.save(step, f"{tmp_path}/dual")
    teacher = Teacher.from_pretrained(f"{tmp_path}/dual")
    backbone = teacher.backbone()
    assert teacher.is_dual and backbone is not None
    model = tagger(image_encoder=config.model.image_encoder)
    load_weights(model, backbone)
    assert torch.equal(model.image_encoder.backbone.conv_head.weight, weights["conv_head.weight"])


@pytest.mark.parametrize(
    ("represent", "message"),
    [
        ({"text_encoder": "a/b", "clip": "c/d"}, "set clip or text_encoder, not both"),
        ({"image_encoder": {"name": "test_vit"}}, "image_encoder goes with text_encoder"),
        ({"text_encoder": "a/b", "image_encoder": {"name": "test_vit"}}, "set image_encoder.weights"),
        ({"text_encoder": "a/b"}, "embeds no crops for cleaning: set represent.image_encoder"),
    ],
)
def test_encoders_that_do_not_go_together_are_one_clear_error(represent: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig.model_validate({"represent": represent})


def test_a_text_encoder_in_place_of_a_clip_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a text encoder alone: set represent.text_encoder"):
        _check_clip(str(write_bert(tmp_path / "text", pooling=None)), None)


def _feed(folder: Path, *, views: int = 2) -> PairFeed:
    tokenizer().save(folder)
    return PairFeed(
        table=Table("", ()), config=TRAIN, seed=1, limits=LIMITS, tokenizer=str(folder), num_views=views,
        max_text_tokens=10,
    )  # fmt: skip


def test_locations_hold_images_that_decode(synthetic: pa.Table) -> None:
    assert synthetic.schema == SYNTHETIC and synthetic["key"].to_pylist() == ["s/0", "s/1", "s/2"]
    assert synthetic["captions"].to_pylist() == [[text] for text in CAPTIONS], "images are made of the first caption"
    locations = [location for row in synthetic["images"].to_pylist() for location in row]
    assert len(locations) == 9 and len({(location["uri"], location["offset"]) for location in locations}) == 9
    contents = read_bytes(*([location[name] for location in locations] for name in ("uri", "offset", "nbytes")))
    pixels = []
    for content in contents:
        assert isinstance(content, bytes) and content.startswith(b"\xff\xd8") and content.endswith(b"\xff\xd9")
        image = decode(content, limits=LIMITS)
        assert image.size == (32, 32)
        pixels.append(np.asarray(image).astype(int))
    assert np.abs(pixels[0] - pixels[1]).mean() > 2, "another seed gives another image of the caption"


def test_the_tar_is_an_ordinary_one(synthetic: pa.Table) -> None:
    import tarfile

    locations = [location for row in synthetic["images"].to_pylist() for location in row]
    with tarfile.open(locations[0]["uri"]) as tar:
        members = [(member.offset_data, member.size) for member in tar.getmembers()]
    assert members == [(location["offset"], location["nbytes"]) for location in locations]


def test_the_same_rows_and_seed_give_the_same_images(synthetic: pa.Table, tmp_path: Path) -> None:
    source = to_table([{"key": f"s/{n}", "shard": "s", "captions": [text]} for n, text in enumerate(CAPTIONS)], SAMPLE)
    for seed, same in ((3, True), (4, False)):
        again = Synthesizer(_settings(seed=seed), folder=str(tmp_path / str(seed)), device="cpu")(source)
        tar, again_tar = (Path(table["images"][0][0]["uri"].as_py()).read_bytes() for table in (synthetic, again))
        assert (tar == again_tar) == same


def test_another_batch_writes_another_tar(synthetic: pa.Table, tmp_path: Path) -> None:
    """A resumed run may have a batch with the same first row and other rows after it."""
    rows = [{"key": f"s/{n}", "shard": "s", "captions": [text]} for n, text in enumerate(CAPTIONS)]
    make = Synthesizer(_settings(seed=3), folder=str(tmp_path), device="cpu")
    uris = [make(to_table(part, SAMPLE))["images"][0][0]["uri"].as_py() for part in (rows[:2], rows[::2], rows[:2])]
    assert uris[0] == uris[2] != uris[1]


def test_rows_become_training_rows(synthetic: pa.Table) -> None:
    location = {"uri": "u", "offset": 1, "nbytes": 2}
    sample = {"key": "s/0", "shard": "s", **location, "captions": ["a", "b"], "labels": None}
    rows = [sample, {**sample, "key": "s/1", "reason": "truncated"}, {**sample, "key": "s/2", "captions": []}]
    (real,) = real_rows(to_table(rows, SAMPLE))
    assert real["images"] == [location] and [caption["text"] for caption in real["captions"]] == ["a", "b"]
    rows = synthetic_rows(synthetic)
    assert [row["key"] for row in rows] == ["synthetic/s/0", "synthetic/s/1", "synthetic/s/2"]
    assert to_training([real, *rows], seed=0, num_buckets=2).schema.equals(ROWS)


def test_real_rows_can_be_those_of_the_same_captions() -> None:
    samples = [
        {"key": f"s/{n}", "shard": "s", "uri": "u", "offset": n, "nbytes": 1, "captions": [f"first {n}", "second"]}
        for n in range(200)
    ]
    table = to_table(samples, SAMPLE)
    selection = Selection(0.3, seed=3)
    rows = real_rows(table, selection=selection)
    assert [row["key"] for row in rows] == [row["key"] for row in samples if selection.has(row["key"])]
    assert 40 < len(rows) < 80 and all(len(row["captions"]) == 1 for row in rows)
    assert [row["captions"][0]["text"] for row in rows] == [f"first {row['key'][2:]}" for row in rows]
    assert len(real_rows(table, selection=Selection(1.0, seed=3))) == len(real_rows(table)) == 200


def test_views_are_different_images_until_all_are_used(synthetic: pa.Table, tmp_path: Path) -> None:
    (row, *_) = synthetic_rows(synthetic)
    counts = Counter()
    for epoch in range(40):
        views = _feed(tmp_path).views({**row, "epoch": epoch})
        offsets = [view["offset"] for view in views]
        assert len(set(offsets)) == 2
        counts.update(offsets)
    assert len(counts) == 3 and min(counts.values()) > 10, "every image is used"
    many = _feed(tmp_path, views=7).views({**row, "epoch": 0})
    assert sorted(Counter(view["offset"] for view in many).values()) == [2, 2, 3]
    assert row["images"] == synthetic_rows(synthetic)[0]["images"], "the row is not changed"


def test_a_batch_holds_views_texts_and_caption_hashes(synthetic: pa.Table, tmp_path: Path) -> None:
    rows = [{**row, "epoch": 0} for row in synthetic_rows(synthetic)]
    real = {**rows[0], "key": "s/0", "images": rows[0]["images"][:1]}  # a single image: other crops of it
    batch = _feed(tmp_path).batch([*rows, real])
    assert batch["pixels"].shape == (4, 2, 32, 32, 3) and set(batch["reason"]) == {""}
    assert (batch["pixels"][:, 0] != batch["pixels"][:, 1]).any((1, 2, 3)).all()
    assert batch["text_ids"].shape == (4, 10) and batch["text_ids"].dtype == np.int32
    caption = batch["caption"].tolist()
    assert caption[0] == caption[3] and len(set(caption)) == 3 and min(caption) >= 0
    again = _feed(tmp_path).batch(rows[1:])
    np.testing.assert_array_equal(again["pixels"], batch["pixels"][1:3])


def _step(config: RepresentConfig) -> PairStep:
    torch.manual_seed(0)
    sizes = DualEncoderConfig(
        image_size=32, swin=SWIN, text=STACK, embed_dim=12, vocab_size=len(tokenizer()), max_text_tokens=10
    )
    return PairStep(DualEncoder(sizes), config).train()


def _batch(feed: PairFeed, synthetic: pa.Table) -> dict[str, torch.Tensor]:
    arrays = feed.batch([{**row, "epoch": 0} for row in synthetic_rows(synthetic)])
    return {name: torch.from_numpy(arrays[name]) for name in ("pixels", "text_ids", "caption")}


def test_training_lowers_the_losses_and_reaches_every_parameter(synthetic: pa.Table, tmp_path: Path) -> None:
    batch = _batch(_feed(tmp_path), synthetic)
    step = _step(CONFIG.model_copy(update={"image_text_weight": 0.5, "head_last_norm": True}))
    optimizer = torch.optim.AdamW(step.parameters(), lr=3e-3)
    history = []
    for _ in range(40):
        losses = step(batch)
        history.append({name: loss.item() for name, loss in losses.items()})
        assert history[-1]["total"] == pytest.approx(
            history[-1]["stablerep"] + 0.5 * history[-1]["image_text"], rel=1e-5
        )
        optimizer.zero_grad()
        losses["total"].backward()
        optimizer.step()
    assert all(np.isfinite(list(losses.values())).all() for losses in history)
    assert history[-1]["stablerep"] < 0.5 * history[0]["stablerep"], (history[0], history[-1])
    assert history[-1]["image_text"] < 0.5 * history[0]["image_text"], (history[0], history[-1])
    assert all(parameter.grad is not None for parameter in step.parameters()), "every parameter is trained"


@pytest.mark.parametrize(
    ("method", "views", "losses"),
    [
        ("stablerep_plus", 2, {"stablerep", "image_text"}),
        ("stablerep", 2, {"stablerep"}),
        ("simclr", 2, {"simclr"}),
        ("clip", 1, {"image_text"}),
    ],
)
def test_a_method_has_its_losses_and_trains_what_they_reach(
    method: str, views: int, losses: set[str], synthetic: pa.Table, tmp_path: Path
) -> None:
    config = RepresentConfig.model_validate({**CONFIG.model_dump(), "method": method})
    assert config.num_views == views and config.trains_text == ("image_text" in losses)
    step = _step(config)
    values = step(_batch(_feed(tmp_path, views=views), synthetic))
    assert values.keys() == {*losses, "total"}
    assert values["total"].item() == pytest.approx(sum(values[name].item() for name in losses), rel=1e-6)
    values["total"].backward()
    trained = {name for name, parameter in step.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, parameter in step.named_parameters() if parameter.requires_grad}
    parts = {name.split(".")[1] if name.startswith("model.") else "head" for name in trained}
    text = {"embedding", "layers", "text_proj", "image_proj", "logit_scale"} if config.trains_text else set()
    assert parts == {"image_encoder", *text, *(() if method == "clip" else ("head",))}


def test_simclr_has_the_crops_of_an_image_as_positives(synthetic: pa.Table, tmp_path: Path) -> None:
    feed = replace(_feed(tmp_path, views=3), same_image=True)
    rows = [{**row, "epoch": 0} for row in synthetic_rows(synthetic)]
    for row in rows:
        assert len({view["offset"] for view in feed.views(row)}) == 1
    same_caption = {**rows[0], "key": "another image"}
    batch = feed.batch([*rows, same_caption])
    assert len(set(batch["caption"].tolist())) == 4, "images of one caption are no positives of each other"
    assert (batch["pixels"][:, 0] != batch["pixels"][:, 1]).any((1, 2, 3)).all(), "other crops of the image"


@pytest.mark.parametrize("method", ["stablerep", "simclr"])
def test_a_feature_that_is_not_trained_is_not_distilled(method: str) -> None:
    tree = {"represent": {"method": method}}
    with pytest.raises(ValueError, match=f"pretrain.distill_loss: represent.method {method} trains no feature"):
        RunConfig.model_validate(tree)
    off = {name: {"distill_loss": False} for name in ("pretrain", "retrain", "finetune")}
    assert RunConfig.model_validate({**tree, **off}).represent.method == method
    RunConfig.model_validate({"represent": {**tree["represent"], "clip": "a/b"}})  # nothing is trained


def test_what_a_preset_does_not_name_has_the_official_value() -> None:
    official = RepresentConfig()
    assert (official.image_text_weight, official.head, official.head_last_norm) == (1.0, (4096, 256), False)
    assert (official.train.weight_decay, official.train.beta2) == (0.1, 0.95)
    given = RepresentConfig.model_validate({"train": {"epochs": 3, "augment": {"flip": False}}}).train
    assert given.epochs == 3 and not given.augment.flip
    assert given.model_copy(update={"epochs": 10, "augment": official.train.augment}) == official.train
    assert given.augment.model_copy(update={"flip": True}) == official.train.augment
    assert official.train.augment.crop_scale == (0.08, 1.0) and official.train.augment.blur == 0.5
