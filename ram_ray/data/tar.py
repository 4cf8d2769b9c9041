"""Samples of a WebDataset tar, read forward once, in bounded memory, past what is broken.

Python's `tarfile.TarFile` stops at the first bad header, keeps every member in memory and reads extension
headers of any size. So the walk from header to header is written here, on `tarfile.TarInfo`'s header parser:
where no header can be read it looks for the next one, block by block, and gives one `Break` for what lies
between. A sample is the members that share a name up to the first dot after the last slash (WebDataset's
rule). Members usually lie side by side; samples that lack a part wait, within bounds, for it to come.
"""

from __future__ import annotations

import re
import tarfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import fsspec

from ram_ray.data.formats import (
    MAX_TEXT,
    Measure,
    Sample,
    captions_of,
    decode_text,
    joined,
    label_texts,
    read_json,
    texts,
)
from ram_ray.records import Reject

PICTURES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp"})
TEXTS = frozenset({"txt", "json"})
BLOCK = tarfile.BLOCKSIZE
CHUNK = 2048 * BLOCK  # bytes searched at a time for the next header
MAX_HEADER = 1 << 20  # bytes of a pax or long-name header
MAX_WAITING = 50_000  # samples that wait for a picture or a text further on
_EXTENSIONS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, b"X")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstandard"}


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file of the archive: its data is `nbytes` bytes from `offset`."""

    name: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Break:
    """Bytes `offset` to `end` of the archive, which could not be read."""

    offset: int
    end: int
    detail: str


def walk(file: Any, size: int) -> Iterator[Member | Break]:
    """The members of the tar of `size` bytes in `file`, and what is broken between them, in order.

    Args:
        file: open for reading bytes, seekable.
        size: of the file, in bytes.
    """
    position, ended = 0, False
    extended: dict[str, Any] = {}  # what extension headers say of the next member
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
            yield Break(start, position, _no_header(block, start))
            extended, ended = {}, position >= size
            continue
        data = position + BLOCK
        nbytes = extended.get("size", info.size) if info.type not in _EXTENSIONS else info.size
        if not (info.isreg() or info.type not in tarfile.SUPPORTED_TYPES or info.type in _EXTENSIONS):
            nbytes = 0  # links, folders and devices carry no data
        name = extended.get("path", info.name)
        if data + nbytes > size:
            yield Break(position, size, f"cut inside {name[:200]!r}: {max(0, size - data)} of {nbytes} bytes are there")
            return
        end = data + -(-nbytes // BLOCK) * BLOCK
        if info.type in _EXTENSIONS and nbytes <= MAX_HEADER:
            extended |= _extension(info.type, file.read(nbytes))
        elif info.type in _EXTENSIONS or info.type == tarfile.GNUTYPE_SPARSE or "sparse" in extended:
            yield Break(position, end, f"a header of {nbytes} bytes or a sparse file, which is not read")
            extended = {}
        else:
            if info.isreg():
                yield Member(name, data, nbytes)
            extended = {}
        position = end
    if not ended:
        yield Break(size, size, "cut: the archive has no end marker" if size else "an empty file")


def read_tar(uri: str, *, measure: Measure) -> Iterator[Sample]:
    """Samples of a tar, complete ones as soon as the next sample begins, incomplete ones in the end.

    A sample that lacks its picture or its text and lies beside a break was lost with it: the break's row counts it.

    Args:
        uri: of the tar.
        measure: checks a picture.
    """
    fs, path = fsspec.url_to_fs(uri)
    size = fs.size(path)
    with fs.open(path, "rb", block_size=4 << 20, cache_type="readahead") as file:
        groups = _Groups(uri)
        for part in walk(file, size):
            if isinstance(part, Member):
                yield from groups.add(part, file=file, measure=measure)
                continue
            groups.touch_break()
            problem = Reject("broken_archive", part.detail)
            yield Sample(f"#broken-{part.offset}", uri, part.offset, part.end - part.offset, problem=problem)
        yield from groups.finish()


@dataclass(slots=True)
class _Group:
    """The members of one sample, so far."""

    key: str
    first: Member
    extensions: set[str] = field(default_factory=set)
    pictures: list[Sample] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)  # captions of .txt
    structured: list[str] = field(default_factory=list)  # captions of .json
    labels: list[str] | None = None
    problem: Reject | None = None  # of the texts
    beside_break: bool = False

    @property
    def whole(self) -> bool:
        return bool(self.pictures) and not TEXTS.isdisjoint(self.extensions)

    def add_text(self, extension: str, raw: bytes) -> None:
        try:
            if extension == "txt":
                self.plain += texts(decode_text(raw), ".txt")
            else:
                tree = read_json(raw)
                self.structured += captions_of(tree)
                self.labels = label_texts(tree.get("labels"))
        except Reject as reject:
            self.problem = reject

    def samples(self, uri: str) -> Iterator[Sample]:
        """The sample, and one more for each picture too many; nothing for what a break took."""
        if not self.whole and self.beside_break:
            return
        for place, sample in enumerate(self.pictures):
            if place:
                sample.problem = Reject("duplicate_key", f"a second picture of {self.key[:200]!r}")
            else:
                sample.captions = joined(self.plain, self.structured)
                sample.labels = self.labels
                sample.problem = sample.problem or self.problem
            yield sample
        dotted = [one for one in self.extensions if one.rpartition(".")[2] in PICTURES]
        if not self.pictures and (dotted or not TEXTS.isdisjoint(self.extensions)):
            detail = f"no picture beside {self.first.name[:200]!r}"
            if dotted:
                detail += "; a WebDataset key ends at the first dot: put no other dot into a picture's name"
            yield Sample(self.key, uri, self.first.offset, self.first.nbytes, problem=Reject("bad_metadata", detail))


class _Groups:
    """Members to samples: the group being read, and those that wait for a part."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.current: _Group | None = None
        self.waiting: OrderedDict[str, _Group] = OrderedDict()
        self.after_break = False

    def add(self, member: Member, *, file: Any, measure: Measure) -> Iterator[Sample]:
        """Take a member; give the samples that it completes."""
        folder, slash, base = member.name.removeprefix("./").lstrip("/").rpartition("/")
        stem, dot, extension = base.partition(".")
        if not stem or not dot:
            return  # by WebDataset's rule no part of a sample: README, .hidden, ._resource
        key = (folder + slash + stem).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        extension = extension.lower()
        group = self.current
        if group is None or group.key != key or (group.whole and extension in group.extensions):
            yield from self._close()
            group = self.current = self.waiting.pop(key, None) or _Group(key, member)
        group.beside_break |= self.after_break
        self.after_break = False
        group.extensions.add(extension)
        if extension in PICTURES:
            group.pictures.append(_picture(self.uri, key, member, file=file, measure=measure))
        elif extension in TEXTS and member.nbytes > MAX_TEXT:
            group.problem = Reject("bad_metadata", f"{member.nbytes} bytes of .{extension}; the bound is {MAX_TEXT}")
        elif extension in TEXTS:
            file.seek(member.offset)
            group.add_text(extension, file.read(member.nbytes))

    def touch_break(self) -> None:
        """What was read last and what comes next lie beside something broken."""
        self.after_break = True
        if self.current:
            self.current.beside_break = True

    def finish(self) -> Iterator[Sample]:
        """Give all that is left."""
        yield from self._close()
        for group in self.waiting.values():
            yield from group.samples(self.uri)

    def _close(self) -> Iterator[Sample]:
        group, self.current = self.current, None
        if group is None:
            return
        if group.whole:
            yield from group.samples(self.uri)
            return
        self.waiting[group.key] = group
        if len(self.waiting) > MAX_WAITING:
            yield from self.waiting.popitem(last=False)[1].samples(self.uri)


def _picture(uri: str, key: str, member: Member, *, file: Any, measure: Measure) -> Sample:
    def read(num_bytes: int) -> bytes:
        file.seek(member.offset)
        return file.read(min(num_bytes, member.nbytes))

    sample = Sample(key, uri, member.offset, member.nbytes)
    sample.measure(measure, read)
    return sample


def _header(block: bytes) -> tarfile.TarInfo | None:
    if not block[148:156].strip(b" \0").isdigit():  # the checksum: most blocks that are no header fail here
        return None
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")  # type: ignore[arg-type]
    except tarfile.HeaderError:
        return None
    return info if info.size >= 0 else None


def _next_header(file: Any, position: int, size: int) -> int:
    """The first header at or after `position`, or `size`."""
    while position < size:
        file.seek(position)
        chunk = file.read(CHUNK)
        for start in range(0, len(chunk), BLOCK):
            if _header(chunk[start : start + BLOCK]):
                return position + start
        position += CHUNK
    return size


def _skip_zeros(file: Any, position: int, size: int) -> int:
    """The first block at or after `position` that is not all zeros, or `size`."""
    while position < size:
        file.seek(position)
        chunk = file.read(CHUNK)
        if left := len(chunk.lstrip(b"\0")):
            return position + (len(chunk) - left) // BLOCK * BLOCK
        position += CHUNK
    return size


def _extension(kind: bytes, raw: bytes) -> dict[str, Any]:
    """What a long-name or pax header says of the next member: path, size, sparse."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return {"path": raw.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    said: dict[str, Any] = {}
    while kind in (tarfile.XHDTYPE, b"X") and (match := re.match(rb"(\d{1,7}) ([^=]+)=", raw)):
        length = int(match[1])
        value = raw[match.end() : length - 1]
        if match[2] == b"path":
            said["path"] = value.decode("utf-8", "surrogateescape")
        elif match[2] == b"size" and value.isdigit() and len(value) < 20:
            said["size"] = int(value)
        elif match[2].startswith(b"GNU.sparse."):
            said["sparse"] = True
        raw = raw[max(length, match.end()) :]
    return said


def _no_header(block: bytes, start: int) -> str:
    packed = next((name for magic, name in _COMPRESSED.items() if start == 0 and block.startswith(magic)), None)
    if packed:
        return f"compressed with {packed}: unpack it, since pictures are read in place"
    return f"no tar header at byte {start}"
