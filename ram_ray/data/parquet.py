"""Samples of a Parquet file with images, as img2dataset and Hugging Face write them, and its rows by number.

A row group can be too large for memory, so rows are read in batches of bounded bytes. `columns.py` says which columns
are read. An image column that the user named is a part of the location of each image: `x.parquet#column=photo`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from ram_ray.data.columns import Columns, find_columns, find_image_column, images_of, values_of
from ram_ray.data.samples import NO_COLUMNS, ImageCheck, Sample, check_file, folder_of, relative_name
from ram_ray.data.texts import merge_texts, parse_captions, parse_texts, read_json
from ram_ray.records import Json, Reject
from ram_ray.runtime.location import child_uri, locate
from ram_ray.settings.data import LayoutConfig

BATCH_BYTES = 32 << 20  # of rows held at once
_COLUMN = "#column="


def read_parquet(
    uri: str, *, check_image: ImageCheck, layout: LayoutConfig, images: str | None = None, needs_text: bool = True
) -> Iterator[Sample]:
    """Read the samples of a Parquet file in batches of about `BATCH_BYTES`.

    Args:
        uri: URI of the file.
        check_image: function that checks an image.
        layout: names columns, or leaves it to the usual names.
        images: folder that paths of images start from; None: that of the file.
        needs_text: whether there must be a column of captions or labels.

    Yields:
        A sample for each row; its `offset` is the row number. A file without the columns is one rejected sample.
    """
    fs, path = locate(uri)
    with fs.open(path, "rb") as file:
        try:
            parquet = pq.ParquetFile(file, buffer_size=1 << 20)
        except (pa.ArrowException, OSError) as error:
            yield _broken_rows(uri, 0, error)
            return
        try:
            columns = find_columns(uri, parquet.schema_arrow, layout, needs_text=needs_text)
        except ValueError as error:
            yield Sample(NO_COLUMNS, uri, problem=Reject("bad_metadata", str(error)))
            return
        if not parquet.metadata.num_rows:
            yield Sample("#empty", uri, problem=Reject("broken_archive", "a file without a row"))
        rows = _Rows(uri, columns, layout, images, check_image)
        first = 0
        for group in range(parquet.num_row_groups):
            row = first
            try:
                for batch in group_batches(parquet, group, columns.names):
                    yield from rows.samples(row, batch)
                    row += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                yield _broken_rows(uri, row, error)
            first += parquet.metadata.row_group(group).num_rows


def is_parquet(uri: str) -> bool:
    """Whether the images at a location are rows of a Parquet file.

    Args:
        uri: of an image.

    Returns:
        Whether they are.
    """
    return uri.partition(_COLUMN)[0].lower().endswith(".parquet")


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


class _Rows:
    """Makes samples of rows; arguments are those of `read_parquet`."""

    def __init__(
        self, uri: str, columns: Columns, layout: LayoutConfig, images: str | None, check_image: ImageCheck
    ) -> None:
        self._uri, self._columns, self._layout, self._check_image = uri, columns, layout, check_image
        self._root = folder_of(uri, images)
        self._location = f"{uri}{_COLUMN}{columns.image}" if layout.image_columns else uri

    def samples(self, first: int, batch: pa.RecordBatch) -> Iterator[Sample]:
        """The samples of a batch whose first row is number `first`."""
        columns = self._columns
        captions = [(name, values_of(batch, name)) for name in columns.captions]
        names = (columns.json, columns.labels, columns.negative_labels, columns.key, columns.url, columns.sha256)
        trees, labels, negatives, keys, urls, sums = (values_of(batch, name) for name in names)
        image_values = batch.column(columns.image)
        for index in range(batch.num_rows):
            number = first + index
            sample = Sample(str(number), self._location, number)
            try:
                key = keys[index]
                if isinstance(key, bytes):
                    sample.key = key.decode("utf-8", "backslashreplace") or sample.key
                elif key is not None:
                    sample.key = str(key)
                texts = [parse_texts(values[index], name, encoding=self._layout.encoding) for name, values in captions]
                tree = _tree(trees[index])
                sample.set_origin(
                    tree.get("url") if urls[index] is None else urls[index],
                    tree.get("sha256") if sums[index] is None else sums[index],
                )
                sample.captions = merge_texts(*texts, parse_captions(tree))
                sample.set_labels(
                    tree.get("labels") if labels[index] is None else labels[index],
                    tree.get("negative_labels") if negatives[index] is None else negatives[index],
                )
            except Reject as reject:
                sample.problem = reject
            images = images_of(image_values[index])
            self._check(sample, images[0] if images else b"")
            yield sample
            for _ in images[1:]:
                detail = f"a second image of row {number}"
                yield Sample(sample.key, self._location, number, problem=Reject("duplicate_key", detail))

    def _check(self, sample: Sample, image: bytes | str) -> None:
        if isinstance(image, bytes):
            sample.nbytes = len(image)
            sample.check_image(self._check_image, partial(_first_bytes, image))
            return
        number = sample.offset
        try:
            name = relative_name(image, root=self._root, fields=self._columns.image)
        except Reject as reject:
            sample.problem = sample.problem or reject
            return
        sample.uri, sample.offset = child_uri(self._root, name), 0
        check_file(sample, named_in=f"row {number}", check_image=self._check_image)


def _first_bytes(image: bytes, num_bytes: int) -> bytes:
    return image[:num_bytes]


def _tree(value: object) -> Json:
    """An object as img2dataset's .json files hold it, from a struct or from text."""
    if isinstance(value, bytes):
        return read_json(value) if value.strip() else {}
    return value if isinstance(value, dict) else {}


def read_rows(uri: str, wanted: set[int]) -> dict[int, bytes | Reject]:
    """Read the images of some rows, from the row groups that hold them.

    Args:
        uri: location of the images: the file, with the column if the user named it.
        wanted: row numbers.

    Returns:
        Row number -> the image's bytes, or why it cannot be read.

    Raises:
        OSError: if the storage fails.
    """
    uri, _, named = uri.partition(_COLUMN)
    fs, path = locate(uri)
    try:
        with fs.open(path, "rb") as file:
            parquet = pq.ParquetFile(file, buffer_size=1 << 20)
            column = find_image_column(uri, parquet.schema_arrow, [named] if named else ())
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
            values = batch.column(column)
            for row in rows:
                if start <= row < start + batch.num_rows:
                    image = next(iter(images_of(values[row - start])), b"")
                    is_here = isinstance(image, bytes) and len(image) > 0
                    results[row] = image if is_here else Reject("broken_archive", f"row {row} holds no image")  # type: ignore[assignment]
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
