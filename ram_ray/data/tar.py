"""Samples of a WebDataset tar, read forward once, in bounded memory, past what is broken.

Python's `tarfile.TarFile` stops at the first bad header, keeps every member in memory and reads extension
headers of any size. So the walk from header to header is written here, on `tarfile.TarInfo`'s header parser:
where no header can be read it searches for the next header, block by block, and yields one `CorruptSpan` for the
bytes between. A sample is the members that share a name up to the first dot after the last slash (WebDataset's
rule). Its members are usually adjacent; an incomplete sample waits, within bounds, for its other members.
"""

from __future__ import annotations

import re
import tarfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, TypedDict

import fsspec

from ram_ray.data.samples import (
    MAX_TEXT,
    ImageCheck,
    Sample,
    decode_text,
    merge_texts,
    parse_captions,
    parse_texts,
    read_json,
)
from ram_ray.records import Reject

IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp"})
TEXT_EXTENSIONS = frozenset({"txt", "json"})
BLOCK = tarfile.BLOCKSIZE
CHUNK = 2048 * BLOCK  # bytes searched at a time for the next header
MAX_HEADER = 1 << 20  # bytes of a pax or long-name header
MAX_WAITING = 50_000  # samples that wait for an image or a text further on
_EXTENSION_TYPES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, b"X")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstandard"}


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file of the archive; its data is `nbytes` bytes from byte `offset`."""

    name: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class CorruptSpan:
    """Bytes `offset` to `end` of the archive, which could not be read."""

    offset: int
    end: int
    detail: str


class Extension(TypedDict, total=False):
    """Fields of the next member, from extension headers."""

    path: str
    size: int
    sparse: bool


def walk(file: IO[bytes], size: int) -> Iterator[Member | CorruptSpan]:
    """Walk a tar from header to header.

    Args:
        file: file open for reading bytes, seekable.
        size: size of the file in bytes.

    Yields:
        The members and the corrupt spans between them, in order.
    """
    position, ended = 0, False
    extended: Extension = {}  # fields of the next member, from extension headers
    while position < size:
        file.seek(position)
        block = file.read(BLOCK)
        if block.count(0) == len(block):
            position, ended, extended = _skip_zeros(file, position, size), True, {}
            continue
        ended = False
        info = _header(block)
        if info is None:
            start, position = position, _next_header(file, position + BLOCK, size)
            yield CorruptSpan(start, position, _describe_no_header(block, start))
            extended, ended = {}, position >= size
            continue
        data = position + BLOCK
        nbytes = extended.get("size", info.size) if info.type not in _EXTENSION_TYPES else info.size
        if not (info.isreg() or info.type not in tarfile.SUPPORTED_TYPES or info.type in _EXTENSION_TYPES):
            nbytes = 0  # links, folders and devices carry no data
        name = extended.get("path", info.name)
        if data + nbytes > size:
            yield CorruptSpan(
                position, size, f"cut inside {name[:200]!r}: {max(0, size - data)} of {nbytes} bytes are there"
            )
            return
        end = data + -(-nbytes // BLOCK) * BLOCK
        if info.type in _EXTENSION_TYPES and nbytes <= MAX_HEADER:
            extended |= _extension(info.type, file.read(nbytes))
        elif info.type in _EXTENSION_TYPES or info.type == tarfile.GNUTYPE_SPARSE or "sparse" in extended:
            yield CorruptSpan(position, end, f"a header of {nbytes} bytes or a sparse file, which is not read")
            extended = {}
        else:
            if info.isreg():
                yield Member(name, data, nbytes)
            extended = {}
        position = end
    if not ended:
        yield CorruptSpan(size, size, "cut: the archive has no end marker" if size else "an empty file")


def read_tar(uri: str, *, check_image: ImageCheck) -> Iterator[Sample]:
    """Read the samples of a tar: complete ones as soon as the next sample begins, incomplete ones at the end.

    A sample that lacks its image or its text and lies beside a corrupt span was lost with it: the span's row counts it.

    Args:
        uri: URI of the tar.
        check_image: function that checks an image.

    Yields:
        Samples; what cannot be used has a `problem`.
    """
    fs, path = fsspec.url_to_fs(uri)
    size = fs.size(path)
    with fs.open(path, "rb", block_size=4 << 20, cache_type="readahead") as file:
        groups = _Groups(uri)
        for part in walk(file, size):
            if isinstance(part, Member):
                yield from groups.add(part, file=file, check_image=check_image)
                continue
            groups.mark_corrupt()
            problem = Reject("broken_archive", part.detail)
            yield Sample(f"#broken-{part.offset}", uri, part.offset, part.end - part.offset, problem=problem)
        yield from groups.finish()


@dataclass(slots=True)
class _Group:
    """The members of one sample that were read so far."""

    key: str
    first: Member
    extensions: set[str] = field(default_factory=set)
    images: list[Sample] = field(default_factory=list)
    txt_captions: list[str] = field(default_factory=list)
    json_captions: list[str] = field(default_factory=list)
    labels: tuple[object, object] = (None, None)  # values of `labels` and `negative_labels`
    origin: tuple[object, object] = (None, None)  # values of `url` and `sha256`
    problem: Reject | None = None  # of the texts
    beside_corrupt: bool = False

    @property
    def is_complete(self) -> bool:
        return bool(self.images) and not TEXT_EXTENSIONS.isdisjoint(self.extensions)

    def add_text(self, extension: str, raw: bytes) -> None:
        try:
            if extension == "txt":
                self.txt_captions += parse_texts(decode_text(raw), ".txt")
            else:
                tree = read_json(raw)
                self.origin = tree.get("url"), tree.get("sha256")
                self.json_captions += parse_captions(tree)
                self.labels = tree.get("labels"), tree.get("negative_labels")
        except Reject as reject:
            self.problem = reject

    def _set_labels(self, sample: Sample) -> None:
        try:
            sample.set_labels(*self.labels)
        except Reject as reject:
            self.problem = self.problem or reject

    def samples(self, uri: str) -> Iterator[Sample]:
        """The sample, and a rejected one for each further image; nothing if a corrupt span took a part of it."""
        if not self.is_complete and self.beside_corrupt:
            return
        for index, sample in enumerate(self.images):
            if index:
                sample.problem = Reject("duplicate_key", f"a second image of {self.key[:200]!r}")
            else:
                sample.captions = merge_texts(self.txt_captions, self.json_captions)
                sample.set_origin(*self.origin)
                self._set_labels(sample)
                sample.problem = sample.problem or self.problem
            yield sample
        dotted = [extension for extension in self.extensions if extension.rpartition(".")[2] in IMAGE_EXTENSIONS]
        if not self.images and (dotted or not TEXT_EXTENSIONS.isdisjoint(self.extensions)):
            detail = f"no image beside {self.first.name[:200]!r}"
            if dotted:
                detail += "; a WebDataset key ends at the first dot: put no other dot into an image's name"
            yield Sample(self.key, uri, self.first.offset, self.first.nbytes, problem=Reject("bad_metadata", detail))


class _Groups:
    """Groups members to samples: the group being read, and incomplete groups that wait for a member."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.current: _Group | None = None
        self.waiting: OrderedDict[str, _Group] = OrderedDict()
        self.after_corrupt = False

    def add(self, member: Member, *, file: IO[bytes], check_image: ImageCheck) -> Iterator[Sample]:
        """Add a member, and yield the samples that are finished with it."""
        folder, slash, base = member.name.removeprefix("./").lstrip("/").rpartition("/")
        stem, dot, extension = base.partition(".")
        if not stem or not dot:
            return  # not part of a sample by WebDataset's rule: README, .hidden, ._resource
        key = (folder + slash + stem).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        extension = extension.lower()
        group = self.current
        if group is None or group.key != key or (group.is_complete and extension in group.extensions):
            yield from self._close()
            group = self.current = self.waiting.pop(key, None) or _Group(key, member)
        group.beside_corrupt |= self.after_corrupt
        self.after_corrupt = False
        group.extensions.add(extension)
        if extension in IMAGE_EXTENSIONS:
            group.images.append(_image_sample(self.uri, key, member, file=file, check_image=check_image))
        elif extension in TEXT_EXTENSIONS and member.nbytes > MAX_TEXT:
            group.problem = Reject("bad_metadata", f"{member.nbytes} bytes of .{extension}; the bound is {MAX_TEXT}")
        elif extension in TEXT_EXTENSIONS:
            file.seek(member.offset)
            group.add_text(extension, file.read(member.nbytes))

    def mark_corrupt(self) -> None:
        """Mark the group read last and the next one as beside a corrupt span."""
        self.after_corrupt = True
        if self.current:
            self.current.beside_corrupt = True

    def finish(self) -> Iterator[Sample]:
        """Yield the samples of all remaining groups."""
        yield from self._close()
        for group in self.waiting.values():
            yield from group.samples(self.uri)

    def _close(self) -> Iterator[Sample]:
        group, self.current = self.current, None
        if group is None:
            return
        if group.is_complete:
            yield from group.samples(self.uri)
            return
        self.waiting[group.key] = group
        if len(self.waiting) > MAX_WAITING:
            yield from self.waiting.popitem(last=False)[1].samples(self.uri)


def _image_sample(uri: str, key: str, member: Member, *, file: IO[bytes], check_image: ImageCheck) -> Sample:
    def read(num_bytes: int) -> bytes:
        file.seek(member.offset)
        return file.read(min(num_bytes, member.nbytes))

    sample = Sample(key, uri, member.offset, member.nbytes)
    sample.check_image(check_image, read)
    return sample


def _header(block: bytes) -> tarfile.TarInfo | None:
    if not block[148:156].strip(b" \0").isdigit():  # the checksum: most blocks that are no header fail here
        return None
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")  # type: ignore[arg-type]
    except tarfile.HeaderError:
        return None
    return info if info.size >= 0 else None


def _next_header(file: IO[bytes], position: int, size: int) -> int:
    """The first header at or after `position`, or `size`."""
    while position < size:
        file.seek(position)
        chunk = file.read(CHUNK)
        for start in range(0, len(chunk), BLOCK):
            if _header(chunk[start : start + BLOCK]):
                return position + start
        position += CHUNK
    return size


def _skip_zeros(file: IO[bytes], position: int, size: int) -> int:
    """The first block at or after `position` that is not all zeros, or `size`."""
    while position < size:
        file.seek(position)
        chunk = file.read(CHUNK)
        if remaining := len(chunk.lstrip(b"\0")):
            return position + (len(chunk) - remaining) // BLOCK * BLOCK
        position += CHUNK
    return size


def _extension(kind: bytes, raw: bytes) -> Extension:
    """The fields of the next member in a long-name or pax header: path, size, sparse."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return {"path": raw.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    fields: Extension = {}
    while kind in (tarfile.XHDTYPE, b"X") and (match := re.match(rb"(\d{1,7}) ([^=]+)=", raw)):
        length = int(match[1])
        value = raw[match.end() : length - 1]
        if match[2] == b"path":
            fields["path"] = value.decode("utf-8", "surrogateescape")
        elif match[2] == b"size" and value.isdigit() and len(value) < 20:
            fields["size"] = int(value)
        elif match[2].startswith(b"GNU.sparse."):
            fields["sparse"] = True
        raw = raw[max(length, match.end()) :]
    return fields


def _describe_no_header(block: bytes, start: int) -> str:
    packed = next((name for magic, name in _COMPRESSED.items() if start == 0 and block.startswith(magic)), None)
    if packed:
        return f"compressed with {packed}: unpack it, since images are read in place"
    return f"no tar header at byte {start}"
