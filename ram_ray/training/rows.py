"""Training rows: made from annotations, and put into buckets by a hash.

The hash is of the seed and the key; in large tables of the seed and the neighbourhood, see `training.order`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ram_ray.data.parquet import is_parquet
from ram_ray.runtime.key_hash import hash_key

NEIGHBOUR_BYTES = 1 << 20  # of a file
NEIGHBOUR_ROWS = 16  # of a Parquet file
IMAGE_LOCATION = pa.struct([("uri", pa.string()), ("offset", pa.int64()), ("nbytes", pa.int64())])
ROWS = pa.schema(
    [
        ("order", pa.int64()),
        ("bucket", pa.int32()),
        ("key", pa.string()),
        ("shard", pa.string()),
        ("images", pa.list_(IMAGE_LOCATION)),  # a single image for the tagger, several for StableRep
        ("tags", pa.list_(pa.int32())),
        ("removed", pa.list_(pa.int32())),  # tags that cleaning removed; null without cleaning
        ("absent", pa.list_(pa.int32())),  # labels that a person excludes
        ("partial", pa.bool_()),  # true: a label that is neither a tag nor absent is unknown; null: negative
        ("weight", pa.float32()),  # relative sampling frequency; null: all rows are equally frequent
        ("captions", pa.list_(pa.struct([("text", pa.string()), ("tags", pa.list_(pa.int32()))]))),
    ]
)


def to_training_table(rows: list[dict], *, seed: int, num_buckets: int, keeps_neighbours: bool = False) -> pa.Table:
    """Make the training table of rows: add each row's position in the order, and its bucket.

    Args:
        rows: with key, shard, images, tags and captions; changed in place.
        seed: seed of the order.
        num_buckets: number of buckets of the table.
        keeps_neighbours: whether the rows of a `neighbourhood` have one position.

    Returns:
        Rows of `ROWS`, in the order of `rows`.
    """
    for row in rows:
        name = neighbourhood(row["images"][0]) if keeps_neighbours else row["key"]
        row["order"] = hash_key(name, seed=seed) >> 1  # 63 bits: Parquet's int64
        row["bucket"] = row["order"] * num_buckets >> 63
    return pa.Table.from_pylist(rows, schema=ROWS)


def neighbourhood(location: Mapping[str, Any]) -> str:
    """Name the part of a file that an image begins in; what begins in one part is read by one request.

    Args:
        location: of an image, as `IMAGE_LOCATION`.

    Returns:
        The file, and the number of its part of `NEIGHBOUR_BYTES`, or of `NEIGHBOUR_ROWS` in Parquet.
    """
    size = NEIGHBOUR_ROWS if is_parquet(location["uri"]) else NEIGHBOUR_BYTES
    return f"{location['uri']} {location['offset'] // size}"


def located_rows(samples: pa.Table) -> list[dict]:
    """Make training rows of images alone.

    Args:
        samples: rows of `records.SAMPLE`.

    Returns:
        Rows for `to_table`, without tags and captions; rejected rows are left out.
    """
    columns = ["key", "shard", "uri", "offset", "nbytes", "reason"]
    return [
        {"key": row["key"], "shard": row["shard"], "images": [_location(row)]}
        for row in samples.select(columns).to_pylist()
        if row["reason"] is None
    ]


def tagged_rows(annotations: pa.Table, *, weights: Mapping[int, float] | None = None) -> list[dict]:
    """Make the tagger's training rows of annotations; rejected rows and rows that teach no label are left out.

    A row without tags teaches where a person says which labels are absent.

    Args:
        annotations: rows of `records.ANNOTATION`.
        weights: tag id -> weight, see `tag_weights`; an image gets the largest weight of its tags, and 1 without a tag.
            None: no weights.

    Returns:
        Rows for `to_table`.
    """
    rows = [
        {
            "key": row["key"],
            "shard": row["shard"],
            "images": [_location(row)],
            "tags": sorted({tag["id"] for tag in row["tags"]}),
            "removed": sorted({tag["id"] for tag in row["removed"] or ()}),
            "absent": row["absent"] or [],
            "partial": bool(row["partial"]),
            "captions": [{"text": caption["text"], "tags": caption["tags"]} for caption in row["captions"]],
        }
        for row in annotations.to_pylist()
        if row["reason"] is None and (row["tags"] or row["absent"])
    ]
    if weights is None:
        return rows
    return [{**row, "weight": max((weights[id] for id in row["tags"]), default=1.0)} for row in rows]


def _location(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("uri", "offset", "nbytes")}


def tag_weights(counts: Mapping[int, int], *, num_images: int, cap: float) -> dict[int, float]:
    """Compute the weight of each tag: 1, or cap / share for a tag on more than the share `cap` of the images.

    Args:
        counts: tag id -> number of images with the tag.
        num_images: number of images of the training set.
        cap: share of images above which a tag weighs less than 1, 0 to 1.

    Returns:
        Tag id -> weight, over 0 and at most 1.
    """
    return {id: min(1.0, cap * num_images / count) for id, count in counts.items()}
