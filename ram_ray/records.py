"""What travels between stages: the columns, declared once and checked at every boundary.

Images never move; annotations do. A stage reads rows that say where a picture lies and writes rows of the
same kind, in Parquet partitioned by `shard`. A row that cannot be used stays in the stage's output with its
`reason` set, is copied to `rejected/<stage>/`, and is skipped by every later stage, so that
rows in = rows out + rejected can be checked by counting one table.

Where a picture lies (`uri`, `offset`, `nbytes`):
    tar      the shard's URI, the byte offset of the member's data in the archive, its length
    Parquet  the shard's URI, the row number, the length of the image column's value
    folder   the picture's own URI, 0, the file's length
"""

from __future__ import annotations

from typing import Literal, get_args

import pyarrow as pa

Reason = Literal[
    "undecodable",  # bytes that no image decoder accepts
    "truncated",  # a picture that ends before its last pixel
    "too_small",  # shorter side under data.min_side pixels
    "too_large",  # more than data.max_pixels pixels or data.max_bytes bytes
    "no_caption",  # no text to learn from
    "bad_metadata",  # JSON or text that cannot be read, or is in the wrong encoding
    "duplicate_key",  # the key was already used in this shard
    "broken_archive",  # one row for what of an archive could not be read
]
REASONS: tuple[str, ...] = get_args(Reason)

TagKind = Literal["object", "scene", "attribute", "action"]
KINDS: tuple[str, ...] = get_args(TagKind)

_LOCATION = [
    ("key", pa.string()),  # unique over the run: "<shard>/<member>"
    ("shard", pa.string()),  # name of the shard, unique over the run
    ("uri", pa.string()),
    ("offset", pa.int64()),
    ("nbytes", pa.int64()),
]
_REJECTION = [("reason", pa.string()), ("detail", pa.string())]  # null where the row is good

# After `shards`. `labels` is null where a shard carries no human labels; an empty list means "labelled, nothing".
# `unseen` holds captions that only score (`data.measure`); null where nothing is measured.
SAMPLE = pa.schema(
    [
        *_LOCATION,
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("captions", pa.list_(pa.string())),
        ("labels", pa.list_(pa.string())),
        ("unseen", pa.list_(pa.string())),
        *_REJECTION,
    ]
)

_NAMES = pa.list_(pa.struct([("caption", pa.int32()), ("name", pa.string()), ("kind", pa.string())]))

# After `parse`: tags by name, one list a caption (`caption` is its index in `captions`), and the captions that the
# parser turned away, with its reason; the same of `unseen` (those turned away have no names).
PARSED = pa.schema(
    [
        *SAMPLE,
        ("parsed", _NAMES),
        ("unread", pa.list_(pa.struct([("caption", pa.int32()), ("reason", pa.string())]))),
        ("parsed_unseen", _NAMES),
    ]
)

CAPTION = pa.struct(
    [
        ("text", pa.string()),
        ("origin", pa.string()),  # original | generated
        ("tags", pa.list_(pa.int32())),  # ids found in this caption
        ("sources", pa.list_(pa.string())),  # of each: parsed | matched (by its words, see labels.match) | both
    ]
)
TAG = pa.struct(
    [
        ("id", pa.int32()),
        ("origin", pa.string()),  # parsed | matched | generated_caption | tagger
        ("score", pa.float32()),  # of an addition: how likely it is right, or the tagger's probability; else 1
    ]
)
REMOVED = pa.struct(
    [
        ("id", pa.int32()),
        ("reason", pa.string()),  # outlier | disagreement: what spoke most against the tag
        ("score", pa.float32()),  # probability that the tag is wrong
        ("round", pa.int32()),
    ]
)

# After `labels`, `generate` and `clean`: tags by id of the label system, with where each came from. `labels` are human
# labels, or, where `data.measure` asks for it, the names of all captions' tags: the truth, which nothing is trained on.
ANNOTATION = pa.schema(
    [
        *_LOCATION,
        ("captions", pa.list_(CAPTION)),
        ("tags", pa.list_(TAG)),
        ("removed", pa.list_(REMOVED)),
        ("labels", pa.list_(pa.string())),
        *_REJECTION,
    ]
)

REJECTED = pa.schema([("key", pa.string()), ("shard", pa.string()), ("stage", pa.string()), *_REJECTION])


class Reject(Exception):
    """A row that cannot be used, with one of the fixed reasons. Raised a row, never for a whole batch."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        assert reason in REASONS, reason
        super().__init__(reason, detail[:500])  # the arguments, so that it can be pickled
        self.reason = reason
        self.detail = detail[:500]

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def to_table(rows: list[dict], schema: pa.Schema) -> pa.Table:
    """Build a table of exactly `schema` from rows; missing columns become null.

    Args:
        rows: dicts by column.
        schema: of the table.

    Raises:
        ValueError: if a row has a column that the schema does not name.
    """
    names = set(schema.names)
    for row in rows:
        if extra := row.keys() - names:
            raise ValueError(f"columns {sorted(extra)} are not in the schema {schema.names}; add them in records.py")
    return pa.Table.from_pylist(rows, schema=schema)


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return `table` with the columns of `schema`, in its order and types.

    Args:
        table: of any columns.
        schema: of the result.

    Raises:
        ValueError: if a column is missing or cannot be cast.
    """
    missing = set(schema.names) - set(table.column_names)
    if missing:
        raise ValueError(f"columns {sorted(missing)} are missing; the stage before this one wrote {table.column_names}")
    try:
        return table.select(schema.names).cast(schema)
    except pa.ArrowInvalid as error:
        raise ValueError(f"the table does not fit the schema {schema.names}: {error}") from error
