"""Tags of a whole archive as one file for another program: CSV, COCO, FiftyOne, Label Studio.

Each is written from the parts of batch tagging (`tagged_parts`), which are read one at a time, so memory does not grow
with the archive; a file that has to name all tags first reads them twice. It is written beside the parts in one step.

    csv            tags.csv: an image on each line, tags and scores separated by "; "
    coco           coco.json: an annotation for each tag; `bbox` in pixels where the rows have boxes
    fiftyone       fiftyone/: FiftyOneImageClassificationDataset, and FiftyOneImageDetectionDataset of the boxes
    label_studio   label_studio.json: tasks with predictions; label_studio.xml: the labeling interface
"""

from __future__ import annotations

import csv
import json
import posixpath
from collections.abc import Callable, Iterator
from typing import IO
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from ram_ray.data.tagged_parts import read_tagged
from ram_ray.records import Json, Row
from ram_ray.runtime.artifacts import open_replacing

FORMATS = ("csv", "coco", "fiftyone", "label_studio")
NEED_FILES = ("fiftyone", "label_studio")  # formats that name image files, which images in shards are not
_COLUMNS = ["key", "tags", "scores", "error", "caption", "boxes", "uri", "member", "width", "height"]
_LIST = "; "


def export_tags(out: str, formats: list[str]) -> list[str]:
    """Write the tags of an archive for other programs.

    Args:
        out: folder or URI of batch tagging.
        formats: of `FORMATS`.

    Returns:
        Paths or URIs of the files.

    Raises:
        ValueError: if a format is unknown, or needs image files where there are shards.
    """
    check_formats(formats)
    writers: dict[str, Callable[[str], list[str]]] = {
        "csv": _write_csv,
        "coco": _write_coco,
        "fiftyone": _write_fiftyone,
        "label_studio": _write_label_studio,
    }
    return [path for name in formats for path in writers[name](out.rstrip("/"))]


def check_formats(formats: list[str]) -> None:
    """Check the names of formats.

    Args:
        formats: names.

    Raises:
        ValueError: if a format is unknown.
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ValueError(f"{unknown[0]!r} is no format; use some of {', '.join(FORMATS)}")


def _rows(out: str) -> Iterator[Row]:
    for table in read_tagged(out, _COLUMNS):
        yield from table.to_pylist()


def _file_rows(out: str, format: str) -> Iterator[Row]:
    """Rows of image files that were tagged."""
    for row in _rows(out):
        if row["member"]:
            raise ValueError(f"{format} names image files, and {row['uri']} is a shard; leave out --write {format}")
        if row["error"] is None:
            yield row


def _names(out: str) -> list[str]:
    """All tags, sorted."""
    names: set[str] = set()
    for table in read_tagged(out, ["tags"]):
        names.update(table["tags"].combine_chunks().flatten().to_pylist())
    return sorted(names)


def _write_csv(out: str) -> list[str]:
    path = f"{out}/tags.csv"
    with open_replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["key", "file", "tags", "scores", "caption", "error"])
        for row in _rows(out):
            scores = _LIST.join(f"{score:.4f}" for score in row["scores"])
            texts = row.get("caption") or "", row["error"] or ""
            writer.writerow([row["key"], row["uri"], _LIST.join(row["tags"]), scores, *texts])
    return [path]


def _write_coco(out: str) -> list[str]:
    path = f"{out}/coco.json"
    ids = {name: id for id, name in enumerate(_names(out), start=1)}
    with open_replacing(path) as file:
        file.write('{"info": {"description": "tags by ram_ray"}, "licenses": [], "images": ')
        _write_list(file, (_coco_image(id, row) for id, row in _numbered(out)))
        file.write(', "annotations": ')
        _write_list(file, _numbered_annotations(out, ids))
        file.write(', "categories": ')
        _write_list(file, ({"id": id, "name": name, "supercategory": ""} for name, id in ids.items()))
        file.write("}\n")
    return [path]


def _numbered(out: str) -> Iterator[tuple[int, Row]]:
    return enumerate((row for row in _rows(out) if row["error"] is None), start=1)


def _coco_image(id: int, row: Row) -> Json:
    suffix = "" if not row["member"] else ".jpg"
    caption = {"caption": row["caption"]} if row.get("caption") else {}
    name = f"{row['key']}{suffix}"
    return {"id": id, "file_name": name, "width": row["width"], "height": row["height"], **caption}


def _numbered_annotations(out: str, ids: dict[str, int]) -> Iterator[Json]:
    number = 0
    for image, row in _numbered(out):
        for index, (tag, score) in enumerate(zip(row["tags"], row["scores"], strict=True)):
            number += 1
            annotation = {"id": number, "image_id": image, "category_id": ids[tag], "score": round(score, 5)}
            box = _box_of(row, index)
            if box is None:  # the tag is of the whole image, and no box is claimed
                yield {**annotation, "iscrowd": 0, "area": 0}
                continue
            x0, y0, x1, y1 = (value * side for value, side in zip(box, (row["width"], row["height"]) * 2, strict=True))
            bbox = [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)]
            yield {**annotation, "iscrowd": 0, "area": round(bbox[2] * bbox[3], 2), "bbox": bbox}


def _write_fiftyone(out: str) -> list[str]:
    folder = f"{out}/fiftyone"
    names = {"data.json": _fiftyone_path, "labels.json": _fiftyone_tags, "detections.json": _fiftyone_boxes}
    if not any(row.get("boxes") for row in _file_rows(out, "fiftyone")):
        del names["detections.json"]
    for name, value_of in names.items():
        with open_replacing(f"{folder}/{name}") as file:
            if name == "data.json":
                # FiftyOne drops the ending of these names, so that a.jpg and a.png would be one without another.
                rows = _file_rows(out, "fiftyone")
                _write_object(file, ((f"{_sample_id(row)}.image", value_of(row)) for row in rows))
                continue
            file.write('{"classes": null, "labels": ')
            _write_object(file, ((_sample_id(row), value_of(row)) for row in _file_rows(out, "fiftyone")))
            file.write("}\n")
    return [f"{folder}/{name}" for name in names]


def _fiftyone_path(row: Row) -> object:
    return row["uri"]


def _fiftyone_tags(row: Row) -> object:
    pairs = zip(row["tags"], row["scores"], strict=True)
    return [{"label": tag, "confidence": round(score, 5)} for tag, score in pairs]


def _fiftyone_boxes(row: Row) -> object:
    detections = []
    for index, (tag, score) in enumerate(zip(row["tags"], row["scores"], strict=True)):
        if box := _box_of(row, index):
            bounds = [round(value, 5) for value in (box[0], box[1], box[2] - box[0], box[3] - box[1])]
            detections.append({"label": tag, "bounding_box": bounds, "confidence": round(score, 5)})
    return detections


def _write_label_studio(out: str) -> list[str]:
    tasks, interface = f"{out}/label_studio.json", f"{out}/label_studio.xml"
    with open_replacing(tasks) as file:
        _write_list(file, (_label_studio_task(row) for row in _file_rows(out, "label_studio")))
        file.write("\n")
    names = _names(out)
    choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in names)
    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in names)
    boxes = f'  <RectangleLabels name="boxes" toName="image">\n{labels}  </RectangleLabels>\n'
    has_boxes = any(row.get("boxes") for row in _file_rows(out, "label_studio"))
    with open_replacing(interface) as file:
        file.write('<View>\n  <Image name="image" value="$image"/>\n')
        file.write(f'  <Choices name="tags" toName="image" choice="multiple">\n{choices}  </Choices>\n')
        file.write(f"{boxes if has_boxes else ''}</View>\n")
    return [tasks, interface]


def _label_studio_task(row: Row) -> Json:
    """A task; a local file is named as Label Studio serves it from the document root `/`."""
    uri = row["uri"]
    image = uri if "://" in uri else f"/data/local-files/?d={quote(uri.lstrip('/'))}"
    size = {"original_width": row["width"], "original_height": row["height"], "image_rotation": 0}
    target = {"to_name": "image", **size}
    result: list[Json] = []
    if row["tags"]:
        result.append({"id": "tags", "from_name": "tags", "type": "choices", **target} | _value(choices=row["tags"]))
    for index, (tag, score) in enumerate(zip(row["tags"], row["scores"], strict=True)):
        if box := _box_of(row, index):
            x, y, x1, y1 = (100 * value for value in box)
            bounds = {"x": x, "y": y, "width": x1 - x, "height": y1 - y, "rotation": 0}
            region = {"id": f"box{index}", "from_name": "boxes", "type": "rectanglelabels", "score": round(score, 5)}
            result.append({**region, **target} | _value(**bounds, rectanglelabels=[tag]))
    score = round(sum(row["scores"]) / len(row["scores"]), 5) if row["scores"] else 0.0
    prediction = {"model_version": "ram_ray", "score": score, "result": result}
    return {"data": {"image": image, "key": row["key"]}, "predictions": [prediction]}


def _value(**fields: object) -> Json:
    return {"value": fields}


def _box_of(row: Row, index: int) -> list[float] | None:
    boxes = row.get("boxes")
    return boxes[index] if boxes else None


def _sample_id(row: Row) -> str:
    """Name of a sample in FiftyOne's files, which takes paths in their normal form."""
    return posixpath.normpath(row["key"])


def _write_list(file: IO[str], items: Iterator[Json]) -> None:
    file.write("[")
    for index, item in enumerate(items):
        file.write(("," if index else "") + "\n" + json.dumps(item, ensure_ascii=False))
    file.write("]")


def _write_object(file: IO[str], items: Iterator[tuple[str, object]]) -> None:
    file.write("{")
    for index, (name, value) in enumerate(items):
        head = ("," if index else "") + "\n" + json.dumps(name, ensure_ascii=False)
        file.write(f"{head}: {json.dumps(value, ensure_ascii=False)}")
    file.write("}")
