"""Samples of a WebDataset tar, read forward once, in bounded memory, past what is broken.

Python's `tarfile.TarFile` stops at the first bad header, keeps every member in memory and reads extension
headers of any size. So the walk from header to header is written here, on `tarfile.TarInfo`'s header parser:
where no header can be read it searches for the next header, block by block, and yields one `CorruptSpan` for the
bytes between. `tar_groups.py` makes samples of the members. A hard or symbolic link to a member is read as that
member: an archive with links is walked a second time to find what they lead to.
"""

from __future__ import annotations

import posixpath
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, TypedDict

from ram_ray.data.samples import ImageCheck, Sample
from ram_ray.data.tar_groups import Groups, Member
from ram_ray.data.unread import LINK, LOST
from ram_ray.records import Reject
from ram_ray.runtime.location import locate, to_text
from ram_ray.runtime.metrics import count_request
from ram_ray.settings.data import LayoutConfig

BLOCK = tarfile.BLOCKSIZE
CHUNK = 2048 * BLOCK  # bytes searched at a time for the next header
READ_BYTES = 4 << 20  # of one request
MAX_HEADER = 1 << 20  # bytes of a pax or long-name header
MAX_LINKS = 100_000  # that are followed in one archive
_EXTENSION_TYPES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, b"X")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstandard"}


@dataclass(frozen=True, slots=True)
class Link:
    """A hard or symbolic link, or a device, which has no target."""

    name: str
    target: str


@dataclass(frozen=True, slots=True)
class CorruptSpan:
    """Bytes `offset` to `end` of the archive, which could not be read."""

    offset: int
    end: int
    detail: str


class Extension(TypedDict, total=False):
    """Fields of the next member, from extension headers."""

    path: str
    linkpath: str
    size: int
    sparse: bool


def walk(file: IO[bytes], size: int) -> Iterator[Member | Link | CorruptSpan]:
    """Walk a tar from header to header.

    Args:
        file: file open for reading bytes, seekable.
        size: size of the file in bytes.

    Yields:
        The members, links, and the corrupt spans between them, in order.
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
            elif not info.isdir():
                yield Link(name, _target(info, name, extended.get("linkpath", info.linkname)))
            extended = {}
        position = end
    if not ended:
        yield CorruptSpan(size, size, "cut: the archive has no end marker" if size else "an empty file")


def read_tar(uri: str, *, check_image: ImageCheck, layout: LayoutConfig) -> Iterator[Sample]:
    """Read the samples of a tar: complete ones as soon as the next sample begins, incomplete ones at the end.

    A sample that lacks its image or its text and lies beside a corrupt span was lost with it: the span's row counts it.

    Args:
        uri: URI of the tar.
        check_image: function that checks an image.
        layout: says which members are images and texts, and where a key ends.

    Yields:
        Samples; what cannot be used has a `problem`.
    """
    fs, path = locate(uri)
    size = fs.size(path)
    count_request("read", num_bytes=size, requests=-(-size // READ_BYTES))
    with fs.open(path, "rb", block_size=READ_BYTES, cache_type="readahead") as file:
        groups, links, num_links, is_empty = Groups(uri, layout), dict[str, list[str]](), 0, True
        try:
            for part in walk(file, size):
                is_empty = False
                if isinstance(part, Member):
                    yield from groups.add(part, file=file, check_image=check_image)
                elif isinstance(part, Link):
                    num_links += 1
                    if num_links <= MAX_LINKS and part.target:
                        links.setdefault(part.target, []).append(part.name)
                    else:
                        groups.unread.add(to_text(part.name), 0, kind=LOST, ending=LINK)
                else:
                    groups.mark_corrupt()
                    problem = Reject("broken_archive", part.detail)
                    yield Sample(f"#broken-{part.offset}", uri, part.offset, part.end - part.offset, problem=problem)
            for member in _follow(links, walk(file, size) if links else iter(())):
                yield from groups.add(member, file=file, check_image=check_image)
            for target, names in links.items():
                for name in names:
                    groups.unread.add(to_text(f"{name} -> {target}"), 0, kind=LOST, ending=LINK)
            yield from groups.finish()
        finally:
            groups.close()
    if is_empty:
        yield Sample("#empty", uri, problem=Reject("broken_archive", "an archive without a file"))


def _follow(links: dict[str, list[str]], parts: Iterator[Member | Link | CorruptSpan]) -> Iterator[Member]:
    """What links lead to, under the names of the links, which are removed from `links`."""
    for part in parts:
        if isinstance(part, Member):
            for name in links.pop(posixpath.normpath(part.name), ()):
                yield Member(name, part.offset, part.nbytes)


def _target(info: tarfile.TarInfo, name: str, target: str) -> str:
    """The name of the member that a link leads to; "" of a device."""
    if info.islnk():
        return posixpath.normpath(target)
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), target)) if info.issym() else ""


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
    if kind in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
        name = raw.rstrip(b"\0").decode("utf-8", "surrogateescape")
        return {"path": name} if kind == tarfile.GNUTYPE_LONGNAME else {"linkpath": name}
    fields: Extension = {}
    while kind in (tarfile.XHDTYPE, b"X") and (match := re.match(rb"(\d{1,7}) ([^=]+)=", raw)):
        length = int(match[1])
        value = raw[match.end() : length - 1]
        if match[2] == b"path":
            fields["path"] = value.decode("utf-8", "surrogateescape")
        elif match[2] == b"linkpath":
            fields["linkpath"] = value.decode("utf-8", "surrogateescape")
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
