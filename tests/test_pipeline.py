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
    assert stages["generate_1"]["counts"]["added"] == (
        stages["generate_1"]["counts"]["tags"] - stages["labels"]["counts"]["tags"]
    )
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


@pytest.mark.slow  # trains two more models
def test_folds_are_judged_by_models_that_did_not_see_them(run_folder: str, ray_cluster: None) -> None:
    """Thresholds are calibrated on all pictures, and only what depends on the folds is made anew."""
    import pyarrow.parquet as pq

    from ram_ray.data.parts import part_index
    from ram_ray.pipeline import Pipeline

    sets = ["engine.folds=2", "engine.generate={threshold: null, precision: 0.2}"]
    pipeline = Pipeline(load(TINY, sets=sets), run_folder, last="generate")
    pipeline()
    made = [line.stage for line in pipeline.lines if not line.reused]
    assert made == ["pretrain_fold_0", "pretrain_fold_1", "generate_1"]
    parts = [part_index(key, 2) for key in _keys(pipeline.made["labels"].path)]
    trained = [pipeline.made[f"pretrain_fold_{number}"].counts["rows_in"] for number in range(2)]
    assert [100 - one for one in trained] == pytest.approx([parts.count(number) for number in range(2)], abs=3)
    limits = Path(run_folder, "annotations", "thresholds_1")
    (table,) = [json.loads(file.read_text()) for file in limits.glob("*/thresholds.json")]
    assert {len(line["thresholds"]) for line in table["tags"]} == {2} and table["vote_odds"][0] == 1
    generated = pipeline.made["generate_1"]
    curve = json.loads(Path(generated.path, "curve.json").read_text())
    assert curve["held_out"] and curve["pictures"] == curve["labelled"] == 100
    assert all(one["estimated"] is not None and one["baseline_recall"] <= 1 for one in curve["points"])
    counts = generated.counts
    assert counts["added"] == counts["added_generated_caption"] + counts["added_tagger"]
    assert counts["added"] == counts["added_right"] + counts["added_wrong"]
    rows = [row for file in Path(generated.path).rglob("*.parquet") for row in pq.read_table(file).to_pylist()]
    added = [tag for row in rows for tag in row["tags"] if tag["origin"] in ("generated_caption", "tagger")]
    assert len(added) == counts["added"] and all(0 < tag["score"] <= 1 for tag in added)


def _keys(path: str) -> list[str]:
    import pyarrow.parquet as pq

    files = Path(path).rglob("*.parquet")
    return [key for file in files for key in pq.read_table(file, columns=["key"], partitioning=None)["key"].to_pylist()]


def test_a_round_that_changes_little_is_the_last_and_says_so(run_folder: str, ray_cluster: None) -> None:
    from ram_ray.pipeline import Pipeline

    sets = ["engine.rounds=3", "engine.min_change=0.99"]
    stopped = Pipeline(load(TINY, sets=sets), run_folder, last="retrain")
    stopped()
    assert "retrain_1" in [line.stage for line in stopped.lines], (
        "the first round of a model that adds all tags goes on"
    )
    assert [line.stage for line in stopped.lines][-2:] == ["generate_2", "clean_2"], "the second has nothing to add"
    (note,) = stopped.notes
    assert "stopped in round 2" in note and "added 0 tags" in note and stopped.table().endswith(note)


def test_the_bundle_tags_pictures_by_itself(run_folder: str) -> None:
    from PIL import Image

    from ram_ray.inference.predictor import Predictor

    predictor = Predictor.from_pretrained(manifests(run_folder)["finetune"]["path"], threads=1)
    assert predictor.image_size == 48
    (tags,) = predictor.tag([Image.new("RGB", (60, 40), "red")], top_k=3)
    assert len(tags) == 3 and all(tag.id is not None for tag in tags)
