"""Samples of a Parquet file with image bytes, as img2dataset and Hugging Face write them, and its rows by number.

A row group can be too large for memory, and for one row of bad text Arrow fails the whole column. So rows are read in
batches of bounded bytes, and strings are read as bytes and decoded row by row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ram_ray.data.samples import ImageCheck, Sample, parse_texts
from ram_ray.records import Reject

BATCH_BYTES = 32 << 20  # of rows held at once
IMAGE_COLUMNS = ("image", "jpg", "png", "webp", "image_bytes")
CAPTION_COLUMNS = ("caption", "captions", "text", "TEXT")
KEY_COLUMNS = ("key", "__key__", "image_id", "url")


def read_parquet(uri: str, *, check_image: ImageCheck) -> Iterator[Sample]:
    """Read the samples of a Parquet file in batches of about `BATCH_BYTES`.

    Args:
        uri: URI of the file.
        check_image: function that checks an image.

    Yields:
        A sample for each row; its `offset` is the row number.

    Raises:
        ValueError: if there is no image column, or neither captions nor labels.
    """
    fs, path = fsspec.url_to_fs(uri)
    with fs.open(path, "rb") as file:
        try:
            parquet = pq.ParquetFile(file, buffer_size=1 << 20)
        except (pa.ArrowException, OSError) as error:
            yield _broken_rows(uri, 0, error)
            return
        columns = _columns(uri, parquet.schema_arrow)
        first = 0
        for group in range(parquet.num_row_groups):
            row = first
            try:
                for batch in group_batches(parquet, group, [column for column in columns.values() if column]):
                    yield from _batch_samples(uri, row, batch, columns, check_image)
                    row += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                yield _broken_rows(uri, row, error)
            first += parquet.metadata.row_group(group).num_rows


def group_batches(parquet: pq.ParquetFile, group: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Read a row group in batches of about `BATCH_BYTES`.

    Args:
        parquet: open file.
        group: number of the row group.
        columns: names of the columns that are read.

    Yields:
        Batches, in the order of rows.
    """
    meta = parquet.metadata.row_group(group)
    row_bytes = meta.total_byte_size // max(1, meta.num_rows) + 1
    rows = max(1, min(256, BATCH_BYTES // row_bytes))
    yield from parquet.iter_batches(batch_size=rows, row_groups=[group], columns=columns, use_threads=False)


def image_column(uri: str, schema: pa.Schema) -> str:
    """Find the column of image bytes.

    Args:
        uri: URI of the file, for the error.
        schema: schema of the file.

    Returns:
        The column's name; "NAME.bytes" for a struct column with the field `bytes`.

    Raises:
        ValueError: if the file has no such column.
    """
    for name in IMAGE_COLUMNS:
        if name not in schema.names:
            continue
        kind = schema.field(name).type
        if _is_bytes(kind):
            return name
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and _is_bytes(kind.field("bytes").type):
            return f"{name}.bytes"
    raise ValueError(
        f"{uri}: no column of image bytes among {schema.names}; name it one of {', '.join(IMAGE_COLUMNS)} "
        "(the .parquet files that img2dataset writes beside its .tar files hold no images: name the .tar files)"
    )


def image_values(batch: pa.RecordBatch, column: str) -> pa.Array:
    """The image bytes of a batch.

    Args:
        batch: rows of the file.
        column: as `image_column` names it: a column, or "column.field" of a struct.

    Returns:
        A binary array, one value a row.
    """
    name, _, inner = column.partition(".")
    array = batch.column(name)
    return pc.struct_field(array, inner) if inner else array


def _columns(uri: str, schema: pa.Schema) -> dict[str, str | None]:
    def first(names: Iterable[str]) -> str | None:
        return next((name for name in names if name in schema.names), None)

    columns = {"image": image_column(uri, schema), "captions": first(CAPTION_COLUMNS)}
    columns |= {name: first([name]) for name in ("labels", "negative_labels", "url", "sha256")}
    if not any(columns[name] for name in ("captions", "labels", "negative_labels")):
        names = ", ".join(CAPTION_COLUMNS)
        raise ValueError(f"{uri}: no captions among {schema.names}; name the column one of {names}")
    return {**columns, "key": first(KEY_COLUMNS)}


def _batch_samples(
    uri: str, first: int, batch: pa.RecordBatch, columns: dict[str, str | None], check_image: ImageCheck
) -> Iterator[Sample]:
    assert columns["image"]
    images = image_values(batch, columns["image"])
    lengths = pc.binary_length(images).to_pylist()
    values = {
        name: _raw_list(batch, columns[name])
        for name in ("captions", "labels", "negative_labels", "key", "url", "sha256")
    }
    for index in range(batch.num_rows):
        sample = Sample(str(first + index), uri, first + index, lengths[index] or 0)
        try:
            key = values["key"][index]
            if isinstance(key, bytes):
                sample.key = key.decode("utf-8", "backslashreplace") or sample.key
            elif key is not None:
                sample.key = str(key)
            sample.set_origin(values["url"][index], values["sha256"][index])
            sample.captions = parse_texts(values["captions"][index], "captions")
            sample.set_labels(values["labels"][index], values["negative_labels"][index])
        except Reject as reject:
            sample.problem = reject
        sample.check_image(check_image, partial(_read_value, images, index))
        yield sample


def _read_value(images: pa.Array, index: int, num_bytes: int) -> bytes:
    return (images[index].as_py() or b"")[:num_bytes]


def _raw_list(batch: pa.RecordBatch, name: str | None) -> list:
    """A column as Python values, its strings as undecoded bytes: Arrow would fail the batch for one bad row."""
    if name is None:
        return [None] * batch.num_rows
    array = batch.column(name)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        binary = _binary(kind.value_type)
        array = array.cast(pa.large_list(binary)) if binary else array
    elif binary := _binary(kind):
        array = array.cast(binary)
    return array.to_pylist()


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _binary(kind: pa.DataType) -> pa.DataType | None:
    return pa.large_binary() if pa.types.is_string(kind) or pa.types.is_large_string(kind) else None


def read_rows(uri: str, wanted: set[int]) -> dict[int, bytes | Reject]:
    """Read the images of some rows, from the row groups that hold them.

    Args:
        uri: URI of the file.
        wanted: row numbers.

    Returns:
        Row number -> the image's bytes, or why it cannot be read.

    Raises:
        OSError: if the storage fails.
    """
    fs, path = fsspec.url_to_fs(uri)
    try:
        with fs.open(path, "rb") as file:
            parquet = pq.ParquetFile(file, buffer_size=1 << 20)
            column = image_column(uri, parquet.schema_arrow)
            results: dict[int, bytes | Reject] = {}
            first = 0
            for group in range(parquet.num_row_groups):
                end = first + parquet.metadata.row_group(group).num_rows
                if rows_of_group := sorted(row for row in wanted if first <= row < end):
                    results |= _group_rows(parquet, group, column, first=first, rows=rows_of_group)
                first = end
            return results
    except FileNotFoundError:
        return {row: Reject("broken_archive", f"{uri} no longer exists") for row in wanted}
    except (pa.ArrowException, OSError) as error:
        broken = _broken(uri, error)
        return {row: broken for row in wanted}


def _group_rows(
    parquet: pq.ParquetFile, group: int, column: str, *, first: int, rows: list[int]
) -> dict[int, bytes | Reject]:
    results: dict[int, bytes | Reject] = {}
    start = first
    try:
        for batch in group_batches(parquet, group, [column]):
            values = image_values(batch, column)
            for row in rows:
                if start <= row < start + batch.num_rows:
                    results[row] = values[row - start].as_py() or Reject("broken_archive", f"row {row} holds no image")
            start += batch.num_rows
            if start > rows[-1]:
                break
    except (pa.ArrowException, OSError) as error:
        broken = _broken(f"row group {group}", error)
        results |= {row: broken for row in rows if row not in results}
    return results


def _broken(what: str, error: Exception) -> Reject:
    """A rejection for Arrow's errors about content, which have no errno; other errors are the storage's and raised."""
    if isinstance(error, OSError) and (error.errno is not None or isinstance(error, (TimeoutError, ConnectionError))):
        raise error
    return Reject("broken_archive", f"{what}: {error}")


def _broken_rows(uri: str, row: int, error: Exception) -> Sample:
    """One rejected sample for all rows from `row` on, which Arrow cannot read."""
    return Sample(f"#broken-{row}", uri, row, problem=_broken(f"from row {row}", error))
