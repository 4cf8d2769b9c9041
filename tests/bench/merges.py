"""What grows with the annotations: driver memory, files and time of the stages that only read and write rows.

    python tests/bench/merges.py [--rows 100000 1000000] [--rows-per-shard 10000] [--labels 4585] [--folder DIR]

Rows without images, as the stages `scores` and `regions` leave them for drawn tags, captions, scores and embeddings, go
through `score_weights`, `thresholds`, `generate`, `removals` and `clean`, and into the training table of `retrain`, as
the recipe calls them, on a Ray of two CPUs. An image has five tags, 256 scores and two regions. Memory is that of the
driver, and the largest of a Ray worker, which it shares with no other process (RssAnon), read several times a second;
the target is a driver that does not grow by more than 5% from 1,000,000 to 10,000,000 rows. Files are those that the
stage left.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench.regroup import watch_memory, write_regions  # noqa: E402
from tests.stage_results import annotations_result, label_system_result, trained_model  # noqa: E402

TAGS = 5  # of an image
SCORES_AN_IMAGE = 256
REGIONS_AN_IMAGE = 2
SETTINGS = (
    *("resources.task_cpus=1", "resources.shuffle_partitions=200", "engine.holdout=0.02"),
    *("engine.clean.min_images=50", "engine.clean.detector=whole_image", "retrain.tag_cap=0.3"),
)


@dataclass
class Measured:
    """The steps of one size."""

    rows: int
    driver_mb: float = 0.0
    worker_mb: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)


def write_scores(folder: Path, *, rows: int, shards: int, labels: int) -> None:
    """SCORES rows, a file for each shard: tags as frequent as 1 / rank; the first tag has the highest score."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ram_ray.data_engine.generate import SCORES
    from ram_ray.records import CAPTION, TAG

    rng, ranks = np.random.default_rng(0), labels // TAGS
    share = 1 / np.arange(1, ranks + 1)
    step = next(step for step in range(1009, 10 * labels) if math.gcd(step, labels) == 1)
    count = rows // shards

    def lists(values: pa.Array, length: int) -> pa.ListArray:
        return pa.ListArray.from_arrays(np.arange(0, count * length + 1, length, dtype=np.int32), values)

    def structs(kind: pa.StructType, **columns: object) -> pa.StructArray:
        return pa.StructArray.from_arrays([pa.array(columns[part.name], part.type) for part in kind], fields=list(kind))

    for shard in range(shards):
        # An image's tags are of different remainders by TAGS, so none is there twice.
        tags = rng.choice(ranks, (count, TAGS), p=share / share.sum()) * TAGS + np.arange(TAGS)
        scored = (tags[:, :1] + step * np.arange(SCORES_AN_IMAGE)) % labels
        logits = -np.sort(-rng.normal(-3, 2, scored.shape)).astype("<f2")
        mentioned, sources = (
            lists(pa.array(tags.ravel(), pa.int32()), TAGS),
            lists(pa.array(["parsed"] * tags.size), TAGS),
        )
        caption = {"text": ["drawn"] * count, "tags": mentioned, "sources": sources}
        origins = {name: structs(CAPTION, origin=[name] * count, **caption) for name in ("original", "generated")}
        keys = range(shard * count, (shard + 1) * count)
        columns = {
            "key": [f"{shard:05d}/{key}" for key in keys],
            "uri": [f"{shard:05d}.tar"] * count,
            "offset": list(keys),
            "nbytes": [1000] * count,
            "captions": lists(origins["original"], 1),
            "tags": lists(
                structs(TAG, id=tags.ravel(), origin=["parsed"] * tags.size, score=np.ones(tags.size, np.float32)), TAGS
            ),
            "partial": [False] * count,
            "generated": lists(origins["generated"], 1),
            "tagger_ids": lists(pa.array(scored.ravel(), pa.int32()), SCORES_AN_IMAGE),
            "tagger_logits": [row.tobytes() for row in logits],
        }
        columns |= {name: [[]] * count for name in ("removed", "absent", "unknown_labels")}
        schema = pa.schema([part for part in SCORES if part.name != "shard"])
        arrays = [pa.array(columns.get(part.name, [None] * count), part.type) for part in schema]
        path = folder / f"shard={shard:05d}"
        path.mkdir(parents=True)
        pq.write_table(pa.table(arrays, schema=schema), path / "0.parquet")


@contextlib.contextmanager
def step(measured: Measured, name: str) -> Iterator[None]:
    """Time a step, and watch the memory."""
    start = time.monotonic()
    with watch_memory() as peaks:
        yield
    measured.seconds[name] = time.monotonic() - start
    measured.driver_mb = max(measured.driver_mb, peaks["driver"])
    measured.worker_mb = max(measured.worker_mb, peaks["worker"])
    print(f"  {name}: {measured.seconds[name]:.0f} s, driver {peaks['driver']:.0f} MB", flush=True)


def measure(folder: Path, *, rows: int, shards: int, labels: int) -> Measured:
    """Write the rows, and run the stages."""
    from ram_ray.config import load
    from ram_ray.data_engine.clean_stages import clean
    from ram_ray.data_engine.generate_stages import add_likely
    from ram_ray.data_engine.stage_settings import RegionSettings, ScoreSettings
    from ram_ray.label_system import Label, LabelSystem
    from ram_ray.results import DualEncoderResult, Regions, Scores
    from ram_ray.runtime.artifacts import Run
    from ram_ray.training.table import RowSelection, make_table, row_maker

    measured, config, run = Measured(rows), load(sets=SETTINGS), Run(str(folder / "run"))
    # No two names share a word, as most do not: those that do are never said to co-occur.
    system = LabelSystem(Label(id, f"label{id}", "object") for id in range(labels))
    system.save(f"{folder}/label_system.json")
    label_result = label_system_result(str(folder), num_labels=labels)
    parsed, model = annotations_result(str(folder), num_rows=rows), trained_model(str(folder), image_size=224)
    encoder = DualEncoderResult(stage="represent", digest="2", path="", seconds=0.0, source="", revision=None)
    settings = ScoreSettings.from_config(config, round=1)
    stage = run.stage("scores_1", Scores, settings=settings, inputs=[parsed, model, label_result])
    write_scores(Path(stage.path), rows=rows, shards=shards, labels=labels)
    counts = parsed.model_dump(include=set(Scores.model_fields) - {"stage", "digest", "path", "seconds", "version"})
    scores = stage.finish(**counts, generated_caption=0, tagger=0)
    with step(measured, "score_weights, thresholds, generate"):
        generated = add_likely(run, config, scores, label_result, num_models=1, round=1)
    region_settings = RegionSettings.from_config(config, labels=system, num_images=rows)
    region_stage = run.stage("regions_1", Regions, settings=region_settings, inputs=[generated, model, encoder])
    write_regions(
        region_stage.path, rows=rows * REGIONS_AN_IMAGE, shards=shards, labels=labels, an_image=REGIONS_AN_IMAGE
    )
    region_stage.finish(images=rows, detected=rows)
    with step(measured, "removals, clean"):
        cleaned = clean(run, config, generated, [model], label_result, encoder, round=1)
    with step(measured, "training table"):
        execution, selection = config.execution, RowSelection(config.retrain.shards)
        make_rows = row_maker(cleaned.path, config=config.retrain, selection=selection, execution=execution)
        table = make_table(
            run.path("table"),
            {cleaned.path: make_rows},
            selection=selection,
            num_rows=rows,
            seed=0,
            execution=execution,
        )
    removed = generated.tags - cleaned.tags
    print(f"  {generated.added:,} tags added, {removed:,} removed, {table.num_rows:,} rows to train on", flush=True)
    for path in sorted([*Path(run.root, "annotations").iterdir(), Path(run.root, "table")]):
        measured.files[path.name] = sum(file.is_file() for file in path.rglob("*"))
    return measured


def main() -> None:
    """Measure each size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[100_000, 1_000_000])
    parser.add_argument("--rows-per-shard", type=int, default=10_000)
    parser.add_argument("--labels", type=int, default=4_585)
    parser.add_argument("--folder", help="where to work (default: a folder for temporary files)")
    options = parser.parse_args()
    assert all(rows % options.rows_per_shard == 0 for rows in options.rows), "rows are whole shards"
    import ray

    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        runs = []
        for rows in options.rows:
            print(f"{rows:,} rows", flush=True)
            folder = Path(temporary, str(rows))
            folder.mkdir()
            runs.append(measure(folder, rows=rows, shards=rows // options.rows_per_shard, labels=options.labels))
        ray.shutdown()
    print(f"\n{'rows':>12} {'seconds':>8} {'driver MB':>10} {'worker MB':>10} {'files':>8}")
    for run in runs:
        seconds, files = sum(run.seconds.values()), sum(run.files.values())
        print(f"{run.rows:>12,} {seconds:>8.0f} {run.driver_mb:>10.1f} {run.worker_mb:>10.1f} {files:>8,}")


if __name__ == "__main__":
    main()
