"""The truth of evaluation sets in the files that they come in, as classes of images.

| format | file | a class is true of an image if |
|---|---|---|
| list | `image,tag,tag` on each line, or `image,3 17`: numbers of the class list from 0 | it is listed |
| coco | COCO's instances or panoptic JSON | a box, mask or segment has it |
| openimages | CSV with ImageID, LabelName, Confidence; boxes too | a line has it with a confidence of at least 0.5 |
| ade20k | folder of PNG masks whose values are numbers of the class list from 1 | a pixel has it |

With `min_area` an object that is smaller than this share of the image does not count: neither as the class being there
nor as its being absent, unless a larger one of the class is there too.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from PIL import Image

from ram_ray.data.json_stream import JsonStream, open_json
from ram_ray.evaluation.sets.rows import SetRow
from ram_ray.evaluation.sets.spec import SetSpec
from ram_ray.label_system import normalize_name
from ram_ray.labels.names import read_text
from ram_ray.runtime.location import locate

MAX_BYTES = 2_000_000_000  # of an annotation file that is read whole
MAX_MASK_PIXELS = 50_000_000
_NUMBERS = re.compile(r"\d+( \d+)*")


def read_truth(spec: SetSpec, classes: Sequence[str] | None) -> tuple[Iterator[SetRow], list[str] | None]:
    """Read the truth of a set that is not made of shards.

    Args:
        spec: the set, with absolute paths.
        classes: names of the given class list; None: there is none.

    Returns:
        The rows, and the classes that the file itself lists (None: it lists none).

    Raises:
        ValueError: if the file is not of the format, or needs a class list.
    """
    if spec.format == "coco":
        areas, names = _read_coco(spec.truth)
        return _rows_by_area(areas, spec.min_area), names
    if spec.format == "openimages":
        return _read_openimages(spec), None
    if spec.format == "ade20k":
        if classes is None:
            raise ValueError(f"--eval {spec.name}: masks hold numbers of classes: add classes=objectInfo150.csv")
        return _read_masks(spec, classes), None
    return _read_list(spec.truth, classes), None


def _read_list(uri: str, classes: Sequence[str] | None) -> Iterator[SetRow]:
    for number, line in enumerate(_lines(uri), 1):
        image, *tags = (cell.strip() for cell in line.split(","))
        if not image:
            raise ValueError(f"{uri}, line {number}: no image; write image,tag,tag")
        if len(tags) == 1 and _NUMBERS.fullmatch(tags[0]) and not (classes and tags[0] in classes):
            if classes is None:
                raise ValueError(f"{uri}, line {number}: has numbers of classes; add classes=FILE, their names")
            numbers = [int(text) for text in tags[0].split()]
            if max(numbers) >= len(classes):
                raise ValueError(f"{uri}, line {number}: class {max(numbers)}; the list has 0 to {len(classes) - 1}")
            tags = [classes[index] for index in numbers]
        yield SetRow(image, list(dict.fromkeys(tag for tag in tags if tag)))


def _lines(uri: str) -> list[str]:
    return [line for line in read_text(uri, setting="--eval", max_bytes=MAX_BYTES).splitlines() if line.strip()]


Areas = dict[str, dict[str, float]]  # image -> class -> share of its largest object


def _read_coco(uri: str) -> tuple[Areas, list[str]]:
    names: dict[object, str] = {}
    images: dict[object, tuple[str, float]] = {}  # id -> key and pixels
    largest: dict[object, dict[object, float]] = defaultdict(dict)  # image -> category -> pixels
    try:
        with open_json(uri) as file:
            for name, value in JsonStream(file, uri).fields():
                if not isinstance(value, dict):
                    continue
                if name == "images":
                    pixels = float(value.get("width") or 0) * float(value.get("height") or 0)
                    images[value["id"]] = (str(value["file_name"]), pixels)
                elif name == "categories":
                    names[value["id"]] = str(value["name"])
                elif name == "annotations":
                    for segment in value.get("segments_info") or [value]:
                        box = segment.get("bbox") or (0, 0, 0, 0)
                        area = float(segment.get("area") or box[2] * box[3])
                        of_image = largest[value["image_id"]]
                        category = segment["category_id"]
                        of_image[category] = max(area, of_image.get(category, 0.0))
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{uri}: is not COCO's instances or panoptic JSON ({error!r:.100})") from None
    if not images or not names:
        raise ValueError(f"{uri}: lists no images or no categories; use COCO's instances or panoptic JSON")
    if loose := set(largest) - set(images):
        raise ValueError(
            f"{uri}: annotations of {len(loose):,} images that it does not list, such as {min(loose, key=str)}"
        )
    if unnamed := {category for of_image in largest.values() for category in of_image} - set(names):
        raise ValueError(f"{uri}: annotations of category {min(unnamed, key=str)}, which it does not list")
    areas = {
        key: {names[category]: area / max(pixels, 1.0) for category, area in largest.get(number, {}).items()}
        for number, (key, pixels) in images.items()
    }
    return areas, list(names.values())


def _rows_by_area(areas: Mapping[str, Mapping[str, float]], min_area: float) -> Iterator[SetRow]:
    for key, of_image in areas.items():
        large = [name for name, area in of_image.items() if area >= min_area]
        yield SetRow(key, large, ignored=[name for name in of_image if name not in large])


def _read_openimages(spec: SetSpec) -> Iterator[SetRow]:
    names = _descriptions(spec.descriptions) if spec.descriptions else {}
    reader = csv.DictReader(_lines(spec.truth))
    if missing := {"ImageID", "LabelName"} - set(reader.fieldnames or ()):
        raise ValueError(
            f"{spec.truth}: has no column {', '.join(sorted(missing))}; use OpenImages' CSV of labels or boxes"
        )
    truth: dict[str, dict[str, bool]] = defaultdict(dict)
    unnamed: Counter[str] = Counter()
    for number, line in enumerate(reader, 2):
        label, image = str(line["LabelName"]), line["ImageID"]
        try:
            is_true = float(line.get("Confidence") or 1) >= 0.5
        except ValueError:
            raise ValueError(
                f"{spec.truth}, line {number}: the confidence {line['Confidence']!r} is no number"
            ) from None
        if not image or not label:
            raise ValueError(f"{spec.truth}, line {number}: names no image or no label")
        unnamed[label] += label.startswith("/") and label not in names
        of_image = truth[image]
        name = names.get(label, label)
        of_image[name] = of_image.get(name, False) or is_true
    if without := [label for label, count in unnamed.items() if count]:
        raise ValueError(
            f"{spec.truth}: {len(without):,} labels such as {without[0]} have no name; "
            f"add descriptions=class-descriptions.csv to --eval {spec.name}"
        )
    for image, of_image in truth.items():
        absent = [name for name, is_true in of_image.items() if not is_true]
        yield SetRow(
            image,
            [name for name, is_true in of_image.items() if is_true],
            absent=absent if spec.unverified == "unknown" else None,
        )


def _descriptions(uri: str) -> dict[str, str]:
    rows = (row for row in csv.reader(_lines(uri)) if len(row) >= 2)
    return {row[0].strip(): normalize_name(row[1]) for row in rows if row[0].startswith("/")}


def _read_masks(spec: SetSpec, classes: Sequence[str]) -> Iterator[SetRow]:
    fs, folder = locate(spec.truth)
    paths = sorted(path for path in fs.find(folder) if path.lower().endswith(".png"))
    if not paths:
        raise ValueError(f"{spec.truth}: holds no .png masks")
    for path in paths:
        with Image.open(io.BytesIO(fs.cat_file(path))) as image:
            if image.width * image.height > MAX_MASK_PIXELS or image.mode not in ("L", "P", "I", "I;16"):
                raise ValueError(
                    f"{path}: is no mask of one number a pixel ({image.mode}, {image.width} x {image.height})"
                )
            values, counts = np.unique(np.asarray(image), return_counts=True)
        if values.max() > len(classes):
            raise ValueError(f"{path}: has the class {values.max()}; the list has 1 to {len(classes)}")
        shares = {
            classes[value - 1]: count / counts.sum() for value, count in zip(values, counts, strict=True) if value
        }
        key = path[len(folder.rstrip("/")) + 1 :].removesuffix(".png")
        yield from _rows_by_area({key: shares}, spec.min_area)
