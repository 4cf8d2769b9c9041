"""Copies of images in the order of a training table: made smaller once, and read in place of the data's own images.

The copies of a bucket (`order`) are one file, in the order of its rows, with a table of where each lies. So rows that
follow one another in training are read together, whatever files they came from.

    FOLDER/index/000003.parquet   COPIES rows of bucket 3, sorted as the bucket is; written last
    FOLDER/images/000003.bin      their images, one after another
"""

from __future__ import annotations

import io

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from ram_ray.data.images import JPEG, Limits, decode
from ram_ray.records import Reject, Row, to_table
from ram_ray.runtime.artifacts import write_bytes, write_table
from ram_ray.training.image_columns import FETCHED_BYTES, read_contents, split_by_size
from ram_ray.training.rows import NEIGHBOUR_BYTES

COPIES = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),  # of the copy in the file of its bucket; null for a rejected row
        ("nbytes", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
QUALITY, MAX_SIDE = 90, 65_500  # of JPEG


def copies_name(side: int) -> str:
    """Name of the stage that makes copies of a side."""
    return f"copies_{side}"


def index_uri(folder: str, bucket: int) -> str:
    """URI of the table of a bucket's copies."""
    return f"{folder}/index/{bucket:06d}.parquet"


def copy_bucket(rows: pa.Table, folder: str, bucket: int, *, side: int, limits: Limits) -> pa.Table:
    """Copy the images of a bucket.

    Args:
        rows: of the bucket, as `order.Table.read` gives them.
        folder: folder or URI of the copies.
        bucket: its index.
        side: shorter side of a copy in pixels, see `copy_image`.
        limits: of a usable image.

    Returns:
        COPIES rows, which are written too.
    """
    locations: list[Row] = [images[0] for images in rows["images"].to_pylist()]
    copies: list[bytes | Reject] = []
    for group in split_by_size([location["nbytes"] for location in locations], limit=FETCHED_BYTES):
        contents = read_contents([[locations[index]] for index in group])
        copies += [_copy_or_reject(content, side=side, limits=limits) for (content,) in contents]
    made: list[Row] = []
    end = 0
    for key, shard, copy in zip(rows["key"].to_pylist(), rows["shard"].to_pylist(), copies, strict=True):
        row: Row = {"key": key, "shard": shard, "offset": None, "nbytes": None, "reason": None, "detail": None}
        if isinstance(copy, Reject):
            row.update(reason=copy.reason, detail=copy.detail)
        else:
            row.update(offset=end, nbytes=len(copy))
            end += len(copy)
        made.append(row)
    table = to_table(made, COPIES)
    if end:
        write_bytes(_images_uri(folder, bucket), b"".join(copy for copy in copies if isinstance(copy, bytes)))
    write_table(table, index_uri(folder, bucket))
    return table


def _copy_or_reject(content: bytes | Reject, *, side: int, limits: Limits) -> bytes | Reject:
    if isinstance(content, Reject):
        return content
    try:
        return copy_image(content, side=side, limits=limits)
    except Reject as reject:
        return reject


def copy_image(data: bytes, *, side: int, limits: Limits) -> bytes:
    """Make an image smaller.

    Args:
        data: the whole file.
        side: shorter side of the copy in pixels.
        limits: of a usable image.

    Returns:
        A JPEG file, upright and without metadata. Or `data` itself: a JPEG whose shorter side is below `side`, or an
        image that is too long for a JPEG.

    Raises:
        Reject: if the image cannot be decoded.
    """
    image = decode(data, limits=limits, size=side)
    shorter = min(image.size)
    if shorter < side and data.startswith(JPEG):
        return data
    if shorter > side:
        width, height = (max(1, round(length * side / shorter)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    if max(image.size) > MAX_SIDE:
        return data
    image.info.clear()  # Pillow would copy a comment
    copy = io.BytesIO()
    image.save(copy, "JPEG", quality=QUALITY)
    return copy.getvalue()


def read_copies(folder: str, bucket: int) -> pa.Table:
    """Read the table of a bucket's copies.

    Args:
        folder: folder or URI of the copies.
        bucket: its index.

    Returns:
        COPIES rows.
    """
    fs, file = fsspec.url_to_fs(index_uri(folder, bucket))
    with fs.open(file, "rb") as handle:
        return pq.read_table(handle, partitioning=None)


def with_copies(rows: pa.Table, folder: str, bucket: int) -> pa.Table:
    """Give the rows of a bucket the locations of their copies.

    Args:
        rows: of a bucket of a training table with the buckets of the copies; some of its images.
        folder: folder or URI of the copies.
        bucket: its index.

    Returns:
        The rows with other `images`, and in `order` the part of `NEIGHBOUR_BYTES` that the copy begins in. A row whose
        image was rejected keeps its image, and is rejected in training too.
    """
    copies = read_copies(folder, bucket)
    places = pc.index_in(rows["key"], value_set=copies["key"].combine_chunks())
    assert not places.null_count, (
        f"{places.null_count} of {len(rows)} images of bucket {bucket} have no copy in {folder}"
    )
    copies = copies.take(places)
    uri, images = _images_uri(folder, bucket), []
    for own, offset, nbytes in zip(
        rows["images"].to_pylist(), copies["offset"].to_pylist(), copies["nbytes"].to_pylist(), strict=True
    ):
        images.append(own if offset is None else [{"uri": uri, "offset": offset, "nbytes": nbytes}])
    parts = pc.fill_null(pc.divide(copies["offset"], NEIGHBOUR_BYTES), -1)
    for name, column in (("images", pa.array(images, rows.schema.field("images").type)), ("order", parts)):
        rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), column)
    return rows


def _images_uri(folder: str, bucket: int) -> str:
    return f"{folder}/images/{bucket:06d}.bin"
