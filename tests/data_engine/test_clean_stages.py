"""Contract: every category of at least `min_images` images is decided, as it would be alone; what a call has decided is
not decided again, and each shard finds its own removals."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ram_ray.config import RunConfig, load
from ram_ray.data_engine import categories
from ram_ray.data_engine.clean import CATEGORIES, REMOVALS, SAMPLE_ROWS, SAMPLES, decide
from ram_ray.data_engine.clean_stages import _removals_of, find_removals, protected_ids, trusts_labels
from ram_ray.data_engine.company import TagCounts
from ram_ray.data_engine.crops import IMAGE_REGIONS
from ram_ray.label_system import Label, LabelSystem
from ram_ray.runtime.artifacts import Manifest, Run
from tests.data_engine.test_clean import category

NAMES = ["dog", "cat", "tree", "red", "rare"]
SIZES = {0: 260, 1: 90, 2: 60, 3: 50, 4: 49}  # crops of each tag
LABELS = LabelSystem(Label(id, name, "object") for id, name in enumerate(NAMES))


def config(**clean) -> RunConfig:
    sets = ["engine.clean.min_images=50", "resources.task_cpus=0.5", "resources.shuffle_partitions=3"]
    return load(sets=[*sets, *[f"engine.clean.{name}={value}" for name, value in clean.items()]])


def regions_of(folder: Path) -> tuple[Manifest, pa.Table]:
    """The stage `regions` of a category a tag, written as Ray writes it, and its rows a tag."""
    rows = []
    for tag, size in SIZES.items():
        table, _ = category(right=size - 12, strange=8, unseen=4, absent=20, seed=tag)
        rows += [{**row, "tag": tag} for row in table.to_pylist()]
    images: dict[str, dict] = {}
    for row in rows:
        key, shard = row["key"], row["shard"]
        image = images.setdefault(key, {"key": key, "shard": shard, "regions": []})
        image["regions"].append({name: value for name, value in row.items() if name not in ("key", "shard")})
    for shard in sorted({one["shard"] for one in images.values()}):
        for half in range(2):
            part = [one for one in images.values() if one["shard"] == shard][half::2]
            (folder / f"shard={shard}").mkdir(parents=True, exist_ok=True)
            table = pa.Table.from_pylist(part, schema=IMAGE_REGIONS).drop_columns("shard")
            pq.write_table(table, folder / f"shard={shard}" / f"{half}.parquet")
    return Manifest("regions_1", "abc", str(folder), 1.0), pa.Table.from_pylist(rows)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> tuple[Manifest, Manifest, pa.Table]:
    folder = tmp_path_factory.mktemp("inputs")
    LABELS.save(str(folder / "label_system.json"))
    regions, rows = regions_of(folder / "regions")
    return regions, Manifest("labels", "def", str(folder), 1.0), rows


def read(folder: str, kind: str) -> pa.Table:
    files = sorted(Path(folder, kind).rglob("*.parquet"))
    return pa.concat_tables([pq.read_table(file, partitioning=None) for file in files]).sort_by("tag")


def test_every_large_enough_category_is_decided_as_alone(ray_cluster, inputs, tmp_path):
    regions, labels, rows = inputs
    run, settings = Run(str(tmp_path)), config()
    done = find_removals(run, settings, regions, labels, round=1)
    lines = read(done.path, "categories")
    assert lines.schema.equals(CATEGORIES)
    judged = {row["tag"]: row["clusters"] > 0 for row in lines.to_pylist()}
    assert judged == {tag: size >= settings.engine.clean.min_images for tag, size in SIZES.items()}
    removals = read(done.path, "removals")
    assert done.counts["categories"] == 5 and done.counts["judged"] == 4 and done.counts["crops"] == sum(SIZES.values())
    assert done.counts["outliers"] + done.counts["disagreements"] == len(removals) > 20
    counts = TagCounts(len(set(rows["key"].to_pylist())), SIZES)
    for tag in SIZES:
        alone = rows.filter(pc.equal(rows["tag"], tag))
        expected = decide(alone, tag=tag, config=settings.engine.clean, counts=counts, seed=settings.seed)
        found = removals.filter(pc.equal(removals["tag"], tag)).sort_by("key")
        assert found.to_pylist() == expected.removals.sort_by("key").to_pylist()
    samples = read(done.path, "samples")
    assert samples.schema.equals(SAMPLE_ROWS) and len(samples) <= 4 * 2 * SAMPLES
    assert not Path(tmp_path, "work", "removals_1").exists() or not any(Path(tmp_path, "work").rglob("*.parquet"))


def test_each_shard_finds_its_own_removals(ray_cluster, inputs, tmp_path):
    regions, labels, _ = inputs
    done = find_removals(Run(str(tmp_path)), config(), regions, labels, round=1)
    everything = read(done.path, "removals")
    parts = [_removals_of(done.path, shard) for shard in ("s0", "s1", "s2", "s3", "none")]
    assert all(part.schema.equals(REMOVALS) for part in parts) and len(parts[-1]) == 0
    assert [set(part["shard"].to_pylist()) for part in parts[:-1]] == [{"s0"}, {"s1"}, {"s2"}, {"s3"}]
    assert sum(len(part) for part in parts) == len(everything)


def test_a_call_goes_on_where_another_was_cut_off(ray_cluster, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(categories, "MIN_GROUP_ROWS", 1)
    regions, labels, _ = inputs
    done = find_removals(Run(str(tmp_path)), config(), regions, labels, round=1)
    before = read(done.path, "removals")
    lines = sorted(Path(done.path, "categories").glob("*.parquet"))
    assert len(lines) == 3
    Path(f"{done.path}.json").unlink()
    lines[0].unlink()
    shutil.rmtree(Path(done.path, "samples"))  # written before a group's line, so it comes again for that group alone
    kept = {file: file.stat().st_mtime_ns for file in lines[1:]}
    again = find_removals(Run(str(tmp_path)), config(), regions, labels, round=1)
    assert {file: file.stat().st_mtime_ns for file in lines[1:]} == kept and lines[0].exists()
    assert [file.name for file in Path(done.path, "samples").iterdir()] == [lines[0].name]
    order = [("tag", "ascending"), ("key", "ascending")]
    assert read(again.path, "removals").sort_by(order).equals(before.sort_by(order)) and again.counts == done.counts


def test_protected_tags_lose_nothing(ray_cluster, inputs, tmp_path):
    regions, labels, _ = inputs
    done = find_removals(Run(str(tmp_path)), config(protected="[dog]"), regions, labels, round=1)
    assert 0 not in read(done.path, "removals")["tag"].to_pylist() and done.counts["protected"] > 5
    with pytest.raises(ValueError, match="no tag of the label system is called unicorn"):
        protected_ids(config(protected="[dog, unicorn]").engine.clean, LABELS)


def test_labels_that_the_engine_is_scored_by_protect_nothing():
    own = load(sets=["data.train=[mine.tar]"])
    assert trusts_labels(own)
    assert not trusts_labels(load())  # drawn scenes
    assert not trusts_labels(load(sets=["data.train=[mine.tar]", "data.measure.planted=0.1"]))
    assert not trusts_labels(load(sets=["data.train=[mine.tar]", "engine.clean.protect_labels=false"]))
