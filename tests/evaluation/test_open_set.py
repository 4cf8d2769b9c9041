"""Contract: in a run that holds labels out, no row that is trained on and no part of its models has them; they are
scored by label queries on the truth of the evaluation data; named sets are scored beside them, each by itself; a second
call repeats nothing. A bundle that was trained on a held-out label is refused."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ram_ray.config import RunConfig, load
from ram_ray.evaluation.open_set import OpenSetSettings, TruthReader
from ram_ray.evaluation.sets.prepare import read_prepared
from ram_ray.evaluation.systems.predictions import read_truth_rows
from ram_ray.evaluation_results import HeldOutLabels
from ram_ray.inference import Predictor
from ram_ray.label_system import Label, LabelSystem
from ram_ray.pipeline import run_recipe
from ram_ray.records import ANNOTATION, to_table
from ram_ray.training.given_model import check_held_out
from tests.test_pipeline import Log, manifests
from tests.tiny import jpeg
from tests.tiny_clip import save_clip

CAPTIONS = [
    "a red dog with a ball on the beach",
    "a dog and a blue umbrella",
    "a red umbrella on the beach",
    "a blue ball",
    "a dog with a red ball",
    "a blue dog on the beach",
]
SETTINGS = """
name: held_out
data: {duplicates: {same: [], near: null}, min_side: 16}
labels: {max_labels: 20, min_count: 2}
pretrain: {epochs: 1, batch_size: 8, distill_loss: false, image_size: 32, window_size: 4, augment: {randaugment: null}}
engine: {rounds: 0}
model:
  image_size: 32
  swin: {patch_size: 4, window_size: 4, embed_dim: 8, depths: [1, 1], num_heads: [1, 2], drop_path: 0.0}
  recognition: {width: 16, layers: 1, heads: 2, ffn: 32}
  tag_encoder: {width: 16, layers: 1, heads: 2, ffn: 32}
  caption_decoder: {width: 16, layers: 1, heads: 2, ffn: 32}
  vocab_size: 300
  max_positions: 48
  max_tag_tokens: 20
  max_caption_tokens: 20
training: {workers: 1, use_gpu: false, strategy: ddp, precision: fp32, threads: 1, worker_cpus: 1, feed_cpus: 0.75}
resources: {task_cpus: 0.75, actors: 1, threads: 1, shuffle_partitions: 2, num_cpus: 3, object_store_gb: 0.3}
evaluate: {hold_out_labels: [dog, red umbrella], replicates: 50}
"""


def write_shard(path: Path, count: int, *, labels: list[str] | None = None) -> str:
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            caption = CAPTIONS[number % len(CAPTIONS)]
            fields = {"captions": [caption], **({} if labels is None else {"labels": labels[: 1 + number % 2]})}
            for ending, data in (
                ("jpg", jpeg(number, size=(40, 40))),
                ("json", json.dumps(fields).encode()),
            ):
                member = tarfile.TarInfo(f"{number:03}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return str(path)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("data")
    (folder / "config.yaml").write_text(SETTINGS)
    (folder / "clip").mkdir()
    clip = save_clip(folder / "clip")
    (folder / "texts.json").write_text(json.dumps({"dog": ["an animal that barks", "a pet"]}))
    train, held_out, named = (
        write_shard(folder / f"{name}.tar", count, labels=labels)
        for name, count, labels in (("train", 36, None), ("dev", 12, None), ("set", 8, ["beach", "unicorn"]))
    )
    sets = [f"represent.clip={clip}", f"data.train=[{train}]", f"data.eval=[{held_out}]"]
    sets += [f"evaluate.sets=['mine={named}']", f"evaluate.descriptions={folder}/texts.json"]
    return load(folder / "config.yaml", sets=sets)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def labelled(ray_cluster: None, config: RunConfig, folder: str) -> Log:
    """The run up to the annotations that models are trained on."""
    log = Log()
    run_recipe(log.open(folder, last="labels"), config, log)
    return log


@pytest.fixture(scope="module")
def trained(labelled: Log, config: RunConfig, folder: str) -> Log:
    """The same run, its first model trained and scored."""
    log = Log()
    run_recipe(log.open(folder, last="pretrain"), config, log)
    return log


def test_no_training_sees_a_held_out_label(labelled: Log, folder: str) -> None:
    labels = labelled.results["hold_out"]
    assert isinstance(labels, HeldOutLabels) and (labels.held_out, labels.compounds) == (1, 1)
    system, all_labels = LabelSystem.load(labels.uri), LabelSystem.load(labels.all_uri)
    assert set(all_labels.names) - set(system.names) == {"dog"} and "umbrella" in system.names
    rows = [
        row
        for file in Path(labelled.results["labels"].path).rglob("*.parquet")
        for row in pq.read_table(file).to_pylist()
    ]
    assert len(rows) == 36
    texts = [caption["text"] for row in rows for caption in row["captions"]]
    assert sorted(set(texts)) == ["a blue ball"], "the others name a dog or a red umbrella"
    tagged = {system[tag["id"]].name for row in rows for tag in row["tags"]}
    assert {"ball", "beach", "red", "blue", "umbrella"} <= tagged, "images keep their other tags"
    assert LabelSystem.load(f"{folder}/label_system.json").names == system.names
    assert LabelSystem.load(f"{folder}/held_out_labels.json").names == ["dog", "red umbrella"]


@pytest.mark.slow  # a training
def test_a_trained_bundle_does_not_know_a_held_out_label(trained: Log) -> None:
    bundle = Predictor.from_pretrained(trained.results["pretrain"].path, device="cpu")
    assert bundle.labels.names == LabelSystem.load(trained.results["hold_out"].uri).names


@pytest.mark.slow  # a training
def test_they_are_scored_by_label_queries(trained: Log) -> None:
    eval_set = read_prepared(trained.results["open_set"].path)
    assert eval_set.classes == ["dog", "red umbrella"] and eval_set.exact and eval_set.images == 12
    truth = [sorted(row[0]) for _, row in sorted(read_truth_rows(eval_set).items())]
    assert truth == [["dog"], ["dog"], ["red umbrella"], [], ["dog"], ["dog"]] * 2
    score = trained.results["evaluate_pretrain_open_set"]
    plain, described = score.figures["templates"], score.figures["descriptions"]
    assert plain.matched_by == {"open": 2} and described.matched_by == {"described": 1, "open": 1}
    assert plain.mean_prevalence == pytest.approx((8 / 12 + 2 / 12) / 2) and plain.num_classes == 2
    assert 0 < plain.mAP <= 1 and plain.interval[0] <= plain.mAP <= plain.interval[1]
    assert score.difference["second"] - score.difference["first"] == pytest.approx(described.mAP - plain.mAP)
    per_class = json.loads(Path(score.summary).read_text())["templates"]["per_class"]
    assert [line["class"] for line in per_class] == ["dog", "red umbrella"]
    assert np.mean([line["ap"]["value"] for line in per_class]) == pytest.approx(plain.mAP)


@pytest.mark.slow  # a training
def test_a_named_set_is_scored_by_itself_and_held_out_images_as_always(trained: Log, folder: str) -> None:
    mine = trained.results["evaluate_pretrain_mine"]
    assert (mine.images, mine.figures["templates"].matched_by) == (8, {"name": 1, "open": 1})
    assert trained.results["evaluate_pretrain"].images == 12
    assert {line.stage: line.mAP for line in trained.lines}["pretrain"] == trained.results["evaluate_pretrain"].mAP
    root = Path(folder)
    assert set(json.loads((root / "evaluation/sets.json").read_text())) == {"mine", "open_set"}
    assert not list((root / "work").rglob("*.parquet"))


@pytest.mark.slow  # a training
def test_a_second_call_repeats_nothing(trained: Log, config: RunConfig, folder: str) -> None:
    before = manifests(folder)
    again = Log()
    run_recipe(again.open(folder, last="pretrain"), config, again)
    assert again.made == [] and manifests(folder) == before
    assert again.results["evaluate_pretrain_open_set"] == trained.results["evaluate_pretrain_open_set"]


def test_a_bundle_that_knows_a_held_out_label_is_refused(labelled: Log, tiny_bundle: str) -> None:
    with pytest.raises(ValueError, match=r"tiny_bundle.*/bundle, which .* starts from, was trained on dog; hold out"):
        check_held_out(labelled.results["hold_out"], source=tiny_bundle, revision=None)


def test_the_truth_of_an_image_without_one_is_not_made_up() -> None:
    system = LabelSystem([Label(0, "dog", "object"), Label(1, "ball", "object")])
    held_out = LabelSystem([Label(0, "dog", "object")])
    location = {"shard": "s", "uri": "u", "offset": 0, "nbytes": 9}
    rows = [
        {"key": "labelled", **location, "captions": [], "truth": [0, 1], "unknown_labels": []},
        {"key": "nothing", **location, "captions": [], "truth": None, "unknown_labels": []},
        {"key": "empty", **location, "captions": [], "truth": [], "unknown_labels": []},
        {"key": "rejected", **location, "captions": [], "truth": [0], "unknown_labels": [], "reason": "truncated"},
    ]
    reader = TruthReader(system, held_out, OpenSetSettings.from_config(RunConfig()))
    found = {row["key"]: row["truth"] for row in reader(to_table(rows, ANNOTATION)).to_pylist()}
    assert found == {"labelled": ["dog"], "empty": []}
