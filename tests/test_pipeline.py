"""Contract: the whole recipe runs, its counts reconcile, and a second call repeats nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ram_ray.config import RunConfig, load

TINY = Path(__file__).with_name("tiny_run.yaml")


@pytest.fixture(scope="module")
def run_folder(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    from ram_ray.pipeline import Pipeline

    folder = str(tmp_path_factory.mktemp("run"))
    Pipeline(load(TINY), folder)()
    return folder


def manifests(folder: str) -> dict[str, dict]:
    found = [
        json.loads(file.read_text())
        for kind in ("annotations", "models", "evaluation")
        for file in Path(folder, kind).glob("*/*.json")
    ]
    return {one["stage"]: one for one in found if "digest" in one}


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
        counts = stages[name]["counts"]
        assert counts["rows_in"] == counts["rows_out"] + counts["rejected"] == 100, name
    assert not Path(run_folder, "work").exists() or not any(Path(run_folder, "work").rglob("*.parquet"))


def test_engine_adds_and_removes_tags_with_provenance(run_folder: str) -> None:
    import pyarrow.parquet as pq

    stages = manifests(run_folder)
    assert stages["generate_1"]["counts"]["tags"] > stages["labels"]["counts"]["tags"]
    rows = [
        row
        for file in Path(stages["clean_1"]["path"]).rglob("*.parquet")
        for row in pq.read_table(file, partitioning=None).to_pylist()
    ]
    assert len({row["key"] for row in rows}) == len(rows) == 100
    removed = [one for row in rows for one in row["removed"]]
    assert {one["reason"] for one in removed} <= {"outlier", "disagreement"} and removed
    assert len(removed) == stages["generate_1"]["counts"]["tags"] - stages["clean_1"]["counts"]["tags"]
    assert {tag["origin"] for row in rows for tag in row["tags"]} <= {
        "parsed",
        "matched",
        "generated_caption",
        "tagger",
    }


def test_report_names_every_stage_and_scores_three_models(run_folder: str) -> None:
    report = json.loads(Path(run_folder, "evaluation", "report.json").read_text())
    by_stage = {one["stage"]: one for one in report["stages"]}
    assert all(by_stage[name]["mAP"] is not None for name in ("pretrain", "retrain_1", "finetune"))
    assert all(0 < by_stage[name]["recall"] <= 1 for name in ("labels", "generate_1", "clean_1"))
    assert report["mAP"] == by_stage["finetune"]["mAP"] and 0 < report["mean_prevalence"] < 1
    assert Path(run_folder, "evaluation", "report.html").stat().st_size > 1000


def test_the_page_of_the_data_engine_shows_what_it_did(run_folder: str) -> None:
    page = Path(run_folder, "evaluation", "engine.html").read_text()
    counts = manifests(run_folder)
    assert f"{counts['clean_1']['counts']['tags']:,}" in page and "Why tags went" in page
    shown = counts["look_clean_1"]["counts"]["pictures"]
    assert page.count("data:image/jpeg") == shown > 50 and "cannot be read" not in page
    assert 'class="shot true"' in page and 'class="shot false"' in page and "cluster 0" in page
    tally = counts["tally_clean_1"]["counts"]
    assert 0 < tally["true_removed"] < 1 and 0 < tally["recovered"] < 1
    assert len(page) < 10e6


def test_a_second_call_repeats_nothing(run_folder: str, ray_cluster: None) -> None:
    from ram_ray.pipeline import Pipeline

    before = {file: file.stat().st_mtime_ns for file in Path(run_folder).rglob("*.parquet")}
    again = Pipeline(load(TINY), run_folder)
    again()
    assert all(line.reused for line in again.lines)
    assert {file: file.stat().st_mtime_ns for file in Path(run_folder).rglob("*.parquet")} == before


def test_a_changed_setting_repeats_only_what_depends_on_it(run_folder: str, ray_cluster: None) -> None:
    from ram_ray.pipeline import Pipeline

    config: RunConfig = load(TINY, sets=["engine.clean.outliers=0.2"])
    changed = Pipeline(config, run_folder, last="clean")
    changed()
    assert [line.stage for line in changed.lines if not line.reused] == ["clean_1"]


def test_the_bundle_tags_pictures_by_itself(run_folder: str) -> None:
    from PIL import Image

    from ram_ray.inference import Predictor

    predictor = Predictor.from_pretrained(manifests(run_folder)["finetune"]["path"], threads=1)
    assert predictor.image_size == 48
    (tags,) = predictor.tag([Image.new("RGB", (60, 40), "red")], top_k=3)
    assert len(tags) == 3 and all(tag.id is not None for tag in tags)
