"""Contract: the rows of StableRep's table have the same captions, images a batch and images seen, and differ in the
method alone; each leaves a figure with an interval for a linear probe and for k-NN."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ram_ray.ablation.runs import check_config, run_ablation
from ram_ray.ablation.stablerep import BASE, batch_images, stablerep_variants
from ram_ray.cli.options import PRESETS
from ram_ray.config import load

TINY = Path(__file__).parents[1] / "tiny_run.yaml"


@pytest.mark.parametrize("preset", ["demo", "photos_scratch"])
def test_rows_see_the_same_captions_and_as_many_images(preset: str) -> None:
    config = load(PRESETS / f"{preset}.yaml", sets=["data.train=[a.tar]", "data.eval=[b.tar]"])
    variants = stablerep_variants(check_config(config, table="stablerep"))
    rows = {name: variant.represent for name, variant in variants.items()}
    assert list(rows) == [
        BASE,
        "CLIP, real pairs",
        "SimCLR, synthetic images",
        "CLIP, synthetic pairs",
        "StableRep, m = 2",
        "StableRep, m = 4",
        "StableRep, m = 6",
        "StableRep+, m = 2",
    ]
    assert {(row.num_captions, row.images_per_caption, row.real_pairs) for row in rows.values()} == {
        (config.represent.num_captions, max(6, config.represent.images_per_caption), "selected")
    }
    images = {row.train.batch_size * row.num_views for row in rows.values()}
    assert len(images) == 1 and images.pop() >= config.represent.train.batch_size * 2
    seen = {round(row.train.epochs * row.num_views, 9) for row in rows.values()}
    assert seen == {config.represent.train.epochs * config.represent.num_views}, "images seen of a caption"
    assert all(row.train.batch_size % config.training.max_workers == 0 for row in rows.values())
    assert [(row.method, row.images, row.num_views) for row in rows.values()][:2] == [
        ("simclr", "real", 2),
        ("clip", "real", 1),
    ]
    same = {"epochs", "batch_size"}
    assert len({row.train.model_dump_json(exclude=same) for row in rows.values()}) == 1


def test_a_batch_is_cut_into_whole_captions_for_each_worker() -> None:
    assert batch_images(64, workers=2, views=[2, 4, 6]) == 72
    assert batch_images(72, workers=2, views=[2, 4, 6]) == 72
    assert batch_images(8192, workers=8, views=[2, 4, 6]) == 8256


def test_published_encoders_cannot_be_compared(tmp_path: Path) -> None:
    config = load(PRESETS / "photos.yaml", sets=["data.train=[a.tar]", "data.eval=[b.tar]"])
    with pytest.raises(ValueError, match=r"remove represent\.clip and represent\.text_encoder"):
        check_config(config, table="stablerep")


def test_rows_that_are_asked_for(ray_cluster: None, tmp_path: Path) -> None:
    sets = ["data.drawn.num_web=60", "data.drawn.num_clean=0", "data.drawn.num_eval=40", "represent.num_captions=50"]
    config = load(TINY, sets=sets)
    rows = ["StableRep, m = 2", "CLIP, real pairs"]
    result = run_ablation(config, str(tmp_path), table="stablerep", seeds=[0], only=rows)
    first, other = result["rows"]
    assert [first["row"], other["row"]] == rows[::-1] and not result["failed"], "in the table's order"
    assert "gain" not in first
    assert other["gain"]["mean"] == pytest.approx(other["linear"]["mean"] - first["linear"]["mean"])


def test_rows_that_there_are_not() -> None:
    config = load(TINY)
    with pytest.raises(ValueError, match="there is no row 'CLIP'; use 'SimCLR, real images', 'CLIP, real pairs'"):
        check_config(config, table="stablerep", only=["CLIP", BASE])
    with pytest.raises(ValueError, match="the rows of table 4 build on each other: leave --row out"):
        check_config(config, table=4, only=["+ captioning"])


@pytest.mark.slow  # eight trainings: minutes
def test_the_table_on_drawn_scenes(ray_cluster: None, tmp_path: Path) -> None:
    sets = ["data.drawn.num_web=60", "data.drawn.num_clean=0", "data.drawn.num_eval=40", "represent.num_captions=50"]
    config = load(TINY, sets=sets)
    result = run_ablation(config, str(tmp_path), table="stablerep", seeds=[0])
    assert result == json.loads((tmp_path / "ablation_stablerep.json").read_text()) and not result["failed"]
    rows = {row["row"]: row for row in result["rows"]}
    assert len({row["images_seen"]["mean"] for row in rows.values()}) == 1
    assert all(0 < row[probe]["mean"] <= 1 for row in rows.values() for probe in ("linear", "knn"))
    assert "gain" not in rows[BASE] and result["gain"] is None
    other = rows["StableRep, m = 4"]
    assert other["gain"]["mean"] == pytest.approx(other["linear"]["mean"] - rows[BASE]["linear"]["mean"])
    tree = json.loads((tmp_path / "seed_0" / "stablerep" / "benchmark.json").read_text())
    assert list(tree["sets"]) == ["held_out, linear probe", "held_out, k-NN"]
    systems = tree["sets"]["held_out, linear probe"]["systems"]
    assert list(systems) == list(rows) and systems[BASE]["difference_of_mAP"] is None
    assert systems["StableRep, m = 4"]["difference_of_mAP"]["p_value"] <= 1
    models = list((tmp_path / "seed_0" / "models" / "represent").glob("*/model.safetensors"))
    assert len(models) == len({model.read_bytes() for model in models}) == len(rows), "no two rows are the same encoder"
    files = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")}
    assert run_ablation(config, str(tmp_path), table="stablerep", seeds=[0])["rows"] == result["rows"]
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")} == files
