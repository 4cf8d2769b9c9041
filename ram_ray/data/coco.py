"""Samples of COCO's annotation files: captions, and categories of instances as human labels.

An annotation names its image by number, and those of one image are anywhere in the file. So the file is read value by
value, and captions and categories are kept by image until its end; boxes and polygons are dropped as they come. The
images lie beside the file, or where COCO's own archives put them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import fsspec

from ram_ray.data.json_stream import JsonStream, open_json
from ram_ray.data.samples import ImageCheck, Sample, check_file, folder_of, relative_name
from ram_ray.data.texts import parse_texts
from ram_ray.records import Json, Reject
from ram_ray.runtime.location import child_uri, locate

PEEKED = 64 << 10  # characters of a file that tell what it is
NUM_TRIED = 5  # images that are looked for in each folder


@dataclass(slots=True)
class _Image:
    name: object
    captions: list[object] = field(default_factory=list)
    categories: set[int] = field(default_factory=set)


def is_coco(start: bytes) -> bool:
    """Whether a JSON file begins like COCO's.

    Args:
        start: its first bytes.

    Returns:
        Whether it is an object with images or annotations.
    """
    return start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and (b'"images"' in start or b'"annotations"' in start)


def read_coco(uri: str, *, check_image: ImageCheck, images: str | None = None) -> Iterator[Sample]:
    """Read the samples of a COCO file.

    Args:
        uri: URI of the file.
        check_image: function that checks an image.
        images: folder that image names start from; None: it is looked for.

    Yields:
        Samples, in the order of the file's images; the key is the image's name.

    Raises:
        OSError: if the storage fails.
    """
    found: dict[object, _Image] = {}
    loose: dict[object, _Image] = {}  # annotations whose image is not listed, or is listed further on
    names: dict[object, str] = {}
    num_categories = 0
    try:
        with open_json(uri) as file:
            for name, value in JsonStream(file, uri).fields():
                if not isinstance(value, dict):
                    continue
                if name == "images":
                    entry = loose.pop(value.get("id"), None) or _Image(None)
                    entry.name = value.get("file_name")
                    found[value.get("id")] = entry
                elif name == "annotations":
                    number = value.get("image_id")
                    num_categories += _add(value, found.get(number) or loose.setdefault(number, _Image(None)))
                elif name == "categories":
                    names[value.get("id")] = str(value.get("name"))
    except ValueError as error:
        yield Sample("#broken", uri, problem=Reject("broken_archive", str(error)))
    root = images.rstrip("/") if images else _find_root(uri, [entry.name for entry in list(found.values())[:NUM_TRIED]])
    for number, entry in found.items():
        yield _sample(number, entry, uri, root, names if num_categories else None, check_image)
    if loose:
        detail = f"annotations of {len(loose):,} images that are not in its list of images, such as {next(iter(loose))}"
        yield Sample("#loose", uri, problem=Reject("bad_metadata", detail))


def _add(annotation: Json, image: _Image) -> int:
    """Add an annotation to its image; returns the number of categories in it."""
    if "caption" in annotation:
        image.captions.append(annotation["caption"])
    category = annotation.get("category_id")
    if not isinstance(category, int):
        return 0
    image.categories.add(category)
    return 1


def _sample(
    number: object, entry: _Image, uri: str, root: str, names: dict[object, str] | None, check_image: ImageCheck
) -> Sample:
    sample = Sample(f"image-{number}", uri)
    try:
        name = relative_name(entry.name, root=root)
        sample.captions = parse_texts(entry.captions, "caption")
        if names is not None:
            sample.labels = sorted(names.get(category, f"category {category}") for category in entry.categories)
        sample.key, sample.uri = name, child_uri(root, name)
    except Reject as reject:
        sample.problem = reject
        return sample
    check_file(sample, named_in=f"image {number}", check_image=check_image)
    return sample


def _find_root(uri: str, names: list[object]) -> str:
    """The folder of the images: that of the file, or as COCO has it, `train2017` beside `annotations`."""
    folder = folder_of(uri, None)
    above = folder.rpartition("/")[0]
    split = uri.rpartition("/")[2].removesuffix(".json").rpartition("_")[2]
    folders = [folder, f"{folder}/{split}", f"{folder}/images", f"{above}/{split}", f"{above}/images/{split}"]
    for root in [*folders, f"{above}/images", above]:
        fs, path = locate(root)
        if any(isinstance(name, str) and _is_file(fs, f"{path}/{name}") for name in names):
            return root
    return folder


def _is_file(fs: fsspec.AbstractFileSystem, path: str) -> bool:
    try:
        return fs.isfile(path)
    except (OSError, ValueError):
        return False
