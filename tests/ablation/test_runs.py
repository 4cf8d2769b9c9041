"""Contract: an ablation's rows are stages of ordinary runs, so a plain run shares them; rows of a table have the same
number of steps where they say so; a failing seed is named, and the others count. Every row is a valid run of every
preset, which is known before anything runs, and takes a training step with the options that presets set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ram_ray.ablation.engine_steps import TABLE_5
from ram_ray.ablation.model_parts import TABLE_4, measure_model, model_variants
from ram_ray.ablation.runs import check_config, format_result, run_ablation
from ram_ray.cli.options import PRESETS
from ram_ray.config import load

TINY = Path(__file__).parents[1] / "tiny_run.yaml"
SMALL = ["data.drawn.num_web=40", "data.drawn.num_eval=10", "represent.num_captions=10"]


def test_table_4_adds_one_part_a_row() -> None:
    config = load(TINY, sets=["pretrain.distill_loss=false"])
    variants = model_variants(config)
    assert tuple(variants) == TABLE_4
    parts = [
        (row.model.architecture, row.labels.max_labels, row.pretrain.caption_loss, row.pretrain.distill_loss)
        for row in variants.values()
    ]
    assert parts == [
        ("tag2text", 21, False, False),
        ("tag2text", 21, True, False),
        ("ram", 21, True, False),
        ("ram", 21, True, True),
        ("ram", 40, True, True),
    ]
    assert variants[TABLE_4[0]].model.label_width == config.model.recognition.width


def test_a_mistake_is_said_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="--eval"):
        check_config(load(TINY, sets=["data.train=[a.tar]"]), table=5)
    with pytest.raises(ValueError, match="no table 6"):
        check_config(load(TINY), table=6)
    assert check_config(load(TINY), table=5).engine.rounds == 2
    assert check_config(load(TINY), table=5, rounds=1).engine.rounds == 1
    with pytest.raises(ValueError, match="--rounds 3"):
        check_config(load(TINY), table=5, rounds=3)
    with pytest.raises(ValueError, match="distill_loss: tag2text does not distill"):
        load(TINY, sets=["model.architecture=tag2text", "model.label_width=16"])


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_every_row_is_a_valid_run_of_every_preset(preset: str) -> None:
    config = load(PRESETS / f"{preset}.yaml", sets=["data.train=[a.tar]", "data.eval=[b.tar]"])
    assert check_config(config, table=5).engine.rounds == 2
    prepared = check_config(config, table=4)
    assert prepared.engine.rounds == 0, (
        "no scoring model is trained and no image held out for a data engine that does not run"
    )
    *_, last = model_variants(prepared).values()
    whole = config.pretrain.model_copy(update={"caption_loss": True, "distill_loss": True})  # whatever the preset does
    assert (last.model, last.labels, last.pretrain) == (config.model, config.labels, whole)


def test_a_row_that_is_no_valid_run_is_named_before_anything_runs() -> None:
    sets = ["engine.rounds=0", "engine.holdout=0", "engine.generate={threshold: null, precision: 0.8}"]
    with pytest.raises(ValueError, match="^table 5: engine: generate.precision is calibrated .* set engine.holdout"):
        check_config(load(TINY, sets=sets), table=5)
    undistilled = [f"{name}.distill_loss=false" for name in ("pretrain", "retrain", "finetune")]
    learnt = load(TINY, sets=["model.architecture=tag2text", "model.label_width=16", *undistilled])
    with pytest.raises(ValueError, match="^row '. distillation': pretrain.distill_loss: tag2text does not distill"):
        check_config(learnt, table=4)


@pytest.mark.parametrize("preset", ["demo", "photos"])
def test_every_row_of_table_4_trains_with_the_options_of_the_small_presets(preset: str) -> None:
    import torch

    from ram_ray.models.ram import RAM
    from ram_ray.training.build import freeze_captioner

    config = load(PRESETS / f"{preset}.yaml", sets=["data.train=[a.tar]", "data.eval=[b.tar]"])
    for row, variant in model_variants(check_config(config, table=4)).items():
        torch.manual_seed(0)
        size, losses = variant.model.image_size, variant.pretrain
        model = RAM(variant.model, torch.randn(7, variant.model.label_width))
        batch = {"pixel_values": torch.randn(2, 3, size, size), "targets": (torch.rand(2, 7) < 0.5).float()}
        if losses.caption_loss:
            batch |= {name: torch.randint(5, 99, (2, 9)) for name in ("caption_ids", "tag_ids")} | {"caption_start": 3}
        else:
            freeze_captioner(model)
        if losses.distill_loss and variant.model.image_proj:  # not photos: no dual encoder
            batch["teacher"] = torch.randn(2, variant.model.image_proj)
        sum(model(batch).values()).backward()
        trained = {name: weight.grad is not None for name, weight in model.named_parameters() if weight.requires_grad}
        assert all(trained.values()), f"{row}: {[name for name, has in trained.items() if not has]}"
        assert trained.get("recognition.similarity.weight") or trained["recognition.pooled.query.weight"], row


@pytest.mark.slow  # two seeds of two rounds: minutes
def test_table_5_on_drawn_scenes(ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from ram_ray.pipeline import run_recipe
    from ram_ray.reporting.run_log import RunLog

    config = load(TINY, sets=SMALL)
    (tmp_path / "seed_1").write_text("a file where the run's folder should be")  # so that this seed fails
    result = run_ablation(config, str(tmp_path), table=5, seeds=[0, 1])
    assert result == json.loads((tmp_path / "ablation.json").read_text())
    assert result["seeds"] == [0] and list(result["failed"]) == ["1"] and "seed 1 failed" in format_result(result)
    assert tuple(row["row"] for row in result["rows"]) == TABLE_5
    parsed, generated, cleaned, by_paper, finetuned, again = result["rows"]
    steps = [row["steps"]["mean"] for row in result["rows"]]
    assert max(steps[:3]) - min(steps[:3]) <= 1, "the same training, but for images that cleaning left without a tag"
    assert abs(steps[4] - steps[5]) <= 2 and steps[4] > steps[2]
    gain = by_paper["mAP"]["mean"] - generated["mAP"]["mean"]
    assert by_paper["tags"]["mean"] < generated["tags"]["mean"] and by_paper["gain"]["mean"] == pytest.approx(gain)
    assert generated["recall"]["mean"] >= parsed["recall"]["mean"] and "added_precision" not in parsed
    assert cleaned["tags"] == finetuned["tags"] and "true_removed" in cleaned and again["tags"]["mean"] > 0
    assert all(0 <= row["mAP"]["mean"] <= 1 for row in result["rows"])

    plain = RunLog()
    run_recipe(plain.open(str(tmp_path / "seed_0"), last="clean"), config, plain)
    assert all(line.reused for line in plain.lines), "a plain run shares the rows"
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.parquet")}
    assert run_ablation(config, str(tmp_path), table=5, seeds=[0])["rows"] == result["rows"]
    one_round = run_ablation(config, str(tmp_path), table=5, seeds=[0], rounds=1)["rows"]
    assert one_round == result["rows"][:-1], "a round less is a row less, and the others are the same"
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.parquet")} == before


@pytest.mark.slow
def test_table_4_on_drawn_scenes(ray_cluster: None, tmp_path: Path) -> None:
    rows = measure_model(check_config(load(TINY, sets=SMALL), table=4), str(tmp_path))
    assert tuple(rows) == TABLE_4
    labels = [row["labels"] for row in rows.values()]
    assert labels[0] == labels[3] < labels[4]
    files = list(tmp_path.glob("models/pretrain/*/model.safetensors"))
    first = "image_encoder.backbone.patch_embed.proj.weight"  # which every loss reaches
    assert len({load_file(file)[first].numpy().tobytes() for file in files}) == 5, "no two rows are the same model"
    assert all(0 <= row["mAP"] <= 1 for row in rows.values())
