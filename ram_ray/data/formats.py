"""What all kinds of shard share: the sample, the reading of captions and labels; and the plainest kind, a folder.

A reader walks its shard once and gives a `Sample` for everything it meets, good or not: what cannot be used
carries a `problem`, and nothing is dropped in silence. A reader does not decode: it hands each picture to
`measure` while its bytes are at hand, so that the archive is read once and forward only, whatever its size.
Metadata is untrusted: it is bounded in bytes, decoded as strict UTF-8, and parsed once.
"""

from __future__ import annotations

import errno
import json
import posixpath
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import fsspec

from ram_ray.records import Reject

MAX_TEXT = 4 << 20  # bytes of one caption file, JSON file or line
CAPTIONS_FILE = "captions.jsonl"

Read = Callable[[int], bytes]  # the first n bytes of a picture


class Measure(Protocol):
    """Checks one picture of `nbytes` bytes; returns (width, height) or raises `Reject`."""

    def __call__(self, read: Read, nbytes: int) -> tuple[int, int]:
        """(width, height) in pixels of an image of `nbytes` bytes, of which `read` gives parts."""
        ...


@dataclass(slots=True)
class Sample:
    """One picture with its texts, as found in a shard. `key` is unique only by accident; `problem` may be set."""

    key: str
    uri: str
    offset: int = 0
    nbytes: int = 0
    size: tuple[int, int] | None = None  # (width, height)
    captions: list[str] = field(default_factory=list)
    labels: list[str] | None = None
    problem: Reject | None = None

    def measure(self, measure: Measure, read: Read) -> None:
        """Check the picture, keeping its size or its problem."""
        try:
            self.size = measure(read, self.nbytes)
        except Reject as reject:
            self.problem = self.problem or reject


def decode_text(raw: bytes) -> str:
    """Strict UTF-8 (a leading byte-order mark is dropped).

    Raises:
        Reject: bad_metadata, for any other encoding.
    """
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Reject("bad_metadata", f"not UTF-8 text: {error}") from None


def texts(value: Any, what: str) -> list[str]:
    """The non-empty texts of a string, a list of strings or None; white space collapsed.

    Equal texts in one list stay: two people who wrote the same said it twice.

    Args:
        value: as it came from JSON, Parquet or a file.
        what: for the error: the field's name.

    Raises:
        Reject: bad_metadata, for any other type or a string that is not valid Unicode.
    """
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    found = []
    for one in values:
        if isinstance(one, bytes):
            one = decode_text(one)
        if not isinstance(one, str):
            raise Reject("bad_metadata", f"{what} must be text or a list of texts, not {type(one).__name__}")
        try:
            one.encode()
        except UnicodeEncodeError:  # a lone surrogate, which JSON can spell and Parquet cannot hold
            raise Reject("bad_metadata", f"{what} is not valid Unicode") from None
        if one := " ".join(one.split()):
            found.append(one)
    return found


def label_texts(value: Any) -> list[str] | None:
    """Human labels: None where there are none to read, an empty list for "labelled, nothing".

    Raises:
        Reject: bad_metadata, if the value is no list of texts.
    """
    if value is not None and not isinstance(value, list):
        raise Reject("bad_metadata", f"labels must be a list of texts, not {type(value).__name__}")
    return None if value is None else texts(value, "labels")


def read_json(raw: bytes) -> dict[str, Any]:
    """One JSON object.

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


def captions_of(tree: dict[str, Any], names: Iterable[str] = ("caption", "captions")) -> list[str]:
    """The captions under every one of `names`, in order; what an earlier name holds is not taken again.

    Args:
        tree: of one sample's JSON.
        names: of fields that hold captions.
    """
    return joined(*(texts(tree.get(name), name) for name in names))


def joined(*sources: list[str]) -> list[str]:
    """The texts of all sources in order, less those of a source that an earlier one holds as well."""
    found: list[str] = []
    for source in sources:
        earlier = frozenset(found)
        found += [text for text in source if text not in earlier]
    return found


def read_folder(uri: str, *, measure: Measure) -> Iterator[Sample]:
    """Samples of `uri/captions.jsonl`, one a line; blank lines are skipped. The key is the picture's name.

    Args:
        uri: of the folder.
        measure: checks a picture.
    """
    fs, root = fsspec.url_to_fs(uri)
    with fs.open(f"{root}/{CAPTIONS_FILE}", "rb") as file:
        for number, line in enumerate(_lines(file), start=1):
            if line is None or line.strip():
                yield _folder_sample(uri.rstrip("/"), number, line, fs=fs, measure=measure)


def _folder_sample(uri: str, number: int, line: bytes | None, *, fs: Any, measure: Measure) -> Sample:
    sample = Sample(f"line-{number}", f"{uri}/{CAPTIONS_FILE}")
    try:
        if line is None:
            raise Reject("bad_metadata", f"line {number} is longer than {MAX_TEXT} bytes")
        tree = read_json(line)
        name = _inside(tree.get("file_name", tree.get("image")))
        sample.key, sample.uri = name, f"{uri}/{name}"
        sample.captions = captions_of(tree, ("caption", "captions", "text"))
        sample.labels = label_texts(tree.get("labels"))
    except Reject as reject:
        sample.problem = reject
        return sample
    path = fs._strip_protocol(sample.uri)
    try:
        info = fs.info(path)
        if info["type"] != "file":
            raise FileNotFoundError("not a file")
        sample.nbytes = int(info["size"])
        sample.measure(measure, lambda num_bytes: fs.cat_file(path, start=0, end=min(num_bytes, sample.nbytes)))
    except OSError as error:
        gone = isinstance(error, (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError))
        if not gone and error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
            raise  # the storage failed, not this row
        sample.problem = Reject("bad_metadata", f"line {number} names a picture that cannot be read: {error}")
    return sample


def _inside(name: Any) -> str:
    """A picture's name relative to its folder, and staying in it."""
    if not isinstance(name, str) or not name.strip():
        raise Reject("bad_metadata", 'no picture is named: write "file_name" or "image"')
    texts(name, "file_name")
    if name.startswith("/") or ".." in name.split("/") or "\0" in name or "::" in name:
        raise Reject("bad_metadata", f"the picture's path must stay inside the folder: {name[:200]!r}")
    if name.lower().endswith((".tar", ".parquet")):
        raise Reject("bad_metadata", f"an archive is no picture: {name[:200]!r}")
    return posixpath.normpath(name)


def _lines(file: Any) -> Iterator[bytes | None]:
    """Lines of a binary file; None in place of a line over `MAX_TEXT` bytes, which is never held whole."""
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
