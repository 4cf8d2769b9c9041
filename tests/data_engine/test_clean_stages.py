"""Contract: every label of at least `min_images` images is decided as it would be alone; a decided label
is not decided again; and each shard gets its own removals."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ram_ray.config import RunConfig, load
from ram_ray.data_engine import regions_by_label, removal_bins
from ram_ray.data_engine.clean import CLEANED_LABELS, REMOVALS, SAMPLE_ROWS, SAMPLES, decide_removals
from ram_ray.data_engine.clean_stages import find_removals, protected_ids
from ram_ray.data_engine.co_occurrence import TagCounts
from ram_ray.data_engine.crops import IMAGE_REGIONS
from ram_ray.data_engine.removal_bins import read_bin
from ram_ray.data_engine.stage_settings import trusts_labels
from ram_ray.label_system import Label, LabelSystem
from ram_ray.results import LabelSystemResult, Regions
from ram_ray.runtime.artifacts import Run
from tests.data_engine.test_clean import make_regions
from tests.stage_results import label_system_result

NAMES = ["dog", "cat", "tree", "red", "rare"]
SIZES = {0: 260, 1: 90, 2: 60, 3: 50, 4: 49}  # crops of each tag
LABELS = LabelSystem(Label(id, name, "object") for id, name in enumerate(NAMES))


def config(**clean) -> RunConfig:
    sets = ["engine.clean.min_images=50", "resources.task_cpus=0.5", "resources.shuffle_partitions=3"]
    return load(sets=[*sets, *[f"engine.clean.{name}={value}" for name, value in clean.items()]])


def regions_of(folder: Path) -> tuple[Regions, pa.Table]:
    """The stage `regions` with a label for each tag, written as Ray writes it, and its rows by tag."""
    rows = []
    for tag, size in SIZES.items():
        table, _ = make_regions(right=size - 12, outlier=8, unseen=4, negatives=20, seed=tag)
        rows += [{**row, "tag": tag} for row in table.to_pylist()]
    images: dict[str, dict] = {}
    for row in rows:
        key, shard = row["key"], row["shard"]
        image = images.setdefault(key, {"key": key, "shard": shard, "regions": []})
        image["regions"].append({name: value for name, value in row.items() if name not in ("key", "shard")})
    for shard in sorted({image["shard"] for image in images.values()}):
        for half in range(2):
            part = [image for image in images.values() if image["shard"] == shard][half::2]
            (folder / f"shard={shard}").mkdir(parents=True, exist_ok=True)
            table = pa.Table.from_pylist(part, schema=IMAGE_REGIONS).drop_columns("shard")
            pq.write_table(table, folder / f"shard={shard}" / f"{half}.parquet")
    regions = Regions(stage="regions_1", digest="abc", path=str(folder), seconds=1.0, images=len(images), detected=0)
    return regions, pa.Table.from_pylist(rows)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> tuple[Regions, LabelSystemResult, pa.Table]:
    folder = tmp_path_factory.mktemp("inputs")
    LABELS.save(str(folder / "label_system.json"))
    regions, rows = regions_of(folder / "regions")
    return regions, label_system_result(str(folder), num_labels=len(LABELS)), rows


def read(folder: str, kind: str) -> pa.Table:
    files = sorted(Path(folder, kind).rglob("*.parquet"))
    return pa.concat_tables([pq.read_table(file, partitioning=None) for file in files]).sort_by("tag")


def test_every_large_enough_label_is_decided_as_alone(ray_cluster, inputs, tmp_path):
    regions, labels, rows = inputs
    run, settings = Run(str(tmp_path)), config()
    stage = find_removals(run, settings, regions, labels, round=1)
    label_rows = read(stage.path, "labels")
    assert label_rows.schema.equals(CLEANED_LABELS)
    decided = {row["tag"]: row["clusters"] > 0 for row in label_rows.to_pylist()}
    assert decided == {tag: size >= settings.engine.clean.min_images for tag, size in SIZES.items()}
    removals = read(stage.path, "removals")
    assert (stage.labels, stage.decided, stage.crops) == (5, 4, sum(SIZES.values()))
    assert stage.decided_crops == sum(SIZES.values()) - SIZES[4]
    assert json.loads(Path(stage.untouched).read_text()) == {"not_selected": [], "too_few_images": ["rare"]}
    assert stage.outliers + stage.disagreements == len(removals) > 20
    counts = TagCounts(len(set(rows["key"].to_pylist())), SIZES)
    for tag in SIZES:
        alone = rows.filter(pc.equal(rows["tag"], tag))
        expected = decide_removals(alone, tag=tag, config=settings.engine.clean, counts=counts, seed=settings.seed)
        tag_removals = removals.filter(pc.equal(removals["tag"], tag)).sort_by("key")
        assert tag_removals.to_pylist() == expected.removals.sort_by("key").to_pylist()
    samples = read(stage.path, "samples")
    assert samples.schema.equals(SAMPLE_ROWS) and len(samples) <= 4 * 2 * SAMPLES
    assert not Path(tmp_path, "work", "removals_1").exists() or not any(Path(tmp_path, "work").rglob("*.parquet"))


@pytest.mark.parametrize("bin_rows", [100_000, 10])
def test_each_shard_gets_its_own_removals(ray_cluster, inputs, tmp_path, monkeypatch, bin_rows):
    monkeypatch.setattr(removal_bins, "BIN_ROWS", bin_rows)
    regions, labels, _ = inputs
    stage = find_removals(Run(str(tmp_path)), config(), regions, labels, round=1)
    everything = read(stage.path, "removals")
    assert (stage.bins > 3) == (bin_rows == 10)
    parts = [read_bin(stage.path, shard, bins=stage.bins) for shard in ("s0", "s1", "s2", "s3", "none")]
    assert all(part.schema.equals(REMOVALS) for part in parts) and len(parts[-1]) == 0
    assert [set(part["shard"].to_pylist()) for part in parts[:-1]] == [{"s0"}, {"s1"}, {"s2"}, {"s3"}]
    assert sum(len(part) for part in parts) == len(everything) == stage.outliers + stage.disagreements
    assert len(list(Path(stage.path, "removals").iterdir())) <= stage.bins


def test_a_call_resumes_an_interrupted_call(ray_cluster, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(regions_by_label, "MIN_GROUP_ROWS", 1)
    monkeypatch.setattr(regions_by_label, "MAX_FILES", 1)
    regions, labels, _ = inputs
    stage = find_removals(Run(str(tmp_path)), config(), regions, labels, round=1)
    removals = read(stage.path, "removals")
    files = sorted(Path(stage.path, "labels").glob("*.parquet"))
    assert len(files) == 3
    Path(f"{stage.path}.json").unlink()
    files[0].unlink()
    # written before the file in `labels`, so only that group writes samples again
    shutil.rmtree(Path(stage.path, "samples"))
    times = {file: file.stat().st_mtime_ns for file in files[1:]}
    again = find_removals(Run(str(tmp_path)), config(), regions, labels, round=1)
    assert {file: file.stat().st_mtime_ns for file in files[1:]} == times and files[0].exists()
    assert [file.name for file in Path(stage.path, "samples").iterdir()] == [files[0].name]
    order = [("tag", "ascending"), ("key", "ascending")]
    assert read(again.path, "removals").sort_by(order).equals(removals.sort_by(order))
    assert again == stage.model_copy(update={"seconds": again.seconds, "used": again.used})


def test_protected_tags_lose_nothing(ray_cluster, inputs, tmp_path):
    regions, labels, _ = inputs
    stage = find_removals(Run(str(tmp_path)), config(protected="[dog]"), regions, labels, round=1)
    assert 0 not in read(stage.path, "removals")["tag"].to_pylist() and stage.protected > 5
    with pytest.raises(ValueError, match="no tag of the label system is called unicorn"):
        protected_ids(config(protected="[dog, unicorn]").engine.clean, LABELS)


def test_labels_that_the_engine_is_evaluated_on_protect_nothing():
    assert trusts_labels(load(sets=["data.train=[mine.tar]"]))
    assert not trusts_labels(load())  # drawn scenes
    assert not trusts_labels(load(sets=["data.train=[mine.tar]", "data.measure.planted=0.1"]))
    assert not trusts_labels(load(sets=["data.train=[mine.tar]", "engine.clean.protect_labels=false"]))
