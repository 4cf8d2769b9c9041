"""The rows that are trained on: made of annotations, and put into buckets by a hash of seed and key."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from ram_ray.runtime.key_hash import hash_key

PICTURE = pa.struct([("uri", pa.string()), ("offset", pa.int64()), ("nbytes", pa.int64())])
ROWS = pa.schema(
    [
        ("order", pa.int64()),
        ("bucket", pa.int32()),
        ("key", pa.string()),
        ("shard", pa.string()),
        ("pictures", pa.list_(PICTURE)),  # one for the tagger, several for StableRep
        ("tags", pa.list_(pa.int32())),
        ("removed", pa.list_(pa.int32())),  # tags that cleaning took out; null where there is no cleaning
        ("weight", pa.float32()),  # how often a row is seen against others; null: as often as any
        ("captions", pa.list_(pa.struct([("text", pa.string()), ("tags", pa.list_(pa.int32()))]))),
    ]
)


def to_table(rows: list[dict], *, seed: int, num_buckets: int) -> pa.Table:
    """Rows with key, shard, pictures, tags and captions to training rows with their place in the order.

    Args:
        rows: changed.
        seed: of the order.
        num_buckets: of the table.
    """
    for row in rows:
        row["order"] = hash_key(row["key"], seed=seed) >> 1  # 63 bits: Parquet's int64
        row["bucket"] = row["order"] * num_buckets >> 63
    return pa.Table.from_pylist(rows, schema=ROWS)


def tagged_rows(annotations: pa.Table, *, worth: Mapping[int, float] | None = None) -> list[dict]:
    """Training rows of the tagger from `records.ANNOTATION`; rejected rows and rows without a tag are left out.

    Args:
        annotations: ANNOTATION rows.
        worth: of each tag, see `tag_worth`; a picture weighs as much as its worthiest tag.
    """
    rows = [
        {
            "key": row["key"],
            "shard": row["shard"],
            "pictures": [{name: row[name] for name in ("uri", "offset", "nbytes")}],
            "tags": sorted({tag["id"] for tag in row["tags"]}),
            "removed": sorted({tag["id"] for tag in row["removed"] or ()}),
            "captions": [{"text": one["text"], "tags": one["tags"]} for one in row["captions"]],
        }
        for row in annotations.to_pylist()
        if row["reason"] is None and row["tags"]
    ]
    return [{**row, "weight": max(worth[id] for id in row["tags"])} for row in rows] if worth is not None else rows


def tag_worth(pictures: Mapping[int, int], *, num_pictures: int, cap: float) -> dict[int, float]:
    """What a tag adds to a picture's weight: 1, or less where more than the share `cap` of the pictures have it.

    Args:
        pictures: tag id -> pictures that have it.
        num_pictures: of the training set.
        cap: share of the pictures from which on a tag counts less, 0 to 1.
    """
    return {id: min(1.0, cap * num_pictures / count) for id, count in pictures.items()}
