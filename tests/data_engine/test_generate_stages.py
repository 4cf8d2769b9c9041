"""Contract: on Ray Data the stages of merging give what the plain functions give, whatever the blocks, and a run that
was killed between them goes on where it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ram_ray.config import RunConfig, load
from ram_ray.data_engine.calibrate import calibrate, thresholds
from ram_ray.data_engine.evidence import count_cells, gather
from ram_ray.data_engine.generate import SCORES, Calibrated, merge
from ram_ray.data_engine.generate_stages import add_likely
from ram_ray.data_engine.implied import implied_rate
from ram_ray.data_engine.pairs import Company
from ram_ray.data_engine.weigh import Weigher
from ram_ray.runtime.artifacts import Manifest, Run
from tests.data_engine.test_weigh import NUM_TAGS, SYSTEM, fitted, world

SETS = ["engine.generate={threshold: null, precision: 0.3, captions: 0}", "engine.folds=2", "data.rows_per_block=200"]


def prepare(folder: Path, rows: list[dict]) -> tuple[RunConfig, Run, Manifest, Manifest]:
    """A run whose scores are there, and nothing after them."""
    config = load(str(Path(__file__).parents[1] / "tiny_run.yaml"), sets=SETS)
    run = Run(str(folder))
    labels = run.stage("label_system", kind="annotations", config={}, inputs=[])
    SYSTEM.save(f"{labels.path}/label_system.json")
    scores = run.stage("scores_1", kind="annotations", config={}, inputs=[])
    for number in range(2):
        shard = Path(scores.path, f"shard=part{number}")
        shard.mkdir(parents=True)
        table = pa.Table.from_pylist(rows[number::2], schema=SCORES).drop_columns("shard")
        pq.write_table(table, shard / "rows.parquet")
    had = sum(len(row["tags"]) for row in rows)
    counts = {"rows_in": len(rows), "rows_out": len(rows), "rejected": 0, "tags": had, "tp": had, "fp": 0}
    return config, run, scores.finish(**counts, generated_caption=0, tagger=0), labels.finish()


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return world(scenes=4, sharp=2.0)[:600]


def plain(rows: list[dict]) -> dict[str, list[dict]]:
    """What the functions give by hand."""
    pairs, weights = fitted(rows)
    weigher = Weigher(Company(pairs), weights)
    counted = count_cells(pa.Table.from_pylist(rows, schema=SCORES), system=SYSTEM, votes=0, logits=weigher)
    cells = gather([counted], num_tags=NUM_TAGS, votes=0)
    found = calibrate(cells.evidence(implied_rate(pairs)))
    rule = Calibrated(thresholds(found, cells.open, precision=0.3), found.right)
    return {row["key"]: merge(row, rule=rule, logits=weigher)["tags"] for row in rows}


def read(path: str) -> dict[str, list[dict]]:
    tables = [pq.read_table(file, columns=["key", "tags"], partitioning=None) for file in Path(path).rglob("*.parquet")]
    return {row["key"]: row["tags"] for table in tables for row in table.to_pylist()}


def test_the_stages_add_what_the_functions_add_and_go_on_where_they_were(tmp_path, rows, ray_cluster) -> None:
    config, run, scores, labels = prepare(tmp_path / "run", rows)
    made = add_likely(run, config, scores, labels, num_judges=2, round=1)
    expected, found = plain(rows), read(made.path)
    assert {key: [tag["id"] for tag in tags] for key, tags in found.items()} == {
        key: [tag["id"] for tag in tags] for key, tags in expected.items()
    }
    assert made.counts["added"] == sum(map(len, found.values())) - scores.counts["tags"] > 100
    assert made.counts["added_right"] > made.counts["added"] * 0.3
    folder = tmp_path / "run" / "annotations"
    (weighed,) = [json.loads(file.read_text()) for file in folder.glob("weighed_1/*.json")]
    (table,) = [json.loads(file.read_text()) for file in folder.glob("thresholds_1/*/thresholds.json")]
    assert weighed["counts"]["images"] == 600 and weighed["counts"]["company"] == table["weights"]["company"] > 0.3

    kept = {file: file.stat().st_mtime_ns for file in folder.glob("weighed_1/**/*")}
    for file in folder.glob("thresholds_1/*.json"):
        file.unlink()  # as if killed when all but the manifest was there, and before the next stage
    shutil.rmtree(folder / "generate_1")
    again = add_likely(Run(str(tmp_path / "run")), config, scores, labels, num_judges=2, round=1)
    assert again.digest == made.digest and again.counts == made.counts and read(again.path) == found
    assert {file: file.stat().st_mtime_ns for file in folder.glob("weighed_1/**/*")} == kept
