"""What all formats of shards share: the sample, the parsing of captions and labels; and the simplest format, a folder.

A reader reads its shard once and yields a `Sample` for every image and every defect: what cannot be used has a
`problem`, and nothing is dropped without a row. A reader does not decode: it passes each image to `check_image` while
its bytes are available, so that an archive of any size is read once and forward only. Metadata is untrusted: it is
bounded in bytes, decoded as strict UTF-8, and parsed once.
"""

from __future__ import annotations

import errno
import json
import posixpath
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, Protocol, TypedDict

import fsspec

from ram_ray.records import Json, Reject

MAX_TEXT = 4 << 20  # bytes of one caption file, JSON file or line
MAX_ORIGIN = 4096  # characters of a url or a sum
CAPTIONS_FILE = "captions.jsonl"

Read = Callable[[int], bytes]  # the first n bytes of an image


class ImageCheck(Protocol):
    """A function that checks an image."""

    def __call__(self, read: Read, nbytes: int) -> tuple[int, int]:
        """Check an image.

        Args:
            read: function that reads the first n bytes of the image.
            nbytes: length of the image in bytes.

        Returns:
            (width, height) in pixels.

        Raises:
            Reject: if the image cannot be used.
        """
        ...


class GivenTag(TypedDict):
    """A tag that came with the data and is no human label."""

    id: int  # of `labels.system`
    caption: int | None  # index of the caption that mentions it; None: no caption does


@dataclass(slots=True)
class Sample:
    """One image with its texts, as a shard has it; `key` need not be unique. With a `problem` it cannot be used."""

    key: str
    uri: str
    offset: int = 0
    nbytes: int = 0
    size: tuple[int, int] | None = None  # (width, height)
    url: str | None = None
    sha256: str | None = None
    captions: list[str] = field(default_factory=list)
    labels: list[str] | None = None
    negative_labels: list[str] | None = None
    given_tags: list[GivenTag] | None = None
    problem: Reject | None = None

    @property
    def has_labels(self) -> bool:
        """Whether anything but a caption says what the image shows."""
        return not (self.labels is None and self.negative_labels is None and self.given_tags is None)

    def set_origin(self, url: object, sha256: object) -> None:
        """Set what the data states about the image's origin; what is no text, or too long, says nothing.

        Args:
            url: where the image was downloaded, as img2dataset writes it.
            sha256: sum of the image as it was downloaded.
        """
        self.url, self.sha256 = _short_text(url), _short_text(sha256)

    def set_labels(self, labels: object, negative_labels: object) -> None:
        """Set the human labels.

        Args:
            labels: value of the field `labels`, see `parse_labels`.
            negative_labels: value of the field `negative_labels`.

        Raises:
            Reject: bad_metadata, if a value is no list of texts, or a name is in both.
        """
        positive, negative = parse_labels(labels), parse_labels(negative_labels, name="negative_labels")
        if both := set(positive or ()) & set(negative or ()):
            raise Reject("bad_metadata", f"labels and negative_labels both contain {min(both)[:100]!r}")
        self.labels, self.negative_labels = positive, negative

    def check_image(self, check_image: ImageCheck, read: Read) -> None:
        """Check the image, and set its size or its problem.

        Args:
            check_image: function that checks an image.
            read: function that reads the first n bytes of the image.
        """
        try:
            self.size = check_image(read, self.nbytes)
        except Reject as reject:
            self.problem = self.problem or reject


def _short_text(value: object) -> str | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str) or len(value) > MAX_ORIGIN or not value.isprintable():
        return None
    return value.strip() or None


def decode_text(raw: bytes) -> str:
    """Decode strict UTF-8 (a leading byte-order mark is dropped).

    Args:
        raw: bytes of a text.

    Returns:
        The text.

    Raises:
        Reject: bad_metadata, for any other encoding.
    """
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Reject("bad_metadata", f"not UTF-8 text: {error}") from None


def parse_texts(value: object, name: str) -> list[str]:
    """The non-empty texts of a string, a list of strings or None, with white space collapsed.

    Equal texts of a list are all kept: two people may write the same caption.

    Args:
        value: value from JSON, Parquet or a file.
        name: name of the field, for the error.

    Returns:
        The texts, in order.

    Raises:
        Reject: bad_metadata, for any other type or a string that is not valid Unicode.
    """
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    cleaned = []
    for text in values:
        if isinstance(text, bytes):
            text = decode_text(text)
        if not isinstance(text, str):
            raise Reject("bad_metadata", f"{name} must be text or a list of texts, not {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError:  # a lone surrogate, which JSON can spell and Parquet cannot hold
            raise Reject("bad_metadata", f"{name} is not valid Unicode") from None
        if text := " ".join(text.split()):
            cleaned.append(text)
    return cleaned


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


def read_folder(uri: str, *, check_image: ImageCheck) -> Iterator[Sample]:
    """Read the samples of `uri/captions.jsonl`, a sample a line; blank lines are skipped.

    Args:
        uri: URI of the folder.
        check_image: function that checks an image.

    Yields:
        Samples; the key is the image's file name.

    Raises:
        OSError: if the storage fails.
    """
    fs, root = fsspec.url_to_fs(uri)
    with fs.open(f"{root}/{CAPTIONS_FILE}", "rb") as file:
        for number, line in enumerate(_lines(file), start=1):
            if line is None or line.strip():
                yield _folder_sample(uri.rstrip("/"), number, line, fs=fs, check_image=check_image)


def _folder_sample(
    uri: str, number: int, line: bytes | None, *, fs: fsspec.AbstractFileSystem, check_image: ImageCheck
) -> Sample:
    sample = Sample(f"line-{number}", f"{uri}/{CAPTIONS_FILE}")
    try:
        if line is None:
            raise Reject("bad_metadata", f"line {number} is longer than {MAX_TEXT} bytes")
        tree = read_json(line)
        name = relative_name(tree.get("file_name", tree.get("image")))
        sample.key, sample.uri = name, f"{uri}/{name}"
        sample.captions = parse_captions(tree, ("caption", "captions", "text"))
        sample.set_origin(tree.get("url"), tree.get("sha256"))
        sample.set_labels(tree.get("labels"), tree.get("negative_labels"))
    except Reject as reject:
        sample.problem = reject
        return sample
    check_file(sample, fs=fs, named_in=f"line {number}", check_image=check_image)
    return sample


def check_file(sample: Sample, *, fs: fsspec.AbstractFileSystem, named_in: str, check_image: ImageCheck) -> None:
    """Set the length and the size of a sample whose image is a file, or its problem.

    Args:
        sample: has the URI of the file.
        fs: the fsspec file system of the URI.
        named_in: what names the file, for the error: "line 7".
        check_image: function that checks an image.

    Raises:
        OSError: if the storage fails.
    """
    path = fs._strip_protocol(sample.uri)
    try:
        info = fs.info(path)
        if info["type"] != "file":
            raise FileNotFoundError("not a file")
        sample.nbytes = int(info["size"])
        sample.check_image(check_image, lambda num_bytes: fs.cat_file(path, start=0, end=min(num_bytes, sample.nbytes)))
    except OSError as error:
        gone = isinstance(error, (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError))
        if not gone and error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
            raise  # the storage failed, not this row
        sample.problem = Reject("bad_metadata", f"{named_in} names an image that cannot be read: {error}")


def relative_name(name: object, *, fields: str = '"file_name" or "image"') -> str:
    """Check and normalise an image's path relative to its folder: it must stay inside.

    Args:
        name: value of the field.
        fields: names of the fields, for the error.

    Returns:
        The normalised path.

    Raises:
        Reject: bad_metadata, if there is no path or it leaves the folder.
    """
    if not isinstance(name, str) or not name.strip():
        raise Reject("bad_metadata", f"no image is named: write {fields}")
    parse_texts(name, "file_name")
    if name.startswith("/") or ".." in name.split("/") or "\0" in name or "::" in name:
        raise Reject("bad_metadata", f"the image's path must stay inside the folder: {name[:200]!r}")
    if name.lower().endswith((".tar", ".parquet")):
        raise Reject("bad_metadata", f"an archive is no image: {name[:200]!r}")
    return posixpath.normpath(name)


def _lines(file: IO[bytes]) -> Iterator[bytes | None]:
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
