"""Contract: which captions are hidden follows from key and seed alone; planted tags are as many as were asked for,
false, drawn by how often captions name them, and look like the others."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from ram_ray.config import load
from ram_ray.data.hidden_captions import hide_captions
from ram_ray.label_system import Label, LabelSystem
from ram_ray.labels.planted import Planter
from ram_ray.results import Counts
from tests.tiny import jpeg

FIVE = [f"caption {index}" for index in range(5)]
SYSTEM = LabelSystem(
    [Label(0, "train", "object", 60), Label(1, "train", "action", 30), Label(2, "dog", "object", 10)]
    + [Label(id, f"rare {id}", "object", 0) for id in range(3, 6)]
)


def test_one_caption_is_kept_and_nothing_is_lost() -> None:
    rows = [hide_captions({"key": f"s/{index}", "captions": FIVE}, num_shown=1, seed=3) for index in range(500)]
    assert all(len(row["captions"]) == 1 and sorted(row["captions"] + row["hidden_captions"]) == FIVE for row in rows)
    shown = Counter(row["captions"][0] for row in rows)
    assert len(shown) == 5 and min(shown.values()) > 70, "each of five captions about a fifth of the time"
    assert rows[7] == hide_captions({"key": "s/7", "captions": FIVE}, num_shown=1, seed=3)
    other = [hide_captions({"key": f"s/{index}", "captions": FIVE}, num_shown=1, seed=4) for index in range(500)]
    assert 300 < sum(row["captions"] != other_row["captions"] for row, other_row in zip(rows, other, strict=True)) < 480


def test_several_captions_keep_their_order_and_few_are_all_kept() -> None:
    row = hide_captions({"key": "s/1", "captions": FIVE}, num_shown=3, seed=0)
    assert row["captions"] == sorted(row["captions"]) and len(row["captions"]) == 3 and len(row["hidden_captions"]) == 2
    assert hide_captions({"key": "s/1", "captions": FIVE[:2]}, num_shown=3, seed=0)["hidden_captions"] == []
    assert hide_captions({"key": "s/1", "captions": []}, num_shown=1, seed=0)["captions"] == []


def test_planted_tags_are_the_share_that_was_asked_for() -> None:
    planter = Planter(SYSTEM, share=0.5, seed=0)
    assert all(len(planter.sample(f"s/{index}", num_tags=4, true_ids={2})) == 2 for index in range(50))
    drawn = [planter.sample(f"s/{index}", num_tags=1, true_ids={2}) for index in range(2000)]
    assert 900 < sum(map(len, drawn)) < 1100, "half a tag an image is one tag in half of the images"
    assert planter.sample("s/5", num_tags=1, true_ids={2}) == drawn[5]
    assert planter.sample("s/1", num_tags=0, true_ids=set()) == []


def test_planted_tags_are_false_and_come_by_their_frequency() -> None:
    planter = Planter(SYSTEM, share=1.0, seed=0)
    drawn = Counter(planter.sample(f"s/{index}", num_tags=1, true_ids={2})[0] for index in range(3000))
    assert set(drawn) == {0, 1} and 1.7 < drawn[0] / drawn[1] < 2.4
    assert planter.sample("s/1", num_tags=5, true_ids={0, 2}) == [1], "no tag twice, none that no caption names"


def test_a_planted_tag_looks_like_the_others() -> None:
    positions = Counter()
    for index in range(300):
        caption = {"text": "a dog", "origin": "original", "tags": [2, 4], "sources": ["both", "parsed"]}
        tags = [{"id": id, "origin": "parsed", "score": 1.0} for id in (2, 4)]
        row = {"key": f"s/{index}", "captions": [caption], "tags": tags}
        Planter(SYSTEM, share=0.5, seed=0).plant(row, true_ids={2, 4})
        ids = [tag["id"] for tag in row["tags"]]
        (planted,) = set(ids) - {2, 4}
        assert sorted(caption["tags"]) == sorted(ids) and len(caption["sources"]) == 3
        assert {(tag["origin"], tag["score"]) for tag in row["tags"]} == {("parsed", 1.0)}
        positions[ids.index(planted)] += 1
    assert len(positions) == 3 and min(positions.values()) > 60


def _write_shard(path: Path, captions: list[list[str]]) -> None:
    with tarfile.open(path, "w") as tar:
        for index, texts in enumerate(captions):
            for name, data in (
                (f"{index}.jpg", jpeg(index)),
                (f"{index}.json", json.dumps({"captions": texts}).encode()),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def test_a_run_hides_plants_and_counts(ray_cluster: None, tmp_path: Path) -> None:
    from ram_ray.curation.images import curate
    from ram_ray.data.collect import collect
    from ram_ray.labels.parse_stage import parse
    from ram_ray.labels.stages import build_labels, label_captions
    from ram_ray.runtime.artifacts import Run
    from ram_ray.runtime.rows import read_rows

    nouns = ["dog", "ball", "tree", "man", "car", "house"]
    captions = [[f"a {nouns[(index + step) % 6]}" for step in range(3)] for index in range(30)]
    _write_shard(tmp_path / "photos.tar", captions)
    sets = ["data.measure={captions_per_image: 1, planted: 1.0}", "labels.min_count=1", "labels.max_labels=20"]
    config = load(Path(__file__).parents[1] / "tiny_run.yaml", sets=[*sets, "data.min_side=8"])
    run, uris = Run(str(tmp_path / "run")), [str(tmp_path / "photos.tar")]
    (samples,) = curate(run, config, collect(run, config, name="shards", uris=uris))
    parsed = parse(run, config, samples)
    assert parsed.captions == 30, "hidden captions are in no count"
    labels = build_labels(run, config, parsed)
    annotations = label_captions(run, config, parsed, labels)
    assert (annotations.labelled, annotations.truth) == (30, Counts(30, 30, 60))
    held_out = collect(run, config, name="shards_eval", uris=uris, held_out=True)
    whole = label_captions(run, config, parse(run, config, held_out, name="p"), labels, name="l")
    assert (whole.tags, whole.labelled, whole.truth) == (90, 0, None), "held-out images are not changed"
    rows = list(read_rows(samples.path, execution=config.execution).iter_rows())
    assert all(len(row["captions"]) == 1 and len(row["hidden_captions"]) == 2 for row in rows)
    (again,) = curate(run, config.model_copy(update={"seed": 1}), collect(run, config, name="shards", uris=uris))
    assert again.digest != samples.digest, "another seed shows other captions"


def test_settings_are_checked() -> None:
    assert not load().data.measure.is_enabled and load(sets=["data.measure.planted=0.1"]).data.measure.is_enabled
    with pytest.raises(ValueError, match="captions_per_image"):
        load(sets=["data.measure.captions_per_image=0"])
