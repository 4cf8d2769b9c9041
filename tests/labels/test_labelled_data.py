"""Contract: a run on labelled images without captions and on released annotations makes annotations of both, every row
is there or rejected, and a set without any negative is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ram_ray.config import RunConfig, load
from ram_ray.label_system import LabelSystem
from ram_ray.results import Annotations, LabelSystemResult
from ram_ray.runtime.artifacts import Run
from tests.tiny import jpeg

TINY = Path(__file__).parents[1] / "tiny_run.yaml"


def _annotate(folder: Path, config: RunConfig, uris: list[str]) -> tuple[LabelSystemResult, Annotations, list[dict]]:
    from ram_ray.data.collect import collect
    from ram_ray.labels.parse_stage import parse
    from ram_ray.labels.stages import build_labels, label_captions
    from ram_ray.runtime.rows import read_rows

    run = Run(str(folder))
    samples = collect(run, config, name="shards", uris=uris)
    parsed = parse(run, config, samples)
    labels = build_labels(run, config, parsed)
    annotations = label_captions(run, config, parsed, labels)
    rows = read_rows(annotations.path, execution=config.execution).iter_rows()
    for result in (samples, parsed, annotations):
        assert result.rows_in == result.rows_out + result.rejected
    return labels, annotations, sorted(rows, key=lambda row: row["key"])


def _write_images(folder: Path) -> None:
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.jpg").write_bytes(jpeg(number))


def test_labelled_images_without_captions(ray_cluster: None, tmp_path: Path) -> None:
    _write_images(tmp_path / "shop")
    lines = [
        {"file_name": "0.jpg", "labels": ["fire_hydrant", "dog"]},
        {"file_name": "1.jpg", "labels": ["dog"]},
        {"file_name": "2.jpg", "labels": []},
        {"file_name": "3.jpg"},
    ]
    (tmp_path / "shop" / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    uris = [str(tmp_path / "shop")]
    config = load(TINY, sets=["data.min_side=8", "data.human_labels=complete"])
    labels, annotations, rows = _annotate(tmp_path / "run", config, uris)
    system = LabelSystem.load(labels.uri)
    assert {label.name: label.count for label in system.labels} == {"dog": 2, "fire hydrant": 1}
    dog, hydrant = system.find("dog"), system.find("fire hydrant")
    assert [{tag["id"] for tag in row["tags"]} for row in rows] == [{dog, hydrant}, {dog}, set()]
    assert [set(row["absent"]) for row in rows] == [set(), {hydrant}, {dog, hydrant}]
    assert (annotations.human, annotations.rows_out, annotations.truth) == (3, 3, None)
    partial = load(TINY, sets=["data.min_side=8", "data.human_labels=partial"])
    with pytest.raises(ValueError, match="data.human_labels: each of the 2 images with tags leaves all other labels"):
        _annotate(tmp_path / "run", partial, uris)


def test_a_name_of_human_labels_is_counted_however_rare(ray_cluster: None, tmp_path: Path) -> None:
    """Its captions count too, and say of which kind it is."""
    _write_images(tmp_path / "shop")
    captions = ["a dog and an orange", "a dog on grass", "a dog", "an orange"]
    lines = [{"file_name": f"{number}.jpg", "captions": [text]} for number, text in enumerate(captions)]
    lines[0] |= {"labels": ["orange"]}
    lines[1] |= {"labels": []}
    (tmp_path / "shop" / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    sets = ["data.min_side=8", "data.human_labels=complete", "labels.min_name_count=3"]
    labels, _, _ = _annotate(tmp_path / "run", load(TINY, sets=sets), [str(tmp_path / "shop")])
    system = LabelSystem.load(labels.uri)
    assert {label.name: (label.kind, label.count) for label in system.labels} == {
        "dog": ("object", 3),
        "orange": ("object", 3),
    }
    assert (labels.names, labels.rare_names) == (3, 1), "grass"


def test_released_annotations(ray_cluster: None, tmp_path: Path) -> None:
    _write_images(tmp_path / "images")
    entry = {"caption": ["a dog on a beach"], "union_label_id": [0, 1, 2], "parse_label_id": [[0, 1]]}
    entries = [{**entry, "image_path": f"{number}.jpg"} for number in range(5)]  # the last image is not there
    (tmp_path / "released.json").write_text(json.dumps(entries))
    (tmp_path / "tags.txt").write_text("dog\nsea\nball\n")
    sets = ["data.min_side=8", f"data.images={tmp_path / 'images'}", f"labels.system={tmp_path / 'tags.txt'}"]
    _, annotations, rows = _annotate(tmp_path / "run", load(TINY, sets=sets), [str(tmp_path / "released.json")])
    assert (annotations.rows_out, annotations.tags) == (4, 12)
    for row in rows:
        assert {tag["id"]: tag["origin"] for tag in row["tags"]} == {0: "parsed", 1: "parsed", 2: "tagger"}
        assert sorted(row["captions"][0]["tags"]) == [0, 1] and row["uri"].startswith(str(tmp_path / "images"))
