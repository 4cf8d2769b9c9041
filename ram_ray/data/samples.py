"""What all formats of shards share: the sample, and the check of an image that is a file.

A reader reads its shard once and yields a `Sample` for every image and every defect: what cannot be used has a
`problem`, and nothing is dropped without a row. A reader does not decode: it passes each image to `check_image` while
its bytes are available, so that an archive of any size is read once and forward only.
"""

from __future__ import annotations

import errno
import posixpath
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypedDict

from ram_ray.data.texts import parse_labels, parse_texts
from ram_ray.records import Reject
from ram_ray.runtime.location import locate

MAX_ORIGIN = 4096  # characters of a url or a sum
NO_COLUMNS = "#columns"  # key of the one sample of a table that has no columns of images or of captions
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


def check_file(sample: Sample, *, named_in: str, check_image: ImageCheck) -> None:
    """Set the length and the size of a sample whose image is a file, or its problem.

    Args:
        sample: has the URI of the file.
        named_in: what names the file, for the error: "line 7".
        check_image: function that checks an image.

    Raises:
        OSError: if the storage fails.
    """
    fs, path = locate(sample.uri)
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


def relative_name(name: object, *, root: str = "", fields: str = '"file_name" or "image"') -> str:
    """Check and normalise an image's path relative to its folder: it must stay inside.

    Args:
        name: value of the field: a path relative to the folder, or a whole one inside of it.
        root: URI of the folder.
        fields: names of the fields, for the error.

    Returns:
        The normalised path, relative.

    Raises:
        Reject: bad_metadata, if there is no path or it leaves the folder.
    """
    if not isinstance(name, str) or not name.strip():
        raise Reject("bad_metadata", f"no image is named: write {fields}")
    parse_texts(name, "file_name")
    name = name.removeprefix(f"{root}/") if root else name
    if name.startswith("/") or ".." in name.split("/") or "\0" in name or "://" in name:
        raise Reject("bad_metadata", f"the image's path must stay inside the folder {root}: {name[:200]!r}")
    if name.lower().endswith((".tar", ".parquet")):
        raise Reject("bad_metadata", f"an archive is no image: {name[:200]!r}")
    return posixpath.normpath(name)


def folder_of(uri: str, images: str | None) -> str:
    """The folder that the image paths of a file start from.

    Args:
        uri: of the file.
        images: the folder that the user named, if any.

    Returns:
        URI of the folder, without a slash at the end.
    """
    return (images or uri.rpartition("/")[0] or ".").rstrip("/")
