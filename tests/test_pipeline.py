"""Contract: the whole recipe runs, its counts reconcile, and a second call repeats nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ram_ray.config import RunConfig, load
from ram_ray.reporting.run_log import RunLog
from ram_ray.runtime.artifacts import StageResult

TINY = Path(__file__).with_name("tiny_run.yaml")


@pytest.fixture(scope="module")
def run_folder(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("run"))
    run(load(TINY), folder)
    return folder


def run(config: RunConfig, folder: str, *, last: str | None = None) -> Log:
    """Run the recipe; its log, and the results by stage."""
    from ram_ray.pipeline import run_recipe

    log = Log()
    run_recipe(log.open(folder, last=last), config, log)
    return log


class Log(RunLog):
    """Keeps all results by stage."""

    def __init__(self) -> None:
        super().__init__()
        self.results: dict[str, Any] = {}

    def on_result(self, result: StageResult, is_reused: bool) -> None:
        self.results[result.stage] = result
        super().on_result(result, is_reused)

    @property
    def made(self) -> list[str]:
        """Stages of the table that this call made."""
        return [line.stage for line in self.lines if not line.reused]


def manifests(folder: str) -> dict[str, dict]:
    trees = [
        json.loads(file.read_text())
        for kind in ("annotations", "models", "evaluation")
        for file in Path(folder, kind).glob("*/*.json")
    ]
    return {tree["stage"]: tree for tree in trees if "digest" in tree}


def test_every_stage_leaves_a_manifest_and_rows_reconcile(run_folder: str) -> None:
    stages = manifests(run_folder)
    assert {
        "shards",
        "represent",
        "parse",
        "labels",
        "pretrain",
        "generate_1",
        "clean_1",
        "retrain_1",
        "finetune",
    } <= set(stages)
    for name in ("shards", "parse", "labels", "generate_1", "clean_1"):
        counts = stages[name]
        assert counts["rows_in"] == counts["rows_out"] + counts["rejected"] == 100, name
    assert not Path(run_folder, "work").exists() or not any(Path(run_folder, "work").rglob("*.parquet"))


def test_the_plan_of_the_run_has_its_rows_and_files(run_folder: str, ray_cluster: None) -> None:
    """Of every stage over rows, as Ray Data divides them; groups of labels follow from tags, which a plan guesses."""
    from dataclasses import replace

    import ray

    from ram_ray.planning.cluster import read_cluster
    from ram_ray.planning.constants import shipped_constants
    from ram_ray.planning.earlier_run import content_constants, plan_run, read_run
    from ram_ray.planning.page import compare

    earlier = read_run(run_folder)
    workload = replace(earlier.workload, shard_rows=(20, 40, 40), held_out_shard_rows=(20,))  # clean, and two of web
    cluster = read_cluster([f"tests=1,memory=8,cpus={ray.cluster_resources()['CPU']:g}"])
    constants = content_constants(earlier, shipped_constants())
    rows = {row["stage"]: row for row in compare(plan_run(earlier, cluster, constants, workload=workload), earlier)}
    exact = [
        *("shards", "shards_eval", "vocabulary", "parse", "parse_eval", "label_system", "labels", "labels_eval"),
        *("pretrain", "scores_1", "thresholds_1", "generate_1", "regions_1", "clean_1", "retrain_1", "finetune"),
    ]
    for name in exact:
        row = rows[name]
        assert row["files_planned"] == row["files"], row
        assert row["rows"] in (None, row["rows_planned"]), row
    assert abs(rows["removals_1"]["files_planned"] - rows["removals_1"]["files"]) <= 3  # a group has three files
    made = {name for name in manifests(run_folder) if not name.startswith(("scenes", "synthesize", "tag_", "sample_"))}
    assert made == set(rows)


def test_engine_adds_and_removes_tags_with_provenance(run_folder: str) -> None:
    import pyarrow.parquet as pq

    stages = manifests(run_folder)
    tags = {name: stages[name]["tags"] for name in ("labels", "generate_1", "clean_1")}
    assert stages["generate_1"]["added"] == tags["generate_1"] - tags["labels"] > 0
    rows = [
        row
        for file in Path(stages["clean_1"]["path"]).rglob("*.parquet")
        for row in pq.read_table(file, partitioning=None).to_pylist()
    ]
    assert len({row["key"] for row in rows}) == len(rows) == 100
    removed = [removal for row in rows for removal in row["removed"]]
    assert {removal["reason"] for removal in removed} <= {"outlier", "disagreement"} and removed
    assert len(removed) == tags["generate_1"] - tags["clean_1"]
    assert {tag["origin"] for row in rows for tag in row["tags"]} <= {
        "parsed",
        "matched",
        "generated_caption",
        "tagger",
    }


def test_report_names_every_stage_and_scores_three_models(run_folder: str) -> None:
    report = json.loads(Path(run_folder, "evaluation", "report.json").read_text())
    by_stage = {line["stage"]: line for line in report["stages"]}
    assert all(by_stage[name]["mAP"] is not None for name in ("pretrain", "retrain_1", "finetune"))
    assert all(0 < by_stage[name]["recall"] <= 1 for name in ("labels", "generate_1", "clean_1"))
    assert report["mAP"] == by_stage["finetune"]["mAP"] and 0 < report["mean_prevalence"] < 1
    page = Path(run_folder, "evaluation", "report.html").read_text()
    assert len(page) > 1000 and "Losses" in page and 'href="classes/held_out/index.html"' in page


def test_the_run_leaves_pages_of_its_classes(run_folder: str) -> None:
    from ram_ray.evaluation.class_details import CLASSES_FILE, read_details

    score = manifests(run_folder)["evaluate_finetune"]
    details = list(read_details(f"{score['path']}/{CLASSES_FILE}"))
    report = json.loads(Path(run_folder, "evaluation", "report.json").read_text())
    assert [row["class"] for row in sorted(details, key=lambda row: row["index"])] == [
        line["tag"] for line in report["per_tag"]
    ]
    assert {row["num_images"] for row in details} == {score["images"]}
    (file,) = Path(run_folder, "evaluation", "classes", "held_out").iterdir()
    text = file.read_text()
    assert text.count("<section ") == len(details) and "The model finetune on" in text
    num_images = sum(len(row["images"]) for row in details)
    assert text.count("<img ") == num_images > len(details) and "cannot be read" not in text
    assert 'href="../../report.html"' in text


def test_every_trained_model_has_its_metrics(run_folder: str) -> None:
    stages = manifests(run_folder)
    for name in ("represent", "pretrain", "retrain_1", "finetune"):
        lines = Path(stages[name]["path"], "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, stages[name]["steps"] + 1)), name


def test_the_page_of_the_data_engine_shows_what_it_did(run_folder: str) -> None:
    page = Path(run_folder, "evaluation", "engine.html").read_text()
    stages = manifests(run_folder)
    assert f"{stages['clean_1']['tags']:,}" in page and "Why tags were removed" in page
    shown = stages["sample_images_clean_1"]["thumbnails"]
    assert page.count("data:image/jpeg") == shown > 50 and "cannot be read" not in page
    assert 'class="thumbnail true"' in page and 'class="thumbnail false"' in page and "cluster 0" in page
    shares = stages["tag_statistics_clean_1"]["shares"]
    assert 0 < shares["true_removed"] < 1 and 0 < shares["recovered"] < 1
    assert len(page) < 10e6


def test_a_second_call_repeats_nothing(run_folder: str, ray_cluster: None) -> None:
    before = {file: file.stat().st_mtime_ns for file in Path(run_folder).rglob("*.parquet")}
    again = run(load(TINY), run_folder)
    assert again.lines and again.made == []
    assert {file: file.stat().st_mtime_ns for file in Path(run_folder).rglob("*.parquet")} == before


def test_a_changed_setting_repeats_only_what_depends_on_it(run_folder: str, ray_cluster: None) -> None:
    changed = run(load(TINY, sets=["engine.clean.expected_wrong_share=0.2"]), run_folder, last="clean")
    assert changed.made == ["clean_1"] and changed.lines[-1].stage == "clean_1"


def test_a_detector_sees_only_images_in_doubt(run_folder: str, ray_cluster: None) -> None:
    from ram_ray.data_engine.crops import KINDS_WITH_REGION
    from ram_ray.data_engine.doubts import read_doubts
    from ram_ray.label_system import LabelSystem

    changed = run(load(TINY, sets=["engine.clean.doubt_share=0.02"]), run_folder, last="clean")
    assert changed.made == ["clean_1"]
    regions, limits = changed.results["regions_1"], read_doubts(changed.results["doubts_1"].uri)
    labels = LabelSystem.load(changed.results["label_system"].uri)
    seen = []
    for image in _rows(regions.path, ["regions"]):
        doubted = [
            region["image_score"] < limits[region["tag"]]
            for region in image["regions"]
            if region["positive"] and labels[region["tag"]].kind in KINDS_WITH_REGION
        ]
        assert {region["detected"] for region in image["regions"]} == {any(doubted)}
        seen.append(any(doubted))
    assert regions.detected == sum(seen) > 0 and np.isfinite(limits).any()


@pytest.mark.slow  # trains another model; no preset has a second round
def test_a_second_round_goes_on_from_the_first(run_folder: str, ray_cluster: None) -> None:
    log = run(load(TINY, sets=["engine.rounds=2"]), run_folder, last="retrain")
    assert log.made == ["generate_2", "clean_2", "retrain_2"]
    first, second = (_removed(log.results[name].path) for name in ("clean_1", "clean_2"))
    assert first.keys() == second.keys() and any(len(second[key]) > len(first[key]) for key in first)
    for key, removals in first.items():
        assert second[key][: len(removals)] == removals, "what was removed before is not lost"
        assert {removal["round"] for removal in second[key][len(removals) :]} <= {2}


@pytest.mark.slow  # trains two more models
def test_each_part_is_scored_by_a_model_that_did_not_learn_from_it(run_folder: str, ray_cluster: None) -> None:
    """Thresholds are calibrated on all images, and only what depends on the folds is made anew."""
    import pyarrow.parquet as pq

    from ram_ray.data.folds import fold_index

    sets = ["engine.folds=2", "engine.generate={threshold: null, precision: 0.2}"]
    log = run(load(TINY, sets=sets), run_folder, last="generate")
    assert log.made == ["pretrain_fold_0", "pretrain_fold_1", "generate_1"]
    folds = [fold_index(key, 2) for key in _keys(log.results["labels"].path)]
    models = [log.results[f"pretrain_fold_{number}"] for number in range(2)]
    assert [model.fold for model in models] == [0, 1]
    assert [100 - model.rows_in for model in models] == pytest.approx(
        [folds.count(number) for number in range(2)], abs=3
    )
    limits = Path(run_folder, "annotations", "thresholds_1")
    (table,) = [json.loads(file.read_text()) for file in limits.glob("*/thresholds.json")]
    assert {len(line["thresholds"]) for line in table["tags"]} == {2} and table["vote_odds"][0] == 1
    generated = log.results["generate_1"]
    curve = json.loads(Path(generated.path, "curve.json").read_text())
    assert curve["held_out"] and curve["num_images"] == curve["labelled_images"] == 100
    assert all(point["estimated"] is not None and point["baseline_recall"] <= 1 for point in curve["points"])
    assert generated.added == generated.added_generated_caption + generated.added_tagger
    assert generated.added == generated.added_correct + generated.added_wrong
    rows = [row for file in Path(generated.path).rglob("*.parquet") for row in pq.read_table(file).to_pylist()]
    added = [tag for row in rows for tag in row["tags"] if tag["origin"] in ("generated_caption", "tagger")]
    assert len(added) == generated.added and all(0 < tag["score"] <= 1 for tag in added)


def _rows(path: str, columns: list[str]) -> list[dict]:
    import pyarrow.parquet as pq

    files = sorted(Path(path).rglob("*.parquet"))
    return [row for file in files for row in pq.read_table(file, columns=columns, partitioning=None).to_pylist()]


def _removed(path: str) -> dict[str, list[dict]]:
    """What each image lost, in order, of cleaned annotations."""
    import pyarrow.parquet as pq

    tables = [
        pq.read_table(file, columns=["key", "removed"], partitioning=None) for file in Path(path).rglob("*.parquet")
    ]
    return {row["key"]: row["removed"] for table in tables for row in table.to_pylist()}


def _keys(path: str) -> list[str]:
    import pyarrow.parquet as pq

    files = Path(path).rglob("*.parquet")
    return [key for file in files for key in pq.read_table(file, columns=["key"], partitioning=None)["key"].to_pylist()]


@pytest.mark.parametrize(
    ("sets", "last", "line"),
    [
        (["labels.min_count=101"], "labels", "labels.min_count: no name of the kinds "),
        (["pretrain.batch_size=101", "pretrain.epochs=1"], "pretrain", "pretrain.batch_size: 1 epochs of "),
    ],
    ids=["labels", "pretrain"],
)
def test_too_little_data_is_one_line(run_folder: str, ray_cluster: None, sets: list[str], last: str, line: str) -> None:
    """What only a stage can count; `tests/runtime/test_outcome.py` has how an error is shown."""
    with pytest.raises(ValueError, match="lower, or give more data$") as error:
        run(load(TINY, sets=sets), run_folder, last=last)
    assert str(error.value).startswith(line) and "\n" not in str(error.value)


def frozen_encoder(text_encoder: str, weights: str) -> list[str]:
    """Settings of trainings on stored views of a frozen image encoder."""
    section = "{backbone_lr: 0, distill_loss: false, views: 2, copy_side: null, image_size: 64}"
    return [
        f"represent.text_encoder={text_encoder}",
        f"model.image_encoder={{name: test_resnet, weights: {weights}}}",
        "model.image_proj=null",
        "model.image_size=64",
        *(f"{name}={section}" for name in ("pretrain", "retrain", "finetune")),
        "engine.clean.detector=whole_image",
    ]


def test_a_training_reads_the_tokens_that_its_frozen_encoder_stored(
    run_folder: str, ray_cluster: None, tmp_path: Path
) -> None:
    import timm
    import torch

    from tests.models.test_towers import write_bert

    text = write_bert(tmp_path / "text", pooling={"pooling_mode_mean_tokens": True})
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "encoder.pth")
    sets = frozen_encoder(str(text), f"{tmp_path}/encoder.pth")
    log = run(load(TINY, sets=sets), run_folder, last="pretrain")
    encoded, trained = log.results["encode"], log.results["pretrain"]
    assert encoded.rows_in == encoded.rows_out == 100 and encoded.rejected == 0
    assert encoded.nbytes == sum(file.stat().st_size for file in Path(encoded.path, "tokens").iterdir())
    assert (trained.rows_in, trained.rejected, trained.image_size) == (100, 0, 64)


def test_the_bundle_tags_images_by_itself(run_folder: str) -> None:
    from PIL import Image

    from ram_ray.inference.predictor import Predictor

    predictor = Predictor.from_pretrained(manifests(run_folder)["finetune"]["path"], threads=1)
    assert predictor.image_size == 48
    (tags,) = predictor.tag([Image.new("RGB", (60, 40), "red")], top_k=3)
    assert len(tags) == 3 and all(tag.id is not None for tag in tags)


def test_the_data_engine_scores_with_a_given_bundle_and_a_round_that_changes_little_is_the_last(
    run_folder: str, ray_cluster: None
) -> None:
    """No model is trained before the data engine; a round that changes less than all tags ends the run and says so."""
    bundle = manifests(run_folder)["finetune"]["path"]
    sets = [f"engine.model={bundle}", "engine.rounds=3", "engine.min_change=0.99", "engine.generate.threshold=0.999"]
    earlier = set(Path(run_folder, "annotations/scores_1").glob("*.json"))
    log = run(load(TINY, sets=sets), run_folder, last="retrain")
    given, generated = log.results["given"], log.results["generate_1"]
    assert [line.stage for line in log.lines] == ["shards", "represent", "parse", "labels", *log.made]
    assert log.made == ["given", "generate_1", "clean_1"]
    assert Path(f"{log.results['scores_1'].path}.json") not in earlier  # scored by the given model
    labels = log.results["label_system"].labels
    assert (given.kept, given.new, given.dropped, given.image_size) == (labels, 0, 0, 48)
    finetuned = manifests(run_folder)["evaluate_finetune"]
    assert log.results["evaluate_given"].mAP == pytest.approx(finetuned["mAP"], rel=1e-4)
    (note,) = (note for note in log.notes if note.startswith("stopped in round 1: "))
    assert f": it added {generated.added:,} tags " in note and "99.00%" in note and note in log.table()


def test_labels_are_added_to_a_given_bundle(run_folder: str, ray_cluster: None, tmp_path: Path) -> None:
    from ram_ray.cli.given_bundle import finetune_sets
    from ram_ray.label_system import LabelSystem

    bundle = manifests(run_folder)["finetune"]["path"]
    (tmp_path / "labels.txt").write_text("zebra\nyellow umbrella\n")
    sets = finetune_sets(bundle, add_labels=f"{tmp_path}/labels.txt")
    log = run(load(TINY, sets=[*sets, "finetune.epochs=1"]), run_folder, last="finetune")
    old, new = (LabelSystem.load(f"{path}/label_system.json") for path in (bundle, log.results["finetune"].path))
    assert new.names == [*old.names, "zebra", "yellow umbrella"]
    assert (log.results["given"].kept, log.results["given"].new) == (len(old), 2) and log.results["given"].dropped == 0
    assert "pretrain" not in log.made and log.made[-1] == "finetune"
    lines = Path(log.results["finetune"].path, "metrics.jsonl").read_text().splitlines()
    assert all({"kept", "tag", "text"} <= json.loads(line)["losses"].keys() for line in lines) and lines
