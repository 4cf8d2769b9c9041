"""Local copies of models, tokenizers and detectors, wherever they are; and what all code that uses storage shares.

`local_copy` returns a path as it is, and `package://NAME/PATH` as the path inside an installed Python package. A
Hugging Face id is downloaded to the hub's own cache, at its revision. A URI (s3, gs, any fsspec protocol) is copied to
this machine, once for all its processes (`shared_copy`). The copy is named by the URI and by the names, sizes and
versions of its files, so a source that changed gets a new copy.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import importlib.util
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec

from ram_ray.runtime.shared_copy import acquire_copy

# Of a hub's repository: the same weights in other frameworks' files.
OTHER_FRAMEWORKS = ("*.msgpack", "*.h5", "*.ot", "*.onnx", "*.tflite", "*.mlmodel", "onnx/*", "openvino/*", "coreml/*")
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl"})
STORE_CLIENTS = frozenset({"botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "azure", "adlfs"})
PACKAGE = "package://"  # of a source inside an installed Python package
FULL_DISK_BYTES = 16 << 20  # a disk with fewer free bytes counts as full
Info = dict[str, Any]  # what fsspec tells of a file
# What Ray Data's tasks try again, as patterns of "CLASS: message"; ours have `tasks.RETRIES`. A full disk and a missing
# file are not tried again.
TRANSIENT = (
    r"(^|\s)OSError: (?!.*\[[Ee]rrno 28\])",
    r"Timeout(Error)?\b",
    r"Connection\w*Error",
    r"(ClientPayload|ResponseParser|HTTPClient|IncompleteRead|ServerDisconnected)\w*",
    "AWS Error (NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT|UNKNOWN)",
)
_NO_SPACE = re.compile(r"\[[Ee]rrno 28\]|No space left on device|OutOfDiskError")
_NAMED_PATH = re.compile(r"\[Errno 28\].*: '([^']+)'")
HUB_SECONDS = 5.0  # to wait for the hub's answer about an id
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def local_copy(source: str, *, revision: str | None = None, files: Sequence[str] | None = None) -> Path:
    """Make the files of `source` available as local files, for as long as this process lives.

    Args:
        source: a path, an fsspec URI of a folder or a file, `package://NAME/PATH`, or a Hugging Face id.
        revision: of an id; None: the newest.
        files: globs of the names that are needed; None: all.

    Returns:
        The path itself; the copy of a URI, which all processes of this machine share; or the hub's cached snapshot.

    Raises:
        ValueError: if the source does not exist, or may not be read.
        OSError: if the storage or the local disk fails.
    """
    if source.startswith(PACKAGE):
        return package_path(source)
    if "://" in source:
        fs, path = fsspec.url_to_fs(source)
        return Path(path) if is_local(fs) else _copy(source, fs, path, files)
    path = Path(source).expanduser()
    if path.exists():
        return path
    if _HUB_ID.fullmatch(source):
        owner, slash, _ = source.partition("/")
        if slash and Path(owner).is_dir():  # a mistyped path: the hub need not be asked
            raise ValueError(f"{source}: no such file or folder in {owner}/")
        return _from_hub(source, revision, files)
    raise ValueError(f"{source}: no such file or folder; give a path, a URI or a Hugging Face id")


def package_path(source: str) -> Path:
    """Find a file or folder of an installed package. Every node that uses it needs the package.

    Args:
        source: `package://NAME/PATH`, the package as it is imported.

    Returns:
        The local path.

    Raises:
        ValueError: if the package is not installed, or has no such file.
    """
    name, _, inside = source.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"{source}: no package {name!r} is installed; pip install 'ram_ray[pretrained]' brings those of the presets"
        )
    root = Path(spec.submodule_search_locations[0])
    path = (root / inside).resolve()
    if not path.is_relative_to(root.resolve()) or not path.exists():
        raise ValueError(f"{source}: the package {name} has no such file")
    return path


def is_local(fs: fsspec.AbstractFileSystem) -> bool:
    """Whether a filesystem is a local one.

    Args:
        fs: a filesystem of fsspec.

    Returns:
        True for this machine's files, false for an object store and other storage.
    """
    return "file" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,))


def has_folders(fs: fsspec.AbstractFileSystem) -> bool:
    """Whether a filesystem has folders.

    Args:
        fs: a filesystem of fsspec.

    Returns:
        False for an object store: there a folder would be an object of its own, and must not be made.
    """
    return OBJECT_STORES.isdisjoint(fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,))


def make_folder(fs: fsspec.AbstractFileSystem, path: str) -> None:
    """Make a folder with its parents, if the filesystem has folders.

    Args:
        fs: a filesystem of fsspec.
        path: of the folder, in the form of `fs`; it may exist.
    """
    if has_folders(fs):
        fs.makedirs(path, exist_ok=True)


def remove_folder(fs: fsspec.AbstractFileSystem, path: str) -> None:
    """Remove a folder with all its files.

    Args:
        fs: a filesystem of fsspec.
        path: of the folder, in the form of `fs`; it may be missing.
    """
    with contextlib.suppress(FileNotFoundError):
        fs.rm(path, recursive=True)


def check_writable(uri: str) -> None:
    """Check that files can be written to a folder; a folder that is made for it is removed again.

    Args:
        uri: path or URI of the folder.

    Raises:
        ValueError: if not, with the reason.
    """
    try:
        fs, root = fsspec.url_to_fs(uri)
        existing = root
        while not fs.exists(existing) and fs._parent(existing) != existing:
            existing, created = fs._parent(existing), existing
        fs.makedirs(root, exist_ok=True)
        name = f"{root.rstrip('/')}/.check-{uuid.uuid4().hex}"
        fs.pipe_file(name, b"")
        fs.rm_file(name)
        if existing != root and is_local(fs):
            fs.rm(created, recursive=True)
    except Exception as error:  # each storage has its own errors; the user has to fix all of them
        raise ValueError(f"{uri}: cannot be written: {type(error).__name__}: {' '.join(str(error).split())}") from None


def is_storage_error(error: BaseException) -> bool:
    """Whether an error is that of a file, a disk or a store that could not be reached or did not answer.

    Args:
        error: any.

    Returns:
        True for an `OSError`, and for the errors of the clients of object stores, which have classes of their own.
    """
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in STORE_CLIENTS


def explain_full(error: BaseException, *, folder: str | None) -> str | None:
    """Explain an error that a full disk or a full object store caused.

    Args:
        error: error of this process or of a worker; of the latter often only the text is known.
        folder: folder of the run, where the stage writes.

    Returns:
        What is full and what to do, in one line; None for any other error.
    """
    text, kind = str(error), type(error).__name__
    if kind == "ObjectStoreFullError" or "ObjectStoreFullError" in text:
        return "Ray's object store is full; set resources.buffer_mb lower, or resources.object_store_gb higher"
    spilling = kind == "OutOfDiskError" or "OutOfDiskError" in text
    crashed = kind in ("WorkerCrashedError", "ActorDiedError", "NodeDiedError", "RaySystemError")  # may follow from it
    if not crashed and not spilling and getattr(error, "errno", None) != errno.ENOSPC and not _NO_SPACE.search(text):
        return None
    advice = "free some space; the same command goes on from here"
    if named := _NAMED_PATH.search(text):
        return f"no space left at {named[1]}; {advice}"
    if spilling:
        return f"no space left in Ray's temporary folder, where its object store puts what it cannot hold; {advice}"
    folders = [tempfile.gettempdir(), *([folder] if folder and "://" not in folder else [])]
    full = [path for path in folders if os.path.isdir(path) and shutil.disk_usage(path).free < FULL_DISK_BYTES]
    if crashed and not full:
        return None
    return f"no space left at {' or '.join(full or [*folders[::-1], 'the same folders of another node'])}; {advice}"


def version_of(info: Info) -> str:
    """A value that changes when the content of a file does.

    Args:
        info: fsspec's details of the file.

    Returns:
        The object's tag or the time of its last change; "" if the storage has neither.
    """
    names = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified", "last_modified", "updated", "created")
    return str(next((info[name] for name in names if info.get(name)), ""))


def copies_folder() -> Path:
    """The folder of this user's copies, under TMPDIR."""
    return Path(tempfile.gettempdir()) / f"ram_ray-{os.getuid()}" / "copies"


def _from_hub(name: str, revision: str | None, files: Sequence[str] | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    ignored, unanswered = list(OTHER_FRAMEWORKS), None
    try:
        try:  # one request, where a listing of the files would be tried again for 25 seconds
            info = HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS)
            if not files and any(file.rfilename.endswith(".safetensors") for file in info.siblings or ()):
                ignored += ["*.bin", "*.pt", "*.pth"]
        except (RepositoryNotFoundError, RevisionNotFoundError):
            raise
        except Exception as error:  # no network: only cached files can be used
            unanswered = error
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(files) if files else None,
                ignore_patterns=ignored,
                local_files_only=unanswered is not None,
            )
        )
    except Exception as error:  # the hub's client raises its own, httpx's and OSErrors
        at = f" at {revision}" if revision else ""
        reason = " ".join(str(unanswered or error).split())[:300]
        raise ValueError(f"{name}{at}: no such file or folder, and not to be had from the hub: {reason}") from None


def _copy(uri: str, fs: fsspec.AbstractFileSystem, path: str, files: Sequence[str] | None) -> Path:
    listing = _listing(uri, fs, path, files)
    single = list(listing) == [""]
    identity = [
        fs.unstrip_protocol(path).rstrip("/"),
        *([name, info["size"], version_of(info)] for name, info in sorted(listing.items())),
    ]
    digest = hashlib.sha256(json.dumps(identity, default=str).encode()).hexdigest()[:24]
    target = copies_folder() / digest
    acquire_copy(target, lambda part: _fetch(fs, path, listing, part))
    return target / path.rstrip("/").rpartition("/")[2] if single else target


def find_files(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, Info]:
    """List the files below a path.

    Args:
        fs: filesystem of the path.
        path: a folder or a file; on a web server, which lists no folders, a file.

    Returns:
        fsspec's details by path; empty if nothing is there.

    Raises:
        OSError: if a web server does not answer.
    """
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    if not protocols & {"http", "https"}:
        return fs.find(path, detail=True)
    try:
        return {path: fs.info(path)}
    except FileNotFoundError as error:  # fsspec's answer to every failure
        if error.__cause__ is None or getattr(error.__cause__, "status", None) == 404:
            return {}
        raise OSError(f"{path}: {error.__cause__}") from None


def _listing(uri: str, fs: fsspec.AbstractFileSystem, path: str, files: Sequence[str] | None) -> dict[str, Info]:
    """Names below `path` with their details; a single empty name if `path` is a file."""
    fs.invalidate_cache(path)  # a cached listing would not show a change
    try:
        files_below = find_files(fs, path)
    except (FileNotFoundError, PermissionError) as error:
        raise ValueError(f"{uri}: cannot be read: {' '.join(str(error).split())}") from None
    root = path.rstrip("/")
    listing = {}
    for name, info in files_below.items():
        relative = name.removeprefix(root).lstrip("/")
        if ".." in relative.split("/"):
            raise ValueError(f"{uri}: holds {relative!r}, a name that would leave its folder")
        wanted = not files or not relative or any(fnmatch.fnmatchcase(relative, pattern) for pattern in files)
        if wanted and info.get("type") == "file":
            listing[relative] = info
    if not listing:
        raise ValueError(f"{uri}: nothing is there" + (f" of {', '.join(files)}" if files else ""))
    return listing


def _fetch(fs: fsspec.AbstractFileSystem, path: str, listing: dict[str, Info], part: Path) -> None:
    """Copy the listed files into `part`."""
    root = path.rstrip("/")
    remote = [f"{root}/{name}" if name else root for name in listing]
    local = [part / (name or root.rpartition("/")[2]) for name in listing]
    try:
        for file in local:
            file.parent.mkdir(parents=True, exist_ok=True)
        fs.get(remote, [str(file) for file in local])
        for file, info in zip(local, listing.values(), strict=True):
            if info["size"] not in (None, file.stat().st_size):
                raise OSError(f"{file.name}: {file.stat().st_size} bytes of {info['size']}; was it changed meanwhile?")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        size = sum(info["size"] or 0 for info in listing.values())
        text = f"no space for a copy of {fs.unstrip_protocol(path)}, {size / 1e6:,.0f} MB; free some, or set TMPDIR"
        raise OSError(errno.ENOSPC, text, str(part.parent)) from None
