"""Contract: every problem that would end a run later is reported before it starts, a line each, with its field."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import fsspec
import pytest

from ram_ray.config import RunConfig, load
from ram_ray.drawn_scenes import write_corpus
from ram_ray.preflight.run import find_problems
from ram_ray.runtime.capacity import Capacity, NodeGroup, node_groups
from ram_ray.runtime.own_cluster import free_port
from tests.box.models import write_models
from tests.models.test_towers import write_bert
from tests.tiny_clip import save_classifier

ROOT = Path(__file__).resolve().parents[2]
PRESET = ROOT / "ram_ray" / "presets" / "ram_14m.yaml"
MACHINE = Capacity((NodeGroup({"CPU": 4, "GPU": 0}),))
CLOUD = Capacity((NodeGroup({"CPU": 0, "GPU": 0}), NodeGroup({"CPU": 96, "GPU": 8}, 4), NodeGroup({"CPU": 64}, 8)))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `coco` with a shard, and a folder `empty` without any."""
    folder = tmp_path_factory.mktemp("data")
    config = RunConfig.model_validate({"data": {"drawn": {"num_web": 4, "num_clean": 0, "num_eval": 1}}})
    write_corpus(str(folder / "coco"), config=config.data.drawn, seed=0)
    (folder / "empty").mkdir()
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    return folder


def local(models: Path) -> list[str]:
    """Settings that name the models by their folders, and that a few images can meet."""
    return [
        *(f"{section}.batch_size=4" for section in ("pretrain", "retrain", "finetune")),
        "labels.min_count=2",
        "labels.min_name_count=2",
        f"represent.clip={models / 'clip'}",
        f"tokenizer={models / 'bert'}",
        f"engine.clean.detector={models / 'dino'}",
        f"model.image_encoder.weights={models / 'encoder'}",
    ]


def problems(
    data: Path,
    sets: Sequence[str],
    *,
    train: Sequence[str] = ("coco",),
    capacity: Capacity = CLOUD,
    last: str = "evaluate",
) -> list[str]:
    config = load(PRESET, sets=sets)
    config = config.model_copy(
        update={"data": config.data.model_copy(update={"train": [str(data / name) for name in train]})}
    )
    return find_problems(config, str(data / "run"), last=last, capacity=capacity)


def test_nothing_is_wrong_and_nothing_is_left_behind(data: Path, models: Path) -> None:
    assert problems(data, local(models)) == []
    assert not (data / "run").exists()


def test_a_list_of_labels_to_clean_that_cannot_be_read(data: Path, models: Path) -> None:
    sets = [*local(models), "engine.clean.labels=gone.txt"]
    (line,) = problems(data, sets)
    assert line.startswith("engine.clean.labels: gone.txt")
    assert problems(data, sets, last="generate") == problems(data, [*local(models), "engine.clean.labels=coco80"]) == []


def test_every_problem_is_one_line_that_begins_with_its_field(data: Path, models: Path) -> None:
    sets = [*local(models), f"engine.clean.detector={models / 'none'}"]
    lines = problems(data, sets, train=("none-*.tar", "coco", "nothing/*"), capacity=MACHINE)
    fields = [line.partition(": ")[0] for line in lines]
    assert fields == ["data.train", "data.train", "engine.clean.detector", "training.use_gpu, resources.actor_gpus"]
    assert "none-*.tar" in lines[0] and "nothing/*" in lines[1]
    assert not any("\n" in line for line in lines)


def test_tensorboard_needs_its_package(data: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = [*local(models), "training.tensorboard=true"]
    assert problems(data, sets) == []
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "tensorboardX" else find_spec(name, *rest)
    )
    (line,) = problems(data, sets)
    assert line.startswith("training.tensorboard: tensorboardX is not installed; pip install 'ram_ray[train]'")


def test_globs_of_every_section_that_runs_must_match(data: Path, models: Path) -> None:
    sets = [*local(models), "pretrain.shards=flickr*", "finetune.shards=vg/*"]
    lines = problems(data, sets)
    assert [line.partition(":")[0] for line in lines] == ["pretrain.shards", "finetune.shards"]
    assert "such as coco/" in lines[0]
    assert problems(data, sets, last="parse") == []


def test_human_labels_and_lists_of_annotations_are_checked(data: Path, models: Path) -> None:
    sets = [*local(models), "data.human_labels={flickr*: complete, coco: positive}"]
    (line,) = problems(data, sets)
    assert line.startswith("data.human_labels: 'flickr*' matches none of 2 shards, such as coco/") and "glob" in line
    labelled = [*local(models), "labels.min_count=1000", "data.human_labels=positive"]
    assert problems(data, labelled) == [], "names of human labels need no captions"
    (data / "list").mkdir(exist_ok=True)
    (data / "list" / "released.json").write_text('[{"image_path": "a.jpg", "union_label_id": [1]}]')
    (line,) = problems(data, local(models), train=("list/released.json",), last="parse")
    assert line.startswith("data.train: ") and line.endswith("to the list of their names, such as ram_tag_list.txt")


def test_data_that_is_too_small_is_reported_with_the_setting_to_change(data: Path, models: Path) -> None:
    sets = [*local(models), "labels.min_count=1000", "pretrain.epochs=1", "pretrain.batch_size=6"]
    sets += ["finetune.epochs=2.5", "finetune.batch_size=10"]
    lines = problems(data, sets)
    assert lines[0].startswith("pretrain.batch_size: 1 epochs of 5 images give no step of 6 images; set pretrain.")
    assert lines[1].startswith("labels.min_count: a label must be in 1000 captions and there are ") and len(lines) == 2
    assert problems(data, sets, last="parse") == []
    ready = ROOT / "ram_ray" / "labels" / "benchmarks" / "coco80.txt"
    assert problems(data, [*sets, f"labels.system={ready}", "pretrain.epochs=2"]) == []


def test_models_must_be_pinned_and_of_a_known_kind(data: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    lines = problems(
        data, [*local(models), "engine.clean.detector=someone/some-detector", "engine.clean.revision=main"]
    )
    assert [line.partition(":")[0] for line in lines] == ["engine.clean.revision"]
    lines = problems(
        data, [*local(models), f"engine.clean.detector={models / 'clip'}", f"represent.clip={models / 'dino'}"]
    )
    assert sorted(line.partition(":")[0] for line in lines) == ["engine.clean.detector", "represent.clip"]
    assert problems(data, [*local(models), f"engine.clean.detector={models / 'none'}"], last="pretrain") == []


def test_models_of_filters_and_near_duplicates_must_load(data: Path, models: Path, tmp_path: Path) -> None:
    save_classifier(tmp_path / "unsafe")
    filters = f"data.filters={{unsafe_model: {tmp_path / 'unsafe'}, min_similarity: 0.2}}"
    clip = f"data.encoder.clip={models / 'clip'}"
    assert problems(data, [*local(models), filters, clip]) == [] == problems(data, [*local(models), filters])
    (line,) = problems(data, [*local(models), filters, "data.filters.unsafe_labels=[bad]"])
    assert line.startswith("data.filters.unsafe_model: ") and "data.filters.unsafe_labels: the classifier" in line
    (line,) = problems(data, [*local(models), "data.filters.unsafe_model=someone/nsfw"])
    assert line.startswith("data.filters.unsafe_revision: ") and "is not pinned" in line
    wrong = [f"data.filters.unsafe_model={models / 'dino'}", f"data.encoder.clip={models / 'dino'}"]
    lines = problems(data, [*local(models), *wrong, "data.duplicates.embedding=0.9"])
    assert sorted(line.partition(":")[0] for line in lines) == ["data.encoder.clip", "data.filters.unsafe_model"]
    sets = [*local(models), "represent.clip=null", "represent.revision=null", "data.duplicates.embedding=0.9"]
    (line,) = problems(data, sets)
    assert "need a published encoder: set data.encoder.clip" in line


def test_a_text_encoder_must_be_one(data: Path, models: Path, tmp_path: Path) -> None:
    encoder = f"model.image_encoder.weights={models / 'encoder'}"
    sets = [
        *(setting for setting in local(models) if "represent.clip" not in setting),
        "represent.clip=null",
        "represent.revision=null",
        encoder,
    ]
    text = write_bert(tmp_path / "text", pooling={"pooling_mode_mean_tokens": True})
    assert problems(data, [*sets, f"represent.text_encoder={text}"]) == []
    (line,) = problems(data, [*sets, f"represent.text_encoder={models / 'clip'}"])
    assert line.startswith("represent.text_encoder: ") and "set represent.clip" in line
    (line,) = problems(data, [*sets, "represent.text_encoder=someone/sentences"])
    assert line.startswith("represent.text_revision: ") and "is not pinned" in line
    crops = "{name: test_vit, weights: someone/vit}"
    (line,) = problems(data, [*sets, f"represent.text_encoder={text}", f"represent.image_encoder={crops}"])
    assert line.startswith("represent.image_encoder.revision: ") and "is not pinned" in line
    (text / "modules.json").write_text('[{"path": "", "type": "sentence_transformers.models.CNN"}]')
    (line,) = problems(data, [*sets, f"represent.text_encoder={text}"])
    assert "has a part 'CNN'" in line


def test_weights_must_be_there(data: Path, models: Path, tmp_path: Path) -> None:
    for file in (models / "clip").iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    lines = problems(data, [*local(models), f"represent.clip={tmp_path}"])
    assert len(lines) == 1 and lines[0].startswith("represent.clip") and "weights" in lines[0]


def test_an_image_encoder_must_have_a_name_weights_and_sizes_that_timm_knows(data: Path, models: Path) -> None:
    def lines(*settings: str) -> list[str]:
        return problems(data, [*local(models), "model.image_encoder.name=test_vit", *settings])

    assert lines() == []
    (line,) = lines("model.image_encoder.name=vit_of_nobody")
    assert line.startswith("model.image_encoder.name 'vit_of_nobody': timm cannot make this model: no such name")
    (line,) = lines("finetune.image_size=390")
    assert line.startswith("finetune.image_size: test_vit takes no images of 390 px: ") and "divisible" in line
    (line,) = lines(f"model.image_encoder.weights={models / 'bert'}")
    assert line.startswith("model.image_encoder.weights: ") and "it has no weights" in line
    (line,) = lines("model.image_encoder.weights=package://no_such_package/model.pth")
    assert line.startswith("model.image_encoder.weights: ") and "no package 'no_such_package' is installed" in line
    (line,) = lines("model.image_encoder.weights=timm/test_vit", "model.image_encoder.revision=null")
    assert line.startswith("model.image_encoder.revision: ") and "is not pinned" in line


def test_a_web_server_that_does_not_answer_is_named(data: Path, models: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/swin.pth"
    (line,) = problems(
        data, [*local(models), "model.image_encoder.name=test_vit", f"model.image_encoder.weights={url}"]
    )
    assert line.startswith(f"model.image_encoder.weights: {url!r} cannot be loaded: ") and "Cannot connect" in line


def test_what_is_asked_for_must_fit_the_machines(data: Path, models: Path) -> None:
    sets = local(models)

    def on_cpu(*settings: str) -> list[str]:
        cpu_settings = [*sets, "training.use_gpu=false", "resources.actor_gpus=0", *settings]
        return problems(data, cpu_settings, capacity=MACHINE)

    assert on_cpu("training.workers=3") == []
    assert on_cpu("training.workers=5")[0].startswith("training.workers: 5 workers")
    assert on_cpu("training.workers=4")[0].startswith("training.feed_cpus: 4 workers")
    assert on_cpu("training.workers=1", "resources.task_cpus=5")[0].startswith("resources.task_cpus: no node")
    assert problems(data, [*sets, "training.workers=33"])[0].startswith("training.workers: 33 workers")
    assert problems(data, [*sets, "training.workers=[1, 33]"]) == []
    unknown = Capacity(MACHINE.groups, "this cluster", complete=False)
    assert problems(data, sets, capacity=unknown) == []


def test_run_folder_must_be_writable(data: Path, models: Path) -> None:
    (data / "file").write_text("")
    config = load(PRESET, sets=local(models))
    config = config.model_copy(update={"data": config.data.model_copy(update={"train": [str(data / "coco")]})})
    (line,) = find_problems(config, str(data / "file" / "run"), last="evaluate", capacity=CLOUD)
    assert line.startswith("--run ") and "cannot be written" in line


def test_run_folder_without_credentials_is_one_line(
    data: Path, models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # an instance keeps the credentials that it was made with
    config = load(PRESET, sets=local(models))
    config = config.model_copy(update={"data": config.data.model_copy(update={"train": [str(data / "coco")]})})
    (line,) = find_problems(config, "s3://bucket/run", last="evaluate", capacity=CLOUD)
    assert line.startswith("--run s3://bucket/run: cannot be written: ") and "credentials" in line


def test_node_groups_of_an_autoscaler_file() -> None:
    import yaml

    groups = node_groups(yaml.safe_load((ROOT / "cluster" / "ray-a100.yaml").read_text()))
    capacity = Capacity(groups)
    assert capacity.total("GPU") == 32
    assert capacity.fit({"GPU": 1, "CPU": 1}) == 32
    assert capacity.fit({"GPU": 9}) == 0


def test_check_alone_ends_with_the_problems_and_starts_nothing(data: Path, models: Path) -> None:
    sets = [*local(models), f"engine.clean.detector={models / 'none'}"]
    command = [sys.executable, str(ROOT / "jobs" / "full_pipeline.py"), "--preset", "ram_14m", "--check"]
    command += ["--data", str(data / "a-*.tar"), str(data / "b-*.tar"), "--run", str(data / "checked")]
    command += [part for setting in sets for part in ("--set", setting)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert process.returncode == 2, process
    lines = process.stderr.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["error"] * 4, process.stderr
    assert not process.stdout and not (data / "checked").exists()


def test_a_bundle_must_be_there_and_able_to_do_what_is_asked(data: Path, models: Path, tiny_bundle: str) -> None:
    sets = [*local(models), f"pretrain.start={tiny_bundle}"]
    assert problems(data, sets) == []
    (line,) = problems(data, [*sets, "pretrain.image_size=100"])
    assert line.startswith("pretrain.start: ") and "pretrain.image_size: 100 is not a multiple of 8" in line
    (line,) = problems(data, [*local(models), "retrain.start=/nowhere/ram"])
    assert line == "retrain.start: '/nowhere/ram' cannot be loaded: there is no such file or folder; set retrain.start"
    (line,) = problems(data, [*local(models), f"engine.model={models / 'clip'}"])
    assert line.startswith("engine.model: ") and "is not a model bundle's" in line
    (line,) = problems(data, [*local(models), "engine.model=owner/ram"])
    assert line.startswith("engine.revision: engine.model 'owner/ram' is not pinned; set engine.revision to the commit")


def test_with_a_given_model_pretrain_needs_nothing(data: Path, models: Path, tiny_bundle: str) -> None:
    sets = [*local(models), "pretrain.batch_size=1000", "pretrain.shards=none*", "retrain.start=represent"]
    assert len(problems(data, sets)) > 0
    assert problems(data, [*sets, f"engine.model={tiny_bundle}"]) == []
    (line,) = problems(data, [*sets, f"engine.model={tiny_bundle}", "retrain.start=previous", "retrain.image_size=100"])
    assert "retrain.image_size: 100 is not a multiple of 8" in line
