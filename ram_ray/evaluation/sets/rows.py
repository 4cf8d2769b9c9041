"""The row of an evaluation set: an image, where it lies, and which classes are true of it, by name."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from ram_ray.data.samples import relative_name
from ram_ray.records import Reject
from ram_ray.runtime.location import child_uri, locate
from ram_ray.settings.data import IMAGE_EXTENSIONS

NOT_LOOKED_UP = -1  # of `nbytes`: an image file whose size is still to be asked

SET_ROW = pa.schema(
    [
        ("key", pa.string()),
        ("uri", pa.string()),  # null: the set has no images, only a truth
        ("offset", pa.int64()),
        ("nbytes", pa.int64()),
        ("truth", pa.list_(pa.string())),  # names of true classes
        ("ignored", pa.list_(pa.string())),  # classes that do not count on this image
        ("absent", pa.list_(pa.string())),  # classes that are known to be absent; null: all that are not true
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)


@dataclass(slots=True)
class SetRow:
    """A SET_ROW whose image is a file named in an annotation file."""

    key: str
    truth: list[str]
    ignored: list[str] = field(default_factory=list)
    absent: list[str] | None = None


def to_set_table(rows: list[SetRow], *, images: str | None) -> pa.Table:
    """Make SET_ROW rows of images that are files.

    Args:
        rows: the images; a key is the image's path in its folder, with or without its ending.
        images: URI of the folder; None: the set is scored by predictions alone.

    Returns:
        SET_ROW rows.
    """
    tree = []
    for row in rows:
        uri, problem = None, None
        if images is not None:
            try:
                name = relative_name(row.key)
                has_ending = name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS
                uri = child_uri(images.rstrip("/"), name if has_ending else f"{name}.jpg")
            except Reject as reject:
                problem = reject
        tree.append(
            {
                "key": row.key,
                "uri": uri,
                "offset": 0,
                "nbytes": NOT_LOOKED_UP,
                "truth": row.truth,
                "ignored": row.ignored,
                "absent": row.absent,
                "reason": problem.reason if problem else None,
                "detail": problem.detail if problem else None,
            }
        )
    return pa.Table.from_pylist(tree, schema=SET_ROW)


def look_up_sizes(block: pa.Table) -> pa.Table:
    """Ask the storage for the sizes of image files; one that is not there gets a reason.

    Args:
        block: SET_ROW rows.

    Returns:
        The rows with `nbytes`.
    """
    rows = block.to_pylist()
    for row in rows:
        if row["reason"] or row["nbytes"] != NOT_LOOKED_UP:
            continue
        if row["uri"] is None:
            row |= {"nbytes": 0, "reason": "bad_metadata", "detail": "the set names no folder of images"}
            continue
        fs, path = locate(row["uri"])
        try:
            row["nbytes"] = int(fs.info(path)["size"])
        except FileNotFoundError:
            row |= {"nbytes": 0, "reason": "bad_metadata", "detail": f"{row['uri']}: there is no such image"}
    return pa.Table.from_pylist(rows, schema=block.schema)
