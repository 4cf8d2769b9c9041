"""Contract: the stored tokens of a view are those of its crop, a training on them makes the steps of one on the crops,
an image that cannot be read is a rejected row, and trainings with the same crops share the stage.
"""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch

from ram_ray.config import RunConfig, load
from ram_ray.data.images import Limits, decode
from ram_ray.models.ram import RAM
from ram_ray.records import SAMPLE, Reject, Row, to_table
from ram_ray.settings.models import TimmConfig
from ram_ray.settings.training import AugmentConfig, TrainConfig
from ram_ray.training.augment import train_crop
from ram_ray.training.encode_stage import EncodeSettings, ViewEncoder
from ram_ray.training.feed import TaggerFeed
from ram_ray.training.image_columns import pack_tokens, read_contents, unpack_tokens
from ram_ray.training.order import Table
from ram_ray.training.step import TrainStep
from tests.test_pipeline import TINY, frozen_encoder
from tests.tiny import NAMES, batch, jpeg, tagger

SIZE = 64
LIMITS = Limits(8, 10_000, 100_000)
AUGMENT = AugmentConfig(crop_scale=(0.5, 1.0), randaugment=None)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "encoder.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), file)
    return str(file)


@pytest.fixture(scope="module")
def settings(weights: str) -> EncodeSettings:
    return EncodeSettings(
        image_encoder=TimmConfig(name="test_resnet", weights=weights),
        image_size=SIZE,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        views=2,
        augment=AUGMENT,
        seed=3,
        precision="fp32",
    )


@pytest.fixture(scope="module")
def encoded(settings: EncodeSettings, tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """The VIEWS rows of three images; the second file is cut."""
    folder = tmp_path_factory.mktemp("encoded")
    files = [jpeg(0), jpeg(1)[:200], jpeg(2)]
    (folder / "images.bin").write_bytes(b"".join(files))
    rows, offset = [], 0
    for number, data in enumerate(files):
        location = {"uri": f"{folder}/images.bin", "offset": offset, "nbytes": len(data)}
        rows.append({"key": f"s/{number}", "shard": "s", "captions": ["a dog"], **location})
        offset += len(data)
    encoder = ViewEncoder(settings, str(folder / "tokens"), limits=LIMITS, device="cpu", threads=1)
    first, second = encoder(to_table(rows, SAMPLE)), encoder(to_table(rows, SAMPLE))
    assert first == second and len(list((folder / "tokens").iterdir())) == 1, "a task that runs again writes the same"
    return first.to_pylist()


def test_an_image_that_cannot_be_read_is_a_rejected_row(encoded: list[Row]) -> None:
    assert [row["key"] for row in encoded] == ["s/0", "s/1", "s/2"]
    assert [len(row["images"]) for row in encoded] == [2, 0, 2]
    assert [row["reason"] for row in encoded] == [None, "truncated", None]


def test_a_step_on_stored_tokens_is_the_step_on_their_crops(settings: EncodeSettings, encoded: list[Row]) -> None:
    usable = [row for row in encoded if row["images"]]
    model = _model(settings)
    feed = _feed(model, (5, model.image_encoder.width))
    for epoch, view in ((0, 0), (1, 1), (2, 0)):
        rows = [{"key": row["key"], "images": row["images"], "epoch": epoch} for row in usable]
        columns, rejects = feed.image_columns(rows, read_contents([feed.views(row) for row in rows]))
        assert columns["tokens"].dtype == np.float16 and columns["tokens"].shape[:2] == (2, 5) and rejects == [None] * 2
        crops = np.stack([_crop(settings, row["key"], view) for row in rows])[:, None]
        inputs = batch(2)
        others = {name: inputs[name] for name in ("targets", "caption_ids", "tag_ids")}
        step = TrainStep(model, teacher=None, caption_start=3)
        losses = []
        for images in ({"tokens": torch.from_numpy(columns["tokens"])}, {"pixels": torch.from_numpy(crops)}):
            torch.manual_seed(0)  # dropout
            losses.append(step({**others, **images}))
        assert losses[0].keys() == losses[1].keys() == {"tag", "text", "total"}
        for name, loss in losses[0].items():
            assert loss.item() == pytest.approx(losses[1][name].item(), rel=2e-3), name


def test_packed_tokens_are_unpacked_bit_for_bit_and_a_lost_file_is_named() -> None:
    tokens = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float16)
    unpacked, reject = unpack_tokens(pack_tokens(tokens), (5, 8))
    assert reject is None and np.array_equal(unpacked, tokens)
    with pytest.raises(OSError, match="too small"):
        unpack_tokens(pack_tokens(tokens), (4, 8))
    zeros, reject = unpack_tokens(Reject("broken_archive", "gone"), (5, 8))
    assert not zeros.any() and reject is not None and reject.reason == "broken_archive"


@pytest.mark.parametrize(
    ("change", "need"),
    [
        ("finetune.backbone_lr=1e-5", "backbone_lr 0 in every training"),
        ("model.image_encoder.weights=null", "model.image_encoder.weights"),
        ("pretrain.old_labels=keep", "pretrain.old_labels train"),
        ("engine.model=bundles/ram", "no given bundle"),
    ],
)
def test_what_stored_tokens_need_is_said(change: str, need: str) -> None:
    sets = [*frozen_encoder("text", "encoder.pth"), "represent.image_encoder={name: test_vit, weights: vit.pth}"]
    assert load(TINY, sets=sets).pretrain.views == 2
    with pytest.raises(ValueError, match=rf"views stores the tokens of a frozen image encoder and needs {need}; set"):
        load(TINY, sets=[*sets, change])


def _model(settings: EncodeSettings) -> RAM:
    from ram_ray.models.pretrained import load_pretrained

    model = tagger(image_encoder=settings.image_encoder, image_size=SIZE, mean=settings.mean, std=settings.std)
    load_pretrained(model.image_encoder)
    model.image_encoder.freeze()
    return model


def _feed(model: RAM, shape: tuple[int, int]) -> TaggerFeed:
    train = TrainConfig(image_size=SIZE, augment=AUGMENT)
    return TaggerFeed(Table("none", ()), train, 0, LIMITS, "none", tag_names=NAMES, token_shape=shape)


def _crop(settings: EncodeSettings, key: str, view: int) -> np.ndarray:
    image = decode(jpeg(int(key.partition("/")[2])), limits=LIMITS, size=SIZE)
    return train_crop(image, size=SIZE, config=AUGMENT, seed=f"{settings.seed}/view/{view}/{key}")


def test_the_settings_are_those_of_the_training(weights: str) -> None:
    train = TrainConfig(image_size=SIZE, augment=AUGMENT, views=3, backbone_lr=0, distill_loss=False)
    tree = {"model": {"image_encoder": {"name": "test_resnet", "weights": weights}}, "seed": 7}
    settings = EncodeSettings.from_config(RunConfig.model_validate(tree), train)
    assert (settings.views, settings.seed, settings.augment, settings.image_size) == (3, 7, AUGMENT, SIZE)
    assert settings.mean == (0.5, 0.5, 0.5) != tuple(RunConfig().model.mean), "the encoder's own"
