r"""Locations of files: from a path or URI to a filesystem and a path, for every name that a file can have.

fsspec gives "::" in a name a meaning, and neither Arrow nor JSON can hold a name that is not Unicode, which a path on
Linux may be. So a path without "://" is never a URI here, and a location is text: a byte that is not UTF-8 is written
as `\xe9`, and the backslash of a name that looks like this as `\x5c`. `to_path` turns it into the name again.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ram_ray.runtime.storage import Info, is_local

MAX_BRACED = 1_000_000  # names of one brace pattern
UNREADABLE = "a folder that may not be read"  # `destination` of what stands for it
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")
_LOOKS_ESCAPED = re.compile(r"\\(?=x[0-9a-f]{2})")
_CHAINED = re.compile(r"^\w+::|::\w+://")  # fsspec's URL of one storage inside another
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def to_text(path: str) -> str:
    r"""Write a path as text that is valid Unicode.

    Args:
        path: as Python gives it: bytes that are not UTF-8 are lone surrogates.

    Returns:
        The text; most paths are not changed.
    """
    path = _LOOKS_ESCAPED.sub(r"\\x5c", path)
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def to_path(text: str) -> str:
    r"""The path that `to_text` wrote.

    Args:
        text: with `\xNN` in place of bytes that are not UTF-8.

    Returns:
        The path, as Python gives it.
    """
    if "\\x" not in text:
        return text
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), text.encode("utf-8"))
    return raw.decode("utf-8", "surrogateescape")


def locate(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Find the filesystem of a path or URI, and the path in the form of it.

    Args:
        uri: text as `to_text` writes it.

    Returns:
        (filesystem, path).
    """
    protocol, separator, _ = uri.partition("://")
    if not separator or protocol == "file":
        fs = LocalFileSystem()
        return fs, fs._strip_protocol(to_path(uri))
    if "::" in uri and not _CHAINED.search(uri):
        fs = fsspec.filesystem(protocol)
        return fs, fs._strip_protocol(uri)
    return fsspec.url_to_fs(uri)


def locate_path(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Find the filesystem of a path as Python gives it, or of a URI.

    Args:
        path: not escaped, unless it is a URI.

    Returns:
        (filesystem, path).
    """
    return locate(path if "://" in path else to_text(path))


def uri_of(fs: fsspec.AbstractFileSystem, path: str) -> str:
    """The location of a file as text, for a row.

    Args:
        fs: filesystem of the path.
        path: in the form of `fs`.

    Returns:
        The path of a local file, else the URI with its protocol.
    """
    return to_text(path) if is_local(fs) else fs.unstrip_protocol(path)


def child_uri(root: str, name: str) -> str:
    """The location of a file in a folder.

    Args:
        root: location of the folder.
        name: the file's path below it, as it is: not escaped.

    Returns:
        Its location.
    """
    local = "://" not in root or root.startswith("file://")
    return f"{root.rstrip('/')}/{to_text(name) if local else name}"


def expand_braces(pattern: str) -> list[str]:
    """The names that a pattern with braces stands for, as WebDataset and shells write it.

    Args:
        pattern: such as `train-{0000..0003}.tar` or `{coco,vg}/*.tar`; without braces, or as the name of a file that
            exists, it stands for itself.

    Returns:
        The names, in order.

    Raises:
        ValueError: if there are too many.
    """
    match = next((match for match in _BRACES.finditer(pattern) if _choices(match[1])), None)
    if match is None or ("://" not in pattern and os.path.lexists(to_path(pattern))):
        return [pattern]
    names: list[str] = []
    for choice in _choices(match[1]):
        names += expand_braces(pattern[: match.start()] + choice + pattern[match.end() :])
        if len(names) > MAX_BRACED:
            raise ValueError(f"{pattern}: stands for more than {MAX_BRACED:,} names; write a glob with *")
    return names


def _choices(inside: str) -> list[str]:
    """What the text between two braces stands for; nothing if it is no list and no range."""
    if bounds := _RANGE.fullmatch(inside):
        first, last = int(bounds[1]), int(bounds[2])
        if last - first > MAX_BRACED:
            raise ValueError(f"{{{inside}}}: stands for more than {MAX_BRACED:,} names; write a glob with *")
        return [f"{number:0{len(bounds[1])}d}" for number in range(first, last + 1)]
    return inside.split(",") if "," in inside else []


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of a walk. Without a name that the caller removes from `folders`, the walk does not go there."""

    path: str
    files: list[Info]  # by name; "type" is "file", or "link" of what is not followed, with "destination"
    folders: list[str]  # paths


def walk(fs: fsspec.AbstractFileSystem, root: str) -> Iterator[Folder]:
    """Walk the folders below a path, the root first, in the order of names.

    A linked folder is followed once, after all others; a link to a folder that was walked already, to nothing, or to
    itself is a file of the type "link".

    Args:
        fs: a filesystem of fsspec.
        root: a folder, in the form of `fs`.

    Yields:
        Each folder with its files.
    """
    linked: list[str] = []
    walked: set[object] = set()
    yield from _walk(fs, root.rstrip("/") or "/", linked, walked)
    while linked:
        path = linked.pop(0)
        if _identity(path) in walked:
            yield Folder(path.rpartition("/")[0], [_link_info(path, "a folder that is read already")], [])
        else:
            yield from _walk(fs, path, linked, walked)


def _walk(fs: fsspec.AbstractFileSystem, root: str, linked: list[str], walked: set[object]) -> Iterator[Folder]:
    pending = [root]
    while pending:
        path = pending.pop()
        if is_local(fs):
            walked.add(_identity(path))
        folder, links = Folder(path, [], []), set[str]()
        for info in _list(fs, path):
            if info["type"] != "directory":
                folder.files.append(info)
                continue
            folder.folders.append(info["name"].rstrip("/"))
            if info.get("islink"):
                links.add(folder.folders[-1])
        yield folder
        linked += [path for path in folder.folders if path in links]
        pending += [path for path in folder.folders[::-1] if path not in links]


def _list(fs: fsspec.AbstractFileSystem, path: str) -> list[Info]:
    """The entries of a folder by name, without the empty object that stands for a folder in an object store."""
    try:
        entries = list(_scan(path)) if is_local(fs) else fs.ls(path, detail=True)
    except PermissionError:
        return [_link_info(path, UNREADABLE)]
    marker = path.rstrip("/")
    return sorted(
        (info for info in entries if info["name"].rstrip("/") != marker or info["type"] == "directory"),
        key=lambda info: info["name"],
    )


def _scan(path: str) -> Iterator[Info]:
    """The entries of a local folder, with no more details than a walk needs: a folder may hold millions."""
    with os.scandir(path) as entries:
        for entry in entries:
            try:
                status = entry.stat()
            except OSError:  # also a loop of links
                yield _link_info(entry.path, "nothing" if entry.is_symlink() else "a file that is gone")
                continue
            kind = "directory" if stat.S_ISDIR(status.st_mode) else "file" if stat.S_ISREG(status.st_mode) else "other"
            info = {"name": entry.path, "type": kind, "size": status.st_size, "mtime": status.st_mtime}
            yield info | {"islink": True} if entry.is_symlink() else info


def _link_info(path: str, destination: str) -> Info:
    return {"name": path, "type": "link", "size": 0, "destination": destination}


def _identity(path: str) -> object:
    """What two paths to one folder share."""
    try:
        status = os.stat(path)
    except OSError:
        return path
    return status.st_dev, status.st_ino
