"""Contract: on Ray Data the stages of merging have the results of the plain functions, whatever the blocks, and a run
that was killed between them resumes there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ram_ray.config import RunConfig, load
from ram_ray.data_engine.calibrate import calibrate, thresholds
from ram_ray.data_engine.combine_scores import ScoreCombiner
from ram_ray.data_engine.generate import SCORES, Calibrated, merge
from ram_ray.data_engine.generate_stages import add_likely
from ram_ray.data_engine.mention_counts import count_cells, gather_cells
from ram_ray.data_engine.mention_rate_bound import mention_rate_bounds
from ram_ray.data_engine.tag_pairs import CoOccurrence
from ram_ray.results import LabelSystemResult, Scores
from ram_ray.runtime.artifacts import Run
from ram_ray.settings.section import StageSettings
from tests.data_engine.test_combine_scores import NUM_TAGS, SYSTEM, fitted, world
from tests.stage_results import label_system_counts

SETS = ["engine.generate={threshold: null, precision: 0.3, captions: 0}", "engine.folds=2", "data.rows_per_block=200"]


def prepare(folder: Path, rows: list[dict]) -> tuple[RunConfig, Run, Scores, LabelSystemResult]:
    """A run with finished scores and no later stage."""
    config = load(str(Path(__file__).parents[1] / "tiny_run.yaml"), sets=SETS)
    run = Run(str(folder))
    labels = run.stage("label_system", LabelSystemResult, settings=StageSettings(), inputs=[])
    SYSTEM.save(f"{labels.path}/label_system.json")
    scores = run.stage("scores_1", Scores, settings=StageSettings(), inputs=[])
    for number in range(2):
        shard = Path(scores.path, f"shard=part{number}")
        shard.mkdir(parents=True)
        table = pa.Table.from_pylist(rows[number::2], schema=SCORES).drop_columns("shard")
        pq.write_table(table, shard / "rows.parquet")
    num_tags = sum(len(row["tags"]) for row in rows)
    counts = {"rows_in": len(rows), "rows_out": len(rows), "images": len(rows), "labelled": len(rows)}
    counts |= {"tags": num_tags, "tp": num_tags}
    zero = dict.fromkeys(("rejected", "matched", "fp", "fn", "unknown", "generated_caption", "tagger"), 0)
    return config, run, scores.finish(**counts, **zero), labels.finish(**label_system_counts(NUM_TAGS))


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return world(scenes=4, separation=2.0)[:600]


def plain(rows: list[dict]) -> dict[str, list[dict]]:
    """The tags of each image by the plain functions."""
    pairs, weights = fitted(rows)
    combiner = ScoreCombiner(CoOccurrence(pairs), weights)
    table = count_cells(pa.Table.from_pylist(rows, schema=SCORES), num_tags=NUM_TAGS, votes=0, logits=combiner)
    cells = gather_cells([table], num_tags=NUM_TAGS, votes=0)
    calibration = calibrate(cells.mention_counts(mention_rate_bounds(pairs)))
    rule = Calibrated(thresholds(calibration, cells.candidates, precision=0.3), calibration.correct)
    return {row["key"]: merge(row, rule=rule, logits=combiner)["tags"] for row in rows}


def read(path: str) -> dict[str, list[dict]]:
    tables = [pq.read_table(file, columns=["key", "tags"], partitioning=None) for file in Path(path).rglob("*.parquet")]
    return {row["key"]: row["tags"] for table in tables for row in table.to_pylist()}


def test_the_stages_add_what_the_functions_add_and_resume(tmp_path, rows, ray_cluster) -> None:
    config, run, scores, labels = prepare(tmp_path / "run", rows)
    generated = add_likely(run, config, scores, labels, num_models=2, round=1)
    expected, tags_by_key = plain(rows), read(generated.path)
    assert {key: [tag["id"] for tag in tags] for key, tags in tags_by_key.items()} == {
        key: [tag["id"] for tag in tags] for key, tags in expected.items()
    }
    assert generated.added == sum(map(len, tags_by_key.values())) - scores.tags > 100
    assert generated.added_correct > generated.added * 0.3
    folder = tmp_path / "run" / "annotations"
    (score_weights,) = [json.loads(file.read_text()) for file in folder.glob("score_weights_1/*.json")]
    (table,) = [json.loads(file.read_text()) for file in folder.glob("thresholds_1/*/thresholds.json")]
    assert score_weights["images"] == 600 and score_weights["co_occurrence"] == table["weights"]["co_occurrence"] > 0.3

    times = {file: file.stat().st_mtime_ns for file in folder.glob("score_weights_1/**/*")}
    for file in folder.glob("thresholds_1/*.json"):
        file.unlink()  # as if killed before the manifest was written, and before the next stage
    shutil.rmtree(folder / "generate_1")
    again = add_likely(Run(str(tmp_path / "run")), config, scores, labels, num_models=2, round=1)
    assert (
        again == generated.model_copy(update={"seconds": again.seconds, "used": again.used})
        and read(again.path) == tags_by_key
    )
    assert {file: file.stat().st_mtime_ns for file in folder.glob("score_weights_1/**/*")} == times
