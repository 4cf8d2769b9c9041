"""What identifies the content of a model that a run is given: a digest that changes when the model does.

Local files are read and hashed, so a copy elsewhere is the same model. Of a URI, names, sizes and versions are listed,
and of a Hugging Face id the commit is taken, so nothing is downloaded.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import fsspec

from ram_ray.runtime.storage import PACKAGE, find_files, is_local, local_copy, version_of


def content_digest(source: str, *, revision: str | None = None, files: Sequence[str]) -> str:
    """Digest of the content of a folder.

    Args:
        source: a path, an fsspec URI, `package://NAME/PATH`, or a Hugging Face id.
        revision: of an id; None: the newest.
        files: globs of the names that count; the first is of a file that must be there.

    Returns:
        12 hexadecimal digits.

    Raises:
        ValueError: if there is no such folder, or none of the first files.
    """
    if "://" in source and not source.startswith(PACKAGE):
        fs, root = fsspec.url_to_fs(source)
        if not is_local(fs):
            below = {path.removeprefix(root.rstrip("/")).lstrip("/"): info for path, info in _list(fs, root).items()}
            wanted = [
                [name, info.get("size"), version_of(info)]
                for name, info in sorted(below.items())
                if _matches(name, files)
            ]
            if not any(fnmatch.fnmatchcase(str(name), files[0]) for name, *_ in wanted):
                raise ValueError(f"{source}: there is no {files[0]}")
            return _short(json.dumps(wanted, default=str).encode())
        source = root
    path = Path(source).expanduser()
    if not path.exists() and not source.startswith(PACKAGE):
        commit = local_copy(source, revision=revision, files=files[:1]).name
        return _short(json.dumps([source, commit]).encode())
    path = local_copy(source)
    names = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    names = [name for name in names if _matches(name, files)]
    if not any(fnmatch.fnmatchcase(name, files[0]) for name in names):
        raise ValueError(f"{source}: there is no {files[0]}")
    hashes = [[name, _hash_file(str(path / name), *_state(path / name))] for name in names]
    return _short(json.dumps(hashes).encode())


@functools.lru_cache(maxsize=256)
def _hash_file(path: str, size: int, changed: int) -> str:
    """The hash of a file; it is read again where size or time of change differ."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


def _list(fs: fsspec.AbstractFileSystem, root: str) -> dict:
    fs.invalidate_cache(root)
    return find_files(fs, root)


def _matches(name: str, files: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in files)


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
