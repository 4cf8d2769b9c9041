"""Captions and labels out of untrusted files: bounded in bytes, decoded strictly, parsed once.

What a text is called differs: a column `caption`, `TEXT` or `caption_3`, a list, or objects that hold a text each. All
formats of shards ask this module, so that a name that is read in one is read in all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import IO

from ram_ray.records import Json, Reject
from ram_ray.settings.data import LayoutConfig

MAX_TEXT = 4 << 20  # bytes of one caption file, JSON file or line
MAX_CAPTIONS = 10_000  # of one image
# Names of columns and fields. All of the first line are read; of the second the first that is there, if there are none.
CAPTION_FIELDS = ("caption", "captions", "text", "TEXT", "texts", "txt", "sentence", "sentences")
OTHER_CAPTION_FIELDS = ("alt_text", "alt", "title", "description", "comment", "prompt")
_NUMBERED = re.compile(r"(caption|text|sentence)s?_?\d{1,2}")
_TEXT_OF_OBJECT = ("caption", "text", "raw", "value", "sentence")  # of a list of objects, as COCO's sentences


def decode_text(raw: bytes, *, encoding: str = "utf-8") -> str:
    """Decode strictly (a leading byte-order mark of UTF-8 is dropped).

    Args:
        raw: bytes of a text.
        encoding: name of the encoding.

    Returns:
        The text.

    Raises:
        Reject: bad_metadata, if the bytes are of another encoding.
    """
    try:
        return raw.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeError as error:
        name = "UTF-8" if encoding == "utf-8" else encoding
        raise Reject("bad_metadata", f"not {name} text (data.layout.encoding): {error}") from None


def parse_texts(value: object, name: str, *, encoding: str = "utf-8") -> list[str]:
    """The non-empty texts of a string, a list of strings or objects, or None, with white space collapsed.

    Equal texts of a list are all kept: two people may write the same caption.

    Args:
        value: value from JSON, Parquet or a file.
        name: name of the field, for the error.
        encoding: of bytes.

    Returns:
        The texts, in order.

    Raises:
        Reject: bad_metadata, for any other type or a string that is not valid Unicode.
    """
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    if len(values) > MAX_CAPTIONS:
        raise Reject("bad_metadata", f"{name}: {len(values):,} texts; an image may have {MAX_CAPTIONS:,}")
    cleaned = []
    for text in values:
        if isinstance(text, dict):
            text = _text_of_object(text, name)
        if isinstance(text, bytes):
            text = decode_text(text, encoding=encoding)
        if text is None and isinstance(value, list):
            continue
        if not isinstance(text, str):
            raise Reject("bad_metadata", f"{name} must be text or a list of texts, not {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError:  # a lone surrogate, which JSON can spell and Parquet cannot hold
            raise Reject("bad_metadata", f"{name} is not valid Unicode") from None
        if text := " ".join(text.split()):
            cleaned.append(text)
    return cleaned


def _text_of_object(value: Json, name: str) -> object:
    field = next((field for field in _TEXT_OF_OBJECT if field in value), None)
    if field is None:
        fields = ", ".join(map(str, value))
        raise Reject("bad_metadata", f"{name} holds objects without {', '.join(_TEXT_OF_OBJECT)}: {fields}")
    return value[field]


def parse_caption_file(raw: bytes, name: str, layout: LayoutConfig) -> list[str]:
    """The captions of a text file.

    Args:
        raw: its bytes.
        name: of the file or its ending, for the error.
        layout: says whether each line is a caption, and the encoding.

    Returns:
        The captions; without `caption_lines` at most one.

    Raises:
        Reject: bad_metadata, if it cannot be decoded.
    """
    text = decode_text(raw, encoding=layout.encoding)
    return parse_texts(text.splitlines() if layout.caption_lines else text, name)


def parse_labels(value: object, *, name: str = "labels") -> list[str] | None:
    """The human labels of an image.

    Args:
        value: value from JSON or Parquet.
        name: name of the field, for the error.

    Returns:
        The labels; None if the image is not labelled, an empty list if it is labelled with nothing.

    Raises:
        Reject: bad_metadata, if the value is no list of texts.
    """
    if value is not None and not isinstance(value, list):
        raise Reject("bad_metadata", f"{name} must be a list of texts, not {type(value).__name__}")
    return None if value is None else parse_texts(value, name)


def read_json(raw: bytes) -> Json:
    """Parse a JSON object.

    Args:
        raw: bytes of the JSON.

    Returns:
        The object.

    Raises:
        Reject: bad_metadata, if it cannot be read or is no object.
    """
    try:
        tree = json.loads(decode_text(raw))
    except (ValueError, RecursionError) as error:
        raise Reject("bad_metadata", f"not JSON: {error}") from None
    if not isinstance(tree, dict):
        raise Reject("bad_metadata", f"the JSON must be an object, not {type(tree).__name__}")
    return tree


def parse_captions(tree: Json, names: Iterable[str] = ("caption", "captions")) -> list[str]:
    """The captions of all fields `names`, in order; a caption of an earlier field is not taken again.

    Args:
        tree: JSON object of a sample.
        names: names of the fields that hold captions.

    Returns:
        The captions.

    Raises:
        Reject: bad_metadata, if a field is no text or list of texts.
    """
    return merge_texts(*(parse_texts(tree.get(name), name) for name in names))


def merge_texts(*sources: list[str]) -> list[str]:
    """The texts of all sources in order, without those that an earlier source holds as well."""
    merged: list[str] = []
    for source in sources:
        earlier = frozenset(merged)
        merged += [text for text in source if text not in earlier]
    return merged


def caption_fields(names: Iterable[str], layout: LayoutConfig) -> list[str]:
    """Which columns or fields hold captions.

    Args:
        names: of all columns or fields.
        layout: names them, or leaves it to the usual names.

    Returns:
        Names, in the order in which their captions are taken; empty if there are none.
    """
    names = list(names)
    if layout.caption_columns:
        return [name for name in layout.caption_columns if name in names]
    usual = [name for name in CAPTION_FIELDS if name in names]
    usual += [name for name in names if _NUMBERED.fullmatch(name)]
    return usual or [name for name in OTHER_CAPTION_FIELDS if name in names][:1]


def read_lines(file: IO[bytes]) -> Iterator[bytes | None]:
    """Read the lines of a binary file.

    Args:
        file: open for reading.

    Yields:
        A line without its end; None in place of a line over `MAX_TEXT` bytes, which is never held whole.
    """
    rest, overlong = b"", False
    while chunk := file.read(1 << 20):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield None if overlong or len(line) > MAX_TEXT else line
            overlong = False
        if len(rest) > MAX_TEXT:
            rest, overlong = b"", True
    if rest or overlong:
        yield None if overlong else rest
