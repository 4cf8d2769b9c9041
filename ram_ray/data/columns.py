"""The columns of a Parquet file: which hold images, captions and keys, and their values in every type that people use.

An image is bytes in any of Arrow's types, a struct of Hugging Face with `bytes` or `path`, a list of these or of
numbers, base64 text, or a path relative to the file. For one row of bad text Arrow fails a whole column, so strings are
read as bytes and decoded row by row.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.types as pt

from ram_ray.data.texts import caption_fields
from ram_ray.settings.data import IMAGE_EXTENSIONS, LayoutConfig

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "image_bytes", "img", "images", "heic", "avif", "tif", "tiff")
PATH_COLUMNS = ("file_name", "filename", "filepath", "file_path", "image_path", "image_file", "path", "file")
KEY_COLUMNS = ("key", "__key__", "image_id", "url")
MAX_PATH = 1024  # characters
_DATA_URL = re.compile(rb"data:[\w/+.-]*;base64,")


@dataclass(frozen=True)
class Columns:
    """The columns of a file that are read."""

    image: str
    captions: tuple[str, ...]
    json: str | None  # a column of objects as img2dataset's .json files, or of their text
    labels: str | None
    negative_labels: str | None
    url: str | None
    sha256: str | None
    key: str | None

    @property
    def names(self) -> list[str]:
        """All of them."""
        origin = self.url, self.sha256
        names = (self.image, *self.captions, self.json, self.labels, self.negative_labels, *origin, self.key)
        return list(dict.fromkeys(name for name in names if name))


def find_columns(uri: str, schema: pa.Schema, layout: LayoutConfig, *, needs_text: bool) -> Columns:
    """Find the columns of a file.

    Args:
        uri: URI of the file, for errors.
        schema: of the file.
        layout: names columns, or leaves it to the usual names.
        needs_text: whether there must be captions or labels.

    Returns:
        The columns.

    Raises:
        ValueError: if there is no column of images, or neither captions nor labels.
    """

    def first(names: Iterable[str]) -> str | None:
        return next((name for name in names if name in schema.names), None)

    captions = tuple(caption_fields(schema.names, layout))
    columns = Columns(
        image=find_image_column(uri, schema, layout.image_columns),
        captions=captions,
        json=first(["json"]),
        labels=first(["labels"]),
        negative_labels=first(["negative_labels"]),
        url=first(["url"]),
        sha256=first(["sha256"]),
        key=first(KEY_COLUMNS),
    )
    if needs_text and not (captions or columns.json or columns.labels or columns.negative_labels):
        raise ValueError(
            f"{uri}: no captions among {describe_columns(schema)}; name the column of captions in "
            "data.layout.caption_columns"
        )
    return columns


def find_image_column(uri: str, schema: pa.Schema, named: Iterable[str] = ()) -> str:
    """Find the column of images.

    Args:
        uri: URI of the file, for the error.
        schema: of the file.
        named: names to look for; none: the usual ones.

    Returns:
        The column's name.

    Raises:
        ValueError: if the file has no such column.
    """
    names = [name for name in tuple(named) or (*IMAGE_COLUMNS, *PATH_COLUMNS) if name in schema.names]
    if found := next((name for name in names if holds_images(schema.field(name).type)), None):
        return found
    if names:
        types = ", ".join(f"{name} is {schema.field(name).type}" for name in names)
        raise ValueError(f"{uri}: no images: {types}; an image is bytes, a struct with bytes or path, base64 or a path")
    advice = "name the column of images in data.layout.image_columns"
    if any(name.lower() == "url" for name in schema.names):
        advice = (
            "it holds addresses: fetch the images with img2dataset, and name its .tar files (the .parquet beside them "
            "holds none)"
        )
    raise ValueError(f"{uri}: no column of image bytes among {describe_columns(schema)}; {advice}")


def describe_columns(schema: pa.Schema) -> str:
    """Names and types of the columns, shortened."""
    return ", ".join(f"{field.name}: {str(field.type)[:60]}" for field in schema)[:400]


def holds_images(kind: pa.DataType) -> bool:
    """Whether a type can hold images.

    Args:
        kind: type of a column.

    Returns:
        Whether it can.
    """
    if pt.is_dictionary(kind):
        return holds_images(kind.value_type)
    if pt.is_struct(kind):
        return any(holds_images(kind.field(name).type) for name in ("bytes", "path") if kind.get_field_index(name) >= 0)
    if _is_list(kind):
        return pt.is_uint8(kind.value_type) or pt.is_int8(kind.value_type) or holds_images(kind.value_type)
    return _is_bytes(kind) or _is_text(kind)


def images_of(value: pa.Scalar) -> list[bytes | str]:
    """The images of a row.

    Args:
        value: of the image column.

    Returns:
        Bytes of an image file, or a path as text; several for a list of images; empty for a null.
    """
    if not value.is_valid:
        return []
    kind = value.type
    if pt.is_dictionary(kind):
        return images_of(value.value)
    if pt.is_struct(kind):
        fields = [value[name] for name in ("bytes", "path") if kind.get_field_index(name) >= 0]
        return next((found for found in map(images_of, fields) if found and found[0]), [])
    if _is_list(kind):
        if pt.is_uint8(kind.value_type) or pt.is_int8(kind.value_type):
            return [value.values.to_numpy(zero_copy_only=False).tobytes()]
        return [image for item in value.values for image in images_of(item)]
    raw = value.as_buffer().to_pybytes()
    return [_from_text(raw)] if _is_text(kind) else [raw]


def values_of(batch: pa.RecordBatch, name: str | None) -> list:
    """A column as Python values, its strings as undecoded bytes.

    Args:
        batch: rows of the file.
        name: of the column; None: there is none.

    Returns:
        A value for each row.
    """
    if name is None:
        return [None] * batch.num_rows
    array = batch.column(name)
    if pt.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array.cast(_with_bytes(array.type)).to_pylist()


def _with_bytes(kind: pa.DataType) -> pa.DataType:
    """The type with binary in place of strings, which Arrow would decode."""
    if _is_text(kind):
        return pa.large_binary()
    if _is_list(kind):
        return pa.large_list(_with_bytes(kind.value_type))
    if pt.is_struct(kind):
        return pa.struct([(field.name, _with_bytes(field.type)) for field in kind])
    return kind


def _from_text(raw: bytes) -> bytes | str:
    """Base64 text as bytes; a path as text."""
    if len(raw) <= MAX_PATH and raw.rpartition(b".")[2].lower().decode("latin-1") in IMAGE_EXTENSIONS:
        return raw.decode("utf-8", "replace")
    try:
        return base64.b64decode(_DATA_URL.sub(b"", raw[:64]) + raw[64:], validate=True)
    except binascii.Error:
        return raw  # no image, which the check of the image says


def _is_bytes(kind: pa.DataType) -> bool:
    return pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_fixed_size_binary(kind) or kind == pa.binary_view()


def _is_text(kind: pa.DataType) -> bool:
    return pt.is_string(kind) or pt.is_large_string(kind) or kind == pa.string_view()


def _is_list(kind: pa.DataType) -> bool:
    return pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind)
