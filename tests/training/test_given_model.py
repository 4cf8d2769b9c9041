"""Contract: a bundle gets the labels of a run and stays what it was; what it cannot do is one line with the fix.

The task of the stage runs here by itself, without Ray.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ram_ray.config import RunConfig
from ram_ray.label_system import Label, LabelSystem
from ram_ray.models.bundle import load_bundle, save_bundle
from ram_ray.models.label_match import MATCH_FILE
from ram_ray.settings.models import ModelConfig
from ram_ray.settings.training import TrainConfig
from ram_ray.training.given_model import Encoder, GivenModelSettings, NamedBundle, adapt_bundle
from ram_ray.training.tagger_stage import TaggerSettings, check_start
from tests import released
from tests.stage_results import trained_model
from tests.tiny import NAMES, tagger

TRAINED = Encoder("trained here", None, is_trained=True)
NEW = LabelSystem(
    [Label(0, "zebra", "object"), Label(1, "person", "object"), Label(2, "red", "attribute"), Label(3, "cup", "object")]
)


def _named(source: object) -> NamedBundle:
    return NamedBundle(source=str(source), revision=None, digest="")


def _without_text_encoder(folder: Path, **sizes) -> Path:
    labels = LabelSystem(Label(id, name, "object") for id, name in enumerate(NAMES))
    save_bundle(folder, tagger(captions=False, **sizes), labels=labels, tokenizer=None, teacher=None)
    return folder


def test_a_bundle_gets_the_labels_of_a_run(tiny_bundle: str, tmp_path: Path) -> None:
    match, dropped, image_size = adapt_bundle(_named(tiny_bundle), NEW, TRAINED, None, f"{tmp_path}/given")
    assert image_size == 32 and dropped == ["dog", "beach", "run", "traffic light"]
    old, given = load_bundle(tiny_bundle), load_bundle(f"{tmp_path}/given")
    assert [label.name for label in given.labels.labels] == ["zebra", "person", "red", "cup"]
    pixels = torch.randn(2, 3, 32, 32)
    scores = [bundle.model.logits(bundle.model.encode(pixels)) for bundle in (old, given)]
    torch.testing.assert_close(scores[1][:, [1, 2]], scores[0][:, [5, 2]])
    expected = old.teacher().label_embeddings(["zebra", "cup"], list(old.model.config.templates))
    torch.testing.assert_close(given.model.label_embed[[0, 3]], expected)
    assert given.has_text_encoder and given.tokenizer is not None
    assert json.loads((tmp_path / "given" / MATCH_FILE).read_text())["kept_ids"] == match.kept == [1, 2]


@pytest.mark.parametrize("architecture", ["ram", "ram_plus", "tag2text"])
def test_an_imported_model_gets_the_labels_of_a_run(architecture: str, tiny_bundle: str, tmp_path: Path) -> None:
    """None of them has a text encoder; the run names one of the same width, which Tag2Text does not need."""
    sizes = {} if architecture == "tag2text" else {"label_width": 16, "image_proj": 16}
    made = released.model(architecture, captions=False, **sizes)
    names = ("person", "red", "dog", "Christmas tree", "run", "beach", "cup")
    labels = LabelSystem(Label(id, name, "object") for id, name in enumerate(names))
    save_bundle(tmp_path / "ram", made, labels=labels, tokenizer=None, teacher=None)
    encoder = Encoder(f"{tiny_bundle}/text_encoder", None, is_trained=False)
    match, dropped, _ = adapt_bundle(_named(tmp_path / "ram"), NEW, encoder, None, f"{tmp_path}/given")
    given = load_bundle(f"{tmp_path}/given").model
    pixels = torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(
        given.logits(given.encode(pixels))[:, match.kept], made.logits(made.encode(pixels))[:, [0, 1, 6]]
    )
    assert match.new == [0] and len(dropped) == 4


def test_without_an_encoder_of_the_embeddings_new_labels_are_a_clear_error(tiny_bundle: str, tmp_path: Path) -> None:
    bundle = _without_text_encoder(tmp_path / "bundle")
    with pytest.raises(ValueError, match=r"has no text encoder to embed its new labels \(zebra, cup\); import it with"):
        adapt_bundle(_named(bundle), NEW, TRAINED, None, f"{tmp_path}/given")
    other = Encoder(f"{tiny_bundle}/text_encoder", None, is_trained=False)
    with pytest.raises(ValueError, match="label embeddings of 10 values and no text encoder, and .* makes 16; set"):
        adapt_bundle(_named(bundle), NEW, other, None, f"{tmp_path}/given")
    kept = LabelSystem([Label(0, "person", "object")])
    adapt_bundle(_named(bundle), kept, TRAINED, None, f"{tmp_path}/given")
    assert not load_bundle(f"{tmp_path}/given").has_text_encoder, "an encoder of another space is not put into it"


def test_a_bundle_without_a_label_of_the_run_is_a_clear_error(tiny_bundle: str, tmp_path: Path) -> None:
    labels = LabelSystem([Label(0, "zebra", "object")])
    with pytest.raises(ValueError, match="has none of the 1 labels of the run, such as 'zebra'; set labels.system"):
        adapt_bundle(_named(tiny_bundle), labels, TRAINED, None, f"{tmp_path}/given")


def test_settings_that_only_say_where_a_bundle_is_are_no_part_of_a_run(tiny_bundle: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tiny_bundle)
    trains = [TrainConfig(start=str(source)) for source in (tiny_bundle, tmp_path / "link")]
    first, second = (
        TaggerSettings.from_config(RunConfig(), train=train, left_out=None, start=None).identity() for train in trains
    )
    assert first == second


def test_what_a_run_is_changes_with_the_content_of_the_bundle_and_not_with_its_place(tmp_path: Path) -> None:
    first, second = _without_text_encoder(tmp_path / "a"), _without_text_encoder(tmp_path / "b")
    other = _without_text_encoder(tmp_path / "c", seed=1)

    def identity(source: Path) -> dict:
        return GivenModelSettings.from_config(RunConfig(), source=str(source), revision=None).identity()

    assert identity(first) == identity(second) != identity(other)
    with pytest.raises(ValueError, match="missing is not a model bundle"):
        identity(tmp_path / "missing")


def test_settings_of_the_model_that_the_bundle_does_not_have_are_named(tiny_bundle: str) -> None:
    config = RunConfig.model_validate({"model": {"label_width": 16, "image_proj": 99, "image_size": 224}})
    settings = GivenModelSettings.from_config(config, source=tiny_bundle, revision=None)
    assert settings.unused == ("image_proj",)


def test_a_training_has_the_sizes_of_the_model_that_it_starts_from(tiny_bundle: str) -> None:
    def settings(start: str) -> TaggerSettings:
        train, model = TrainConfig(start=start), trained_model(tiny_bundle, image_size=32)
        return TaggerSettings.from_config(RunConfig(), train=train, left_out=None, start=model)

    assert settings("./a").model.label_width == 16 and settings("previous").model.image_size == 32
    assert settings("./a").identity() == settings("/elsewhere/b").identity() != settings("previous").identity()


@pytest.mark.parametrize(
    ("model", "train", "message"),
    [
        (
            {"captions": False},
            {},
            "set finetune.caption_loss to false: the model that it starts from writes no captions",
        ),
        ({"architecture": "tag2text", "label_width": 768}, {}, "set finetune.distill_loss to false: Tag2Text does not"),
        ({}, {"image_size": 40}, "finetune.image_size: 40 is not a multiple of 32.* whose own size is 224"),
    ],
)
def test_what_a_model_cannot_be_trained_as_is_one_line(model: dict, train: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        check_start(ModelConfig(**model), TrainConfig(**train), section="finetune")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("start", ["scrach", "Represent", "bundle"])
def test_a_start_that_is_neither_a_word_nor_a_path_is_a_mistake(start: str) -> None:
    with pytest.raises(ValueError, match="write represent, previous, scratch, or ./FOLDER"):
        TrainConfig(start=start)
