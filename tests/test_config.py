"""Contract: later settings win, a dumped configuration loads as itself, and a mistake is one line naming the field."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from ram_ray.cli.job import configure
from ram_ray.cli.options import PRESETS
from ram_ray.config import RunConfig, dump, load
from ram_ray.settings.data import Limits

PRESET_FILES = sorted(PRESETS.glob("*.yaml"))


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_sets_win_over_files_and_files_over_the_preset(tmp_path: Path) -> None:
    preset = _write(tmp_path / "preset.yaml", "name: one\nseed: 1\npretrain: {epochs: 1, lr: 0.1, batch_size: 7}\n")
    first = _write(tmp_path / "first.yaml", "seed: 2\npretrain: {epochs: 2, lr: 0.2}\n")
    second = _write(tmp_path / "second.yaml", "pretrain: {epochs: 3}\n")
    config = load(preset, files=[first, second], sets=["pretrain.epochs=4", "pretrain.epochs=5"])
    assert (config.name, config.seed) == ("one", 2)
    train = config.pretrain
    assert (train.epochs, train.lr, train.batch_size, train.weight_decay) == (5, 0.2, 7, 0.05)


def test_nothing_given_is_the_paper() -> None:
    config = load()
    assert config == RunConfig()
    assert (config.pretrain.image_size, config.finetune.image_size, config.labels.max_labels) == (224, 384, 4585)


@pytest.mark.parametrize(
    ("pair", "read"),
    [
        ("pretrain.lr=1e-3", lambda config: config.pretrain.lr == 1e-3),  # YAML 1.1 alone takes this for text
        ("pretrain.augment.randaugment=null", lambda config: config.pretrain.augment.randaugment is None),
        ("data.train=[a.tar, 's3://b/*.tar']", lambda config: config.data.train == ["a.tar", "s3://b/*.tar"]),
        ("engine={rounds: 2, generate: {threshold: 0.7}}", lambda config: config.engine.generate.threshold == 0.7),
        ("model.prompt='a = b'", lambda config: config.model.prompt == "a = b"),
    ],
)
def test_a_set_reads_yaml_values(pair: str, read) -> None:
    assert read(load(sets=[pair]))


def test_settings_of_one_stage_do_not_leak_through_yaml_anchors(tmp_path: Path) -> None:
    text = "pretrain: &train {epochs: 1, augment: {flip: false}}\nretrain: {<<: *train, lr: 0.5}\nfinetune: *train\n"
    preset = _write(tmp_path / "preset.yaml", text)
    config = load(preset, sets=["finetune.augment.flip=true", "finetune.epochs=9"])
    assert [stage.augment.flip for stage in (config.pretrain, config.retrain, config.finetune)] == [False, False, True]
    assert [stage.epochs for stage in (config.pretrain, config.retrain, config.finetune)] == [1, 1, 9]


@pytest.mark.parametrize("preset", PRESET_FILES, ids=lambda path: path.stem)
def test_every_preset_loads_and_survives_a_dump(preset: Path, tmp_path: Path) -> None:
    config = load(preset)
    assert config.name == preset.stem
    assert load(_write(tmp_path / "dumped.yaml", dump(config))) == config


def test_the_demo_preset_is_there() -> None:
    assert "demo" in [path.stem for path in PRESET_FILES]


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("pretrain.epoch=2", "pretrain.epoch: no such field"),
        ("pretrian.epochs=2", "pretrian: no such field"),
        ("pretrain.epochs=many", r"pretrain.epochs: .*number.*got 'many'"),
        ("pretrain.batch_size=2.5", r"pretrain.batch_size: .*integer.*got 2.5"),
        ("pretrain.epochs=0", r"pretrain.epochs: .*greater than 0"),
        ("pretrain=3", "pretrain: .*got 3"),
        ("training.strategy=horovod", "training.strategy: .*'deepspeed' or 'ddp'"),
        ("name=a/b", "name: use letters"),
        ("seed=-1", "seed: "),
        ("pretrain.image_size=250", "pretrain.image_size 250 is not a multiple of 32"),
        ("represent.train.image_size=250", "represent.train.image_size 250 is not a multiple of 32"),
        ("model.recognition.heads=7", "width 768 is not a multiple of heads 7"),
        ("pretrain.epochs", "write section.field=value"),
        ("model.captions=false", "model.captions is false.*set pretrain.caption_loss false, .*generate.captions 0"),
        ("retrain.annotations=parsed", "retrain.annotations must be newest: only finetune has a choice"),
        ("model.templates=[]", "model.templates: .*at least 1 item"),
        ("engine.generate.caption_threshold=0.5", "caption_threshold 0.5 goes with threshold, which is not set"),
        (
            "labels.min_name_count=6",
            "min_count 5 is below min_name_count 6.*; set labels.min_name_count to it or lower",
        ),
        ("represent.train.skipped_gradient=0.01", "represent.train.skipped_gradient is of the recognition decoder"),
        ("=2", "write section.field=value"),
        ("name=[", "--set 'name=\\['"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(pair: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load(sets=[pair])
    assert "\n" not in str(caught.value) and "got {" not in str(caught.value)


def numbers(section: BaseModel, prefix: str = "") -> Iterator[str]:
    """The fields of a configuration whose value is a number."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from numbers(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield prefix + name


@pytest.mark.parametrize("name", sorted(numbers(RunConfig())))
def test_no_number_may_be_far_below_zero(name: str) -> None:
    with pytest.raises(ValueError, match=name.rpartition(".")[2]):
        load(sets=[f"{name}=-7"])


@pytest.mark.parametrize("model", ["{head: mkt}", "{recognition: {layers: 0}, pooled: {width: 16}}"])
def test_a_setting_of_the_recognition_decoder_needs_one(model: str) -> None:
    sets = [f"model={model}", "engine.clean.detector=whole_image", "retrain.skipped_gradient=0.01"]
    with pytest.raises(ValueError, match="retrain.skipped_gradient is of the recognition decoder.* leave it at 1e-06"):
        load(sets=sets)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ValueError, match="pretrain.epoch: no such field.*; seed: |seed: .*; pretrain.epoch: "):
        load(sets=["pretrain.epoch=2", "seed=x"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"pretrain: [1,\nname: x", "cannot be read as YAML"),
        (b"\xff\xfe\x00", "cannot be read as YAML"),
        (b"- a\n- b\n", "expected a mapping"),
        (b"", "expected a mapping"),
        (b"pretrain: {epochs: 2}\nname: x\npretrain: {lr: 0.1}\n", "pretrain is there twice"),
        (None, "cannot be read as YAML"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load(files=[path])
    assert "broken.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_a_configuration_cannot_be_changed_once_made() -> None:
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().pretrain.epochs = 3  # type: ignore[misc]


def test_an_unknown_preset_is_one_error_that_lists_them() -> None:
    with pytest.raises(ValueError, match="--preset dmeo: no such preset; use one of .*demo") as caught:
        configure("dmeo")
    assert "\n" not in str(caught.value)


def test_a_job_takes_a_preset_a_file_and_settings_in_that_order(tmp_path: Path) -> None:
    own = _write(tmp_path / "own.yaml", "name: mine\npretrain: {epochs: 11}\nretrain: {epochs: 12}\n")
    fixed = ["pretrain.epochs=1", "retrain.epochs=1", "finetune.epochs=14"]
    config = configure("demo", files=[str(own)], sets=[*fixed, "retrain.epochs=13"])
    assert config.name == "mine" and config.model == load(PRESETS / "demo.yaml").model
    assert (config.pretrain.epochs, config.retrain.epochs, config.finetune.epochs) == (1, 13, 14)
    assert configure(str(own)).pretrain.epochs == 11


def test_data_of_the_command_line_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = configure(None, train=["a-*.tar", "s3://bucket/b.tar"], held_out=["/c.tar"], sets=["data.eval=[d]"])
    assert config.data.train == [str(tmp_path / "a-*.tar"), "s3://bucket/b.tar"]
    assert config.data.eval == ["/c.tar"]


def test_named_sets_of_the_command_line_are_kept_beside_plain_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--eval` takes both; a path that exists is a path, whatever its name; sets of settings are made absolute."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "split=dev").mkdir()
    named = "coco80=ann.json,images=val2017,classes=coco80,min_area=0.01"
    config = configure(None, held_out=["dev.tar", named, "split=dev", "a/b=c/*.tar"])
    assert config.data.eval == [str(tmp_path / name) for name in ("dev.tar", "split=dev", "a/b=c/*.tar")]
    absolute = f"coco80={tmp_path}/ann.json,images={tmp_path}/val2017,classes=coco80,min_area=0.01"
    assert config.evaluate.sets == [absolute]
    config = configure(None, sets=["evaluate.sets=['mine=x.tar']", "evaluate.descriptions=texts.json"])
    assert config.evaluate.sets == [f"mine={tmp_path}/x.tar"] and config.data.eval == []
    assert config.evaluate.descriptions == str(tmp_path / "texts.json")
    with pytest.raises(ValueError, match="format=prepared takes no other option"):
        configure(None, held_out=["a=b,format=prepared,min_area=0.1"])


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["evaluate.hold_out_labels=-1"], "evaluate.hold_out_labels"),
        (["evaluate.hold_out_captions=maybe"], "evaluate.hold_out_captions"),
        (
            ["evaluate.hold_out_labels=[dog]", "model={architecture: tag2text, label_width: 768}"],
            "tag2text answers for its own labels alone",
        ),
    ],
)
def test_what_cannot_be_held_out_is_told(sets: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(sets=sets)


def test_the_limits_of_an_image_are_those_of_the_section_data() -> None:
    data = load(sets=["data.min_side=8", "data.max_pixels=1000", "data.max_bytes=500"]).data
    assert data.limits() == Limits(min_side=8, max_pixels=1000, max_bytes=500)
    assert data.limits(min_side=1) == Limits(min_side=1, max_pixels=1000, max_bytes=500)
