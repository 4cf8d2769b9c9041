"""Schemas of the tables between stages: declared here, checked when a stage reads and writes.

Images are not copied; annotations are. A stage reads rows with the location of an image and writes such rows, in
Parquet partitioned by `shard`. A row that cannot be used stays in the stage's output with its `reason` set, is copied
to `rejected/<stage>/`, and is skipped by every later stage. So rows in = rows out + rejected can be checked with one
table.

Location of an image (`uri`, `offset`, `nbytes`):
    tar      the shard's URI, the byte offset of the member's data in the archive, its length in bytes
    Parquet  the shard's URI, the row number, the length of the image column's value in bytes
    folder   the image file's URI, 0, the file's length in bytes
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import pyarrow as pa

Json = dict[str, Any]  # an object of a JSON file
Row = dict[str, Any]  # a row of one of the schemas below: values by column

Reason = Literal[
    "undecodable",  # bytes that no image decoder accepts
    "unsupported_format",  # one row for the files of an archive or folder with one ending, which nothing reads
    "truncated",  # an image file that ends before its last pixel
    "too_small",  # shorter side below data.min_side pixels
    "too_large",  # more than data.max_pixels pixels or data.max_bytes bytes
    "no_caption",  # no text to train on
    "bad_metadata",  # JSON or text that cannot be read or has the wrong encoding
    "duplicate_key",  # the key was already used in this shard
    "duplicate_image",  # a copy or a near duplicate of an image that stays, or of a held-out image
    "merged",  # a further row of an image: its captions are in the row that stays; not counted as rejected
    "aspect_ratio",  # this and the next: a filter of data.filters
    "blurred",
    "dark",
    "unsafe",
    "dissimilar",
    "opted_out",
    "caption_length",
    "language",
    "watermark",
    "refused_caption",  # the generator's safety check blanked an image of it with each seed
    "broken_archive",  # one row for the part of an archive that could not be read
]
REASONS: tuple[str, ...] = get_args(Reason)

TagKind = Literal["object", "scene", "attribute", "action"]
KINDS: tuple[str, ...] = get_args(TagKind)

HUMAN = "human"  # origin of a tag that is a human label

_LOCATION = [
    ("key", pa.string()),  # unique over the run: "<shard>/<member>"
    ("shard", pa.string()),  # name of the shard, unique over the run
    ("uri", pa.string()),
    ("offset", pa.int64()),
    ("nbytes", pa.int64()),
]
_REJECTION = [("reason", pa.string()), ("detail", pa.string())]  # null where the row can be used

# After `shards` and `images`. `url` and `sha256` are what the data states about the image. `labels` is null where a
# shard has no human labels; an empty list means "labelled, no label applies". `negative_labels` are names that a person
# says do not apply. `given_tags` are tags that came with the data and are no human labels: those of released
# annotations, as ids of `labels.system`. `hidden_captions` contains captions that are used for measuring only
# (`data.measure`); null where nothing is measured. `filtered_captions` are those that a filter of `data.filters` took
# away.
SAMPLE = pa.schema(
    [
        *_LOCATION,
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("url", pa.string()),
        ("sha256", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("labels", pa.list_(pa.string())),
        ("negative_labels", pa.list_(pa.string())),
        ("given_tags", pa.list_(pa.struct([("id", pa.int32()), ("caption", pa.int32())]))),  # null: of no caption
        ("hidden_captions", pa.list_(pa.string())),
        ("filtered_captions", pa.list_(pa.struct([("text", pa.string()), ("reason", pa.string())]))),
        *_REJECTION,
    ]
)

# After `fingerprints`: hashes of 64 bits, null where there is nothing to hash, and a `perceptual_hash.SIGNATURE`.
FINGERPRINT = pa.schema(
    [
        *SAMPLE,
        *((f"{name}_hash", pa.int64()) for name in ("url", "sha256", "bytes", "pixels")),
        ("signature", pa.binary()),
        ("similarity", pa.float32()),  # cosine of image and nearest caption; this and the next: after `image_scores`
        ("embedding", pa.binary()),  # float16 (E,), of unit length
    ]
)

# After `duplicates`: a row for each row that is a duplicate, and one for each row that gets the captions of others.
# Partitioned by `set` (0 is trained on) and `shard`.
DUPLICATE = pa.schema(
    [
        ("set", pa.int32()),
        *_LOCATION,
        ("action", pa.string()),  # merged | left_out | placeholder | listed; gets: others are merged into this row
        ("kind", pa.string()),  # url | sha256 | bytes | pixels | near | embedding: the first that holds
        ("distance", pa.int32()),  # near: bits of 63 that differ; embedding: 1000 (1 - cosine)
        *((f"other_{name}", kind) for name, kind in [("set", pa.int32()), *_LOCATION]),  # the row that stays
        ("captions", pa.list_(pa.string())),  # this and the next: of all rows of the image, where others are merged in
        ("labels", pa.list_(pa.string())),
        ("negative_labels", pa.list_(pa.string())),
        ("given_tags", SAMPLE.field("given_tags").type),
    ]
)

_NAMES = pa.list_(pa.struct([("caption", pa.int32()), ("name", pa.string()), ("kind", pa.string())]))

# After `parse`: tags by name (`caption` is the caption's index in `captions`), and the captions that the parser
# rejected, with its reason; the same for `hidden_captions` (its rejected captions have no names).
PARSED = pa.schema(
    [
        *SAMPLE,
        ("parsed", _NAMES),
        ("rejected_captions", pa.list_(pa.struct([("caption", pa.int32()), ("reason", pa.string())]))),
        ("parsed_hidden", _NAMES),
    ]
)

CAPTION = pa.struct(
    [
        ("text", pa.string()),
        ("origin", pa.string()),  # original | generated
        ("tags", pa.list_(pa.int32())),  # ids of the labels that this caption mentions
        ("sources", pa.list_(pa.string())),  # of each tag: parsed | matched (by its words, see labels.match) | both
    ]
)
TAG = pa.struct(
    [
        ("id", pa.int32()),
        ("origin", pa.string()),  # human | parsed | matched | generated_caption | tagger
        ("score", pa.float32()),  # of an added tag: probability that it is correct, or the tagger's probability; else 1
    ]
)
REMOVED = pa.struct(
    [
        ("id", pa.int32()),
        ("reason", pa.string()),  # outlier | disagreement: the strongest evidence against the tag
        ("score", pa.float32()),  # probability that the tag is wrong
        ("round", pa.int32()),
    ]
)

# After `labels`, `generate` and `clean`: tags by id of the label system, with the origin of each. Human labels are
# tags where `data.human_labels` says so: `absent` are then the labels that a person excludes, and in a `partial` row
# every label that is neither a tag nor absent is unknown, not negative. `truth` is the ground truth, not used for
# training: the ids of human labels that are not trained on, or, where `data.measure` is set and there are none, of all
# captions' tags; null where it is not known, and an empty list where no label applies. The stage `labels` resolves the
# names, once; those that the label system does not contain are in `unknown_labels`, as they were written.
ANNOTATION = pa.schema(
    [
        *_LOCATION,
        ("captions", pa.list_(CAPTION)),
        ("tags", pa.list_(TAG)),
        ("removed", pa.list_(REMOVED)),
        ("absent", pa.list_(pa.int32())),
        ("partial", pa.bool_()),
        ("truth", pa.list_(pa.int32())),
        ("unknown_labels", pa.list_(pa.string())),
        *_REJECTION,
    ]
)

REJECTED = pa.schema([("key", pa.string()), ("shard", pa.string()), ("stage", pa.string()), *_REJECTION])


class Reject(Exception):
    """A row that cannot be used, with one of the fixed reasons. It is raised for a single row, never for a batch."""

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

    Returns:
        The table, with a row for each dict.

    Raises:
        ValueError: if a row has a column that the schema does not name.
    """
    names = set(schema.names)
    for row in rows:
        if unknown := row.keys() - names:
            raise ValueError(f"columns {sorted(unknown)} are not in the schema {schema.names}; add them in records.py")
    return pa.Table.from_pylist(rows, schema=schema)


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Select and cast the columns of a schema.

    Args:
        table: has at least the columns of `schema`.
        schema: of the result.

    Returns:
        The table with the columns of `schema`, in its order and types.

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
