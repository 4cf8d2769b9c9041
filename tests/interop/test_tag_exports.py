"""Contract: the tags of an archive are read back by the other programs' own readers, where these are installed, with
every image, tag, score and box; what needs image files says so for shards."""

from __future__ import annotations

import csv
import json
import posixpath
from pathlib import Path

import pyarrow as pa
import pytest

from ram_ray.data.tagged_parts import tagged_schema, write_part
from ram_ray.interop.tag_exports import FORMATS, export_tags

BOX = [0.25, 0.0, 0.75, 0.5]


def rows(*, boxes: bool = True, member: str = "") -> list[dict]:
    """Two images of one stem, one without tags, and one that could not be read."""
    tagged = [("album/a.jpg", ["dog", 'R&B "x"'], [0.9, 0.5]), ("album/a.png", [], []), ("album/b.jpg", ["dog"], [0.7])]
    size = {"member": member, "version": "1", "width": 80, "height": 40, "error": None}
    values = [
        {**size, "key": key, "tags": tags, "scores": scores, "uri": f"/photos/{key}", "caption": f"of {key}"}
        for key, tags, scores in tagged
    ]
    if boxes:
        for value in values:
            value["boxes"] = [BOX, None][: len(value["tags"])]
    broken = {"key": "album/c.jpg", "tags": [], "scores": [], "uri": "/photos/album/c.jpg", "member": member}
    return [*values, {**broken, "version": "1", "error": "truncated: x"}]


def write(out: Path, values: list[dict]) -> str:
    schema = tagged_schema(("caption", "boxes"))
    for number, start in enumerate(range(0, len(values), 2)):
        write_part(pa.Table.from_pylist(values[start : start + 2], schema=schema), str(out), f"part-{number}")
    return str(out)


def test_csv_has_a_line_an_image(tmp_path: Path) -> None:
    (path,) = export_tags(write(tmp_path, rows()), ["csv"])
    with open(path, encoding="utf-8", newline="") as file:
        lines = {line["key"]: line for line in csv.DictReader(file)}
    assert len(lines) == 4 and lines["album/a.jpg"]["tags"] == 'dog; R&B "x"'
    assert lines["album/a.jpg"]["scores"] == "0.9000; 0.5000" and lines["album/a.png"]["tags"] == ""
    assert lines["album/c.jpg"]["error"] == "truncated: x" and lines["album/b.jpg"]["caption"] == "of album/b.jpg"


def test_coco_is_read_by_pycocotools(tmp_path: Path) -> None:
    reader = pytest.importorskip("pycocotools.coco")
    (path,) = export_tags(write(tmp_path, rows()), ["coco"])
    coco = reader.COCO(path)
    names = {image["id"]: image["file_name"] for image in coco.loadImgs(coco.getImgIds())}
    assert sorted(names.values()) == ["album/a.jpg", "album/a.png", "album/b.jpg"]
    (dog,) = coco.getCatIds(catNms=["dog"])
    found = coco.loadAnns(coco.getAnnIds(catIds=[dog]))
    assert {names[annotation["image_id"]]: annotation["score"] for annotation in found} == {
        "album/a.jpg": 0.9,
        "album/b.jpg": 0.7,
    }
    assert all(annotation["bbox"] == [20, 0, 40, 20] and annotation["area"] == 800 for annotation in found)
    (other,) = coco.loadAnns(coco.getAnnIds(catIds=coco.getCatIds(catNms=['R&B "x"'])))
    assert "bbox" not in other, "a tag without a region claims no box"


def test_fiftyone_finds_each_image_and_its_tags(tmp_path: Path) -> None:
    export_tags(write(tmp_path, rows()), ["fiftyone"])
    folder = tmp_path / "fiftyone"
    files, tags, boxes = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("data", "labels", "detections")
    )
    by_id = {posixpath.splitext(name)[0]: path for name, path in files.items()}  # as its importer reads the names
    assert by_id == {name: f"/photos/{name}" for name in ("album/a.jpg", "album/a.png", "album/b.jpg")}
    assert tags["labels"]["album/a.jpg"] == [
        {"label": "dog", "confidence": 0.9},
        {"label": 'R&B "x"', "confidence": 0.5},
    ]
    assert set(tags["labels"]) == set(boxes["labels"]) == set(by_id) and tags["labels"]["album/a.png"] == []
    assert boxes["labels"]["album/a.jpg"] == [{"label": "dog", "bounding_box": [0.25, 0, 0.5, 0.5], "confidence": 0.9}]


def test_fiftyones_own_importers_read_them(tmp_path: Path) -> None:
    importers = pytest.importorskip("fiftyone.utils.data.importers")
    export_tags(write(tmp_path, rows()), ["fiftyone"])
    for kind, labels in (("Classification", "labels.json"), ("Detection", "detections.json")):
        importer = getattr(importers, f"FiftyOneImage{kind}DatasetImporter")
        with importer(dataset_dir=str(tmp_path / "fiftyone"), data_path="data.json", labels_path=labels) as samples:
            found = {path: label for path, _, label in samples}
        assert set(found) == {f"/photos/album/{name}" for name in ("a.jpg", "a.png", "b.jpg")}


def test_label_studio_takes_the_tasks(tmp_path: Path) -> None:
    tasks_path, interface = export_tags(write(tmp_path, rows()), ["label_studio"])
    tasks = json.loads(Path(tasks_path).read_text())
    assert [task["data"]["key"] for task in tasks] == ["album/a.jpg", "album/a.png", "album/b.jpg"]
    assert tasks[0]["data"]["image"] == "/data/local-files/?d=photos/album/a.jpg"
    choices, box = tasks[0]["predictions"][0]["result"]
    assert choices["value"] == {"choices": ["dog", 'R&B "x"']}
    assert box["value"] == {"x": 25, "y": 0, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["dog"]}
    reader = pytest.importorskip("label_studio_sdk.label_interface")
    labeling = reader.LabelInterface(Path(interface).read_text())
    for task in tasks:
        assert labeling.validate_task({"data": task["data"]})
        assert not labeling.validate_prediction(task["predictions"][0], return_errors=True)


def test_shards_and_unknown_formats_are_one_clear_error(tmp_path: Path) -> None:
    out = write(tmp_path, rows(boxes=False, member="00000/1"))
    assert len(export_tags(out, ["csv", "coco"])) == 2
    for name in ("fiftyone", "label_studio"):
        with pytest.raises(ValueError, match=f"{name} names image files, and .* is a shard"):
            export_tags(out, [name])
    with pytest.raises(ValueError, match=f"'xls' is no format; use some of {', '.join(FORMATS)}"):
        export_tags(out, ["xls"])
    assert not list(tmp_path.rglob("*.part")), "an export that failed leaves no part of a file"
