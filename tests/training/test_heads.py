"""Contract: the heads of other papers go through the one trainer, with two workers under DeepSpeed, and their bundles
are scored and served as those of our own head; what is not distilled is said in one line."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import load_file

from ram_ray.ablation.heads import OwnLabels, count_weights, head_variants
from ram_ray.ablation.held_out_set import make_set
from ram_ray.ablation.runs import check_config, run_ablation
from ram_ray.config import RunConfig, load
from ram_ray.evaluation.measure_scores import Measuring, measure_scores
from ram_ray.evaluation.score_set import score_set
from ram_ray.inference.predictor import Predictor
from ram_ray.label_system import Label, LabelSystem
from ram_ray.models.bundle import load_bundle
from ram_ray.serving.api import create_api
from ram_ray.serving.tagger import LocalTagger
from ram_ray.settings.serving import ServeConfig
from ram_ray.training.metrics import METRICS
from tests.models.test_towers import write_bert
from tests.test_pipeline import TINY, run
from tests.tiny import NAMES, config, jpeg, tokenizer
from tests.training.test_build import _job

SETS = [
    "data.drawn={num_web: 40, num_eval: 10}",
    "represent.num_captions=10",
    "model.ml_decoder={width: 16, heads: 2, ffn: 32, groups: 8}",
    "training={workers: 2, strategy: deepspeed, zero_stage: 1, worker_cpus: 0.5, feed_cpus: 0.5}",
]
ROWS = ("ml_decoder", "mkt")
HEADS = ("ours", "ml_decoder", "ml_decoder_texts", "mkt", "mkt_own_loss")


@pytest.fixture(scope="module")
def variants() -> dict[str, RunConfig]:
    return head_variants(check_config(load(TINY, sets=SETS), table="heads"))


@pytest.fixture(scope="module")
def logs(variants: dict[str, RunConfig], ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The logs of two rows' runs up to pretrain, in one folder."""
    folder = str(tmp_path_factory.mktemp("run"))
    return {name: run(variants[name], folder, last="pretrain") for name in ROWS}


def test_rows_are_the_same_training_with_another_head(variants: dict[str, RunConfig]) -> None:
    assert tuple(variants) == HEADS
    ours, ml_decoder, texts, mkt, own_loss = variants.values()
    assert not any(row.model.captions or row.pretrain.caption_loss or row.engine.rounds for row in variants.values())
    assert ours.model.head == "recognition" and ml_decoder.pretrain == texts.pretrain == ours.pretrain
    assert texts.model.ml_decoder.text_queries and not ml_decoder.model.ml_decoder.text_queries
    assert (mkt.pretrain.tag_loss.kind, mkt.pretrain.distill_loss) == ("ranking", True)
    assert own_loss.pretrain.tag_loss == ours.pretrain.tag_loss and not own_loss.pretrain.distill_loss
    apart = load(TINY, sets=[*SETS, "represent.text_encoder=a/b", "represent.text_revision=c", "engine.rounds=0"])
    assert not head_variants(apart)["mkt"].pretrain.distill_loss, "no dual encoder"
    with pytest.raises(ValueError, match="pretrain.start ./bundle is a bundle, whose head takes the place"):
        check_config(load(TINY, sets=["pretrain.start=./bundle"]), table="heads")
    with pytest.raises(ValueError, match="row 'ml_decoder': model: head ml_decoder is for architecture ram"):
        undistilled = [f"{name}.distill_loss=false" for name in ("pretrain", "retrain", "finetune")]
        check_config(
            load(TINY, sets=["model.architecture=tag2text", "model.label_width=16", *undistilled]), table="heads"
        )


@pytest.mark.slow  # two trainings, each in a run
def test_two_workers_train_each_head_on_the_same_rows(logs: dict[str, Any]) -> None:
    first, second = (log.results["pretrain"] for log in logs.values())
    assert first.strategy == second.strategy == "deepspeed" and first.steps == second.steps > 5
    assert logs["mkt"].made == ["pretrain"], "the stages before it are shared"
    for name, trained in zip(ROWS, (first, second), strict=True):
        lines = [json.loads(line)["losses"] for line in Path(trained.path, METRICS).read_text().splitlines()]
        assert len(lines) == trained.steps and "distill" in lines[0], "as the recipe asks for, whatever the head"
        weights = load_file(f"{trained.path}/model.safetensors")
        own = {key: value for key, value in weights.items() if key.startswith("recognition.")}
        counted = count_weights(f"{trained.path}/model.safetensors", prefix="recognition.")
        assert counted == sum(value.numel() for value in own.values())
        model = load_bundle(trained.path).model
        assert model.config.head == name and all(value.isfinite().all() for value in own.values())
    bias = load_file(f"{first.path}/model.safetensors")["recognition.groups.bias"]
    assert (bias != 0).all(), "it began at 0"


@pytest.mark.slow  # two trainings, each in a run
def test_a_bundle_is_scored_as_the_stage_evaluate_scores_it(
    logs: dict[str, Any], variants: dict[str, RunConfig], tmp_path: Path
) -> None:
    results = logs["ml_decoder"].results
    settings, labels = variants["ml_decoder"], LabelSystem.load(results["label_system"].uri)
    eval_set = make_set(results["labels_eval"], labels, f"{tmp_path}/set", config=settings)
    assert eval_set.images == 10 and len(eval_set.classes) == len(labels)
    system, how = OwnLabels("ml_decoder", results["pretrain"].path), {"batch_size": 8, "execution": settings.execution}
    score_set(system, eval_set, f"{tmp_path}/scores", **how)
    measuring = Measuring(min_positives=settings.evaluate.min_positives)
    measured = measure_scores(f"{tmp_path}/scores", measuring)
    figure = measured.summary(min_positives=measuring.min_positives)["mAP"]
    assert figure["value"] == pytest.approx(results["evaluate_pretrain"].mAP, abs=1e-4)
    assert figure["interval"][0] < figure["value"] < figure["interval"][1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_a_bundle_is_served(logs: dict[str, Any], name: str) -> None:
    predictor = Predictor.from_pretrained(logs[name].results["pretrain"].path, device="cpu", threads=1)
    image = jpeg(1)
    with TestClient(create_api(LocalTagger(predictor, model=name), ServeConfig())) as client:
        answer = client.post("/v1/tag", files=[("images", ("1.jpg", image))], data={"top_k": "3"}).json()
        (tags,) = predictor.tag([image], top_k=3)
        assert [tag["tag"] for tag in answer["images"][0]["tags"]] == [tag.tag for tag in tags]
        own = client.post("/v1/tag", files=[("images", ("1.jpg", image))], data={"tags": "a blue boat, a lamp"})
    if name == "mkt":
        assert len(own.json()["images"][0]["tags"]) == 2
    else:
        assert "answers for its own tags alone" in own.json()["images"][0]["error"]["message"]


def test_what_is_not_distilled_is_said_by_one_worker(
    process_group: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_bert(tmp_path / "teacher", pooling={"pooling_mode_mean_tokens": True})
    LabelSystem(Label(id, name, "object") for id, name in enumerate(NAMES)).save(f"{tmp_path}/labels.json")
    tokenizer().save(tmp_path)
    caplog.set_level(logging.INFO, logger="ram_ray")
    said = {}
    for head, distill in (("mkt", True), ("mkt", False), ("recognition", True)):
        job = _job(tmp_path, config(head=head), start="scratch", distill_loss=distill)
        dataclasses.replace(job, feed=dataclasses.replace(job.feed, tokenizer=str(tmp_path))).build(torch.device("cpu"))
        said[head, distill] = [record.getMessage() for record in caplog.records]
        caplog.clear()
    line = "pretrain: nothing is distilled to the head MKT: "
    assert said["mkt", True] == [f"{line}{tmp_path}/teacher embeds texts alone"]
    assert said["mkt", False] == [f"{line}distill_loss is false"] and said["recognition", True] == []


@pytest.mark.slow  # five trainings
def test_the_table_of_heads_on_drawn_scenes(ray_cluster: None, tmp_path: Path) -> None:
    result = run_ablation(check_config(load(TINY, sets=SETS), table="heads"), str(tmp_path), table="heads", seeds=[0])
    assert not result["failed"] and [row["row"] for row in result["rows"]] == list(HEADS)
    assert result == json.loads((tmp_path / "ablation_heads.json").read_text())
    ours, *others = result["rows"]
    for row in others:
        assert row["gain"]["mean"] == pytest.approx(row["mAP"]["mean"] - ours["mAP"]["mean"])
    tree = json.loads((tmp_path / "seed_0/heads/benchmark.json").read_text())["sets"]["held_out"]
    assert list(tree["systems"]) == list(HEADS) and tree["images"] == 10
    for row in result["rows"]:
        assert tree["systems"][row["row"]]["mAP"]["value"] == pytest.approx(row["mAP"]["mean"], abs=1e-4)
    assert tree["systems"]["mkt"]["difference_of_mAP"]["p_value"] <= 1
