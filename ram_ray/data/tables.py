"""Samples of a table of image paths and captions: `captions.jsonl`, `metadata.jsonl`, CSV and TSV.

A line names a file below the table's folder. Consecutive rows of a CSV or TSV about one image, as Flickr30k has them,
are one sample with several captions.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator

from ram_ray.data.columns import IMAGE_COLUMNS, PATH_COLUMNS
from ram_ray.data.samples import NO_COLUMNS, ImageCheck, Sample, check_file, folder_of, relative_name
from ram_ray.data.texts import MAX_TEXT, caption_fields, decode_text, merge_texts, parse_captions, read_json, read_lines
from ram_ray.records import Json, Reject
from ram_ray.runtime.location import child_uri, locate
from ram_ray.settings.data import LayoutConfig

DELIMITERS = ",\t;|"
HEADER_BYTES = 64 << 10
MAX_LINES = 1000  # of one record
PATH_FIELDS = ("file_name", "image", *PATH_COLUMNS[1:], "image_name", *IMAGE_COLUMNS[1:])
LABEL_FIELDS = ("labels", "negative_labels")


def read_table(
    uri: str, *, check_image: ImageCheck, layout: LayoutConfig, images: str | None = None
) -> Iterator[Sample]:
    """Read the samples of a table.

    Args:
        uri: URI of the table; its ending says what it is.
        check_image: function that checks an image.
        layout: names columns, or leaves it to the usual names.
        images: folder that image paths start from; None: the folder of the table.

    Yields:
        Samples; the key is the image's path.

    Raises:
        OSError: if the storage fails.
    """
    root = folder_of(uri, images)
    fs, path = locate(uri)
    with fs.open(path, "rb") as file:
        lines = enumerate(read_lines(file), start=1)
        samples: Iterator[tuple[Sample, int]]
        if uri.lower().endswith(".jsonl"):
            samples = (
                _json_sample(line, number, uri, root, layout) for number, line in lines if line is None or line.strip()
            )
        else:
            samples = _merge(_csv_samples(lines, uri, root, layout))
        for sample, number in samples:
            if sample.problem is None:
                check_file(sample, named_in=f"line {number}", check_image=check_image)
            yield sample


def path_field(names: Iterable[str], layout: LayoutConfig) -> str | None:
    """Which column or field holds the path of the image.

    Args:
        names: of all columns or fields.
        layout: names it, or leaves it to the usual names.

    Returns:
        Its name; None if there is none.
    """
    names = set(names)
    return next((name for name in layout.image_columns or PATH_FIELDS if name in names), None)


def read_header(start: bytes, layout: LayoutConfig) -> tuple[list[str], str] | None:
    """The columns of a CSV or TSV.

    Args:
        start: its first bytes.
        layout: names columns, or leaves it to the usual names.

    Returns:
        (columns, delimiter), None if no column names an image or none holds captions or labels.
    """
    try:
        line = decode_text(start.partition(b"\n")[0], encoding=layout.encoding)
    except Reject:
        return None
    delimiter = max(DELIMITERS, key=line.count)
    columns = [name.strip() for name in next(csv.reader([line.strip("\r")], delimiter=delimiter), [])]
    has_text = bool(caption_fields(columns, layout)) or any(name in columns for name in LABEL_FIELDS)
    return (columns, delimiter) if path_field(columns, layout) and has_text else None


def _json_sample(line: bytes | None, number: int, uri: str, root: str, layout: LayoutConfig) -> tuple[Sample, int]:
    sample = Sample(f"line-{number}", uri)
    try:
        if line is None:
            raise Reject("bad_metadata", f"line {number} is longer than {MAX_TEXT} bytes")
        _describe(sample, read_json(line), root, layout)
    except Reject as reject:
        sample.problem = reject
    return sample, number


def _csv_samples(
    lines: Iterator[tuple[int, bytes | None]], uri: str, root: str, layout: LayoutConfig
) -> Iterator[tuple[Sample, int]]:
    """A sample for each row; a quoted field may hold ends of lines."""
    _, first = next(lines, (1, b""))
    header = read_header(first or b"", layout)
    if header is None:
        shown = (first or b"")[:200].decode("utf-8", "replace")
        detail = f"no columns of image paths and captions in the first line: {shown!r}"
        yield Sample(NO_COLUMNS, uri, problem=Reject("bad_metadata", detail)), 1
        return
    columns, delimiter = header
    record, start, last = b"", 2, 2
    for last, line in lines:
        start = start if record else last
        if line is None:
            yield _csv_sample(None, last, uri, root, columns, delimiter, layout)
            continue
        record += line + b"\n"
        if last - start < MAX_LINES and len(record) < MAX_TEXT and _is_open(record, delimiter):
            continue
        if record.strip():
            yield _csv_sample(record, start, uri, root, columns, delimiter, layout)
        record = b""
    if record.strip():
        yield _csv_sample(record, start, uri, root, columns, delimiter, layout)


def _is_open(record: bytes, delimiter: str) -> bool:
    """Whether the last field of a record begins with a quote that is not closed yet."""
    if b'"' not in record:
        return False
    mark = re.escape(delimiter).encode()
    closed = re.compile(rb'(^|%b)"(?:[^"]|"")*"(?=%b|\r?\n?$)' % (mark, mark))
    return re.search(rb'(?:^|%b)"(?:[^"]|"")*$' % mark, closed.sub(rb"\1", record)) is not None


def _csv_sample(
    record: bytes | None, number: int, uri: str, root: str, columns: list[str], delimiter: str, layout: LayoutConfig
) -> tuple[Sample, int]:
    sample = Sample(f"line-{number}", uri)
    try:
        if record is None:
            raise Reject("bad_metadata", f"line {number} is longer than {MAX_TEXT} bytes")
        text = decode_text(record, encoding=layout.encoding)
        values = next(csv.reader(io.StringIO(text), delimiter=delimiter), [])
        if len(values) != len(columns):
            ends = f" to {number + text.count(chr(10)) - 1}" if text.count("\n") > 1 else ""
            detail = f"line {number}{ends} has {len(values)} fields, the first line {len(columns)}"
            raise Reject(
                "bad_metadata", f"{detail}; put quotes around a text that has {delimiter!r} in it, and close them"
            )
        row: Json = dict(zip(columns, (value.strip() for value in values), strict=True))
        for name in LABEL_FIELDS:  # names with "|" between them
            if name in row:
                row[name] = [label for label in row[name].split("|") if label]
        _describe(sample, row, root, layout)
    except (Reject, csv.Error) as error:
        sample.problem = error if isinstance(error, Reject) else Reject("bad_metadata", f"line {number}: {error}")
    return sample, number


def _describe(sample: Sample, row: Json, root: str, layout: LayoutConfig) -> None:
    """Set what a row says of an image."""
    field = path_field(row, layout)
    name = relative_name(row.get(field) if field else None, root=root)
    sample.key, sample.uri = name, child_uri(root, name)
    sample.captions = parse_captions(row, caption_fields(row, layout))
    sample.set_origin(row.get("url"), row.get("sha256"))
    sample.set_labels(row.get("labels"), row.get("negative_labels"))


def _merge(samples: Iterator[tuple[Sample, int]]) -> Iterator[tuple[Sample, int]]:
    """Consecutive samples of one image as one, with the captions of all."""
    current: tuple[Sample, int] | None = None
    for sample, number in samples:
        if current and sample.problem is None and current[0].problem is None and sample.key == current[0].key:
            current[0].captions += sample.captions
            current[0].labels = merge_labels(current[0].labels, sample.labels)
            current[0].negative_labels = merge_labels(current[0].negative_labels, sample.negative_labels)
            continue
        if current:
            yield current
        current = sample, number
    if current:
        yield current


def merge_labels(first: list[str] | None, second: list[str] | None) -> list[str] | None:
    """The labels of two rows about one image; None if neither is labelled."""
    return first if second is None else merge_texts(first or [], second)
