"""Shards: what a glob matches, and a checked row for every picture in it.

Pictures stay where they are. This stage walks each shard once and leaves one SAMPLE row a picture: where it
lies, how large it is, its captions, or why it cannot be used. Every defect is one rejected row, and every row
has a key of its own, so that what went in can be counted against what came out.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import fsspec

from ram_ray.data.formats import CAPTIONS_FILE, Read, Sample, read_folder
from ram_ray.data.images import Limits, decode, header
from ram_ray.data.parquet import read_parquet
from ram_ray.data.tar import read_tar
from ram_ray.records import Reject

Format = Literal["tar", "parquet", "folder"]
HEADER_BYTES = 32 << 10  # read first; a header that is longer costs the whole picture
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")
_READERS = {"tar": read_tar, "parquet": read_parquet, "folder": read_folder}


@dataclass(frozen=True)
class Shard:
    """One shard: `name` is unique over the run and made of letters, digits, '-', '_' and '.'."""

    name: str
    uri: str  # an absolute path, or a URI with its protocol
    format: Format


def list_shards(uris: list[str]) -> list[Shard]:
    """The shards that paths, URIs and globs name, sorted by URI; a folder of .tar or .parquet files gives each of them.

    A glob passes over files that are no shards; a file named in full must be one. A .parquet beside a .tar of
    the same name is img2dataset's table of what it fetched, holds no pictures, and is passed over as well.

    Raises:
        ValueError: if a name matches nothing, or is no shard, or its storage cannot be reached.
    """
    found: dict[str, Format] = {}
    for pattern in uris:
        try:
            fs, path = fsspec.url_to_fs(pattern)
            entries, named = _entries(fs, path)
        except Exception as error:  # each storage has errors of its own; all of them are the user's to mend
            raise ValueError(f"{pattern}: cannot be listed: {_advice(pattern, error)}") from error
        if not entries:
            raise ValueError(f"{pattern}: nothing is there; check the path, or quote a glob such as 'data/*.tar'")
        shards = dict(_recognise(fs, entries, named=named, nested=True))
        if not shards:
            raise ValueError(
                f"{pattern}: no shard among {len(entries)} match(es); use .tar, .parquet, "
                f"or a folder that holds {CAPTIONS_FILE}, .tar or .parquet files"
            )
        found |= {_uri(fs, path): format for path, format in shards.items()}
    if not found:
        raise ValueError("no shards are named; give a path, a URI or a glob, such as 'data/*.tar'")
    return _named(found)


def scan_shard(shard: Shard, *, limits: Limits, check: Literal["decode", "header"]) -> Iterator[dict[str, Any]]:
    """A row of `records.SAMPLE` for every picture of the shard and every defect, in bounded memory.

    `check="header"` judges pictures by their first bytes: it sees format and size, not that the end is missing.
    A picture with human labels is good without captions.

    Raises:
        ValueError: if a Parquet file has no image column, or neither captions nor labels.
        OSError: if the storage fails, as opposed to what lies in it.
    """
    if check not in ("decode", "header"):
        raise ValueError(f"check must be 'decode' or 'header', not {check!r}")
    used: Counter[str] = Counter()
    measure = partial(_measure, limits=limits, check=check)
    for sample in _READERS[shard.format](shard.uri, measure=measure):
        yield _row(shard, sample, used)


def _measure(read: Read, nbytes: int, *, limits: Limits, check: str) -> tuple[int, int]:
    if nbytes > limits.max_bytes:
        raise Reject("too_large", f"{nbytes} bytes; data.max_bytes is {limits.max_bytes}")
    if check == "header" and nbytes > HEADER_BYTES:
        try:
            return header(read(HEADER_BYTES), limits=limits)
        except Reject as reject:
            if reject.reason in ("too_small", "too_large"):
                raise
    data = read(nbytes)
    size = header(data, limits=limits)
    if check == "decode":
        decode(data, limits=limits, size=1, exif=False)  # size 1: every byte is read, few pixels are made
    return size


def _row(shard: Shard, sample: Sample, used: Counter[str]) -> dict[str, Any]:
    key, problem = sample.key, sample.problem
    if key in used:
        problem = Reject("duplicate_key", f"{key[:200]!r} was used before in this shard")
        while key in used:
            used[sample.key] += 1
            key = f"{sample.key}#{used[sample.key]}"
    elif problem is None and not sample.captions and sample.labels is None:
        problem = Reject("no_caption", "no text, or only white space")
    used[key] = 1
    width, height = sample.size or (None, None)
    return {
        "key": f"{shard.name}/{key}",
        "shard": shard.name,
        "uri": sample.uri,
        "offset": sample.offset,
        "nbytes": sample.nbytes,
        "width": width,
        "height": height,
        "captions": sample.captions,
        "labels": sample.labels,
        "reason": problem.reason if problem else None,
        "detail": problem.detail if problem else None,
    }


def _entries(fs: Any, path: str) -> tuple[list[tuple[str, bool]], bool]:
    """(path, is a folder) of what a path or glob matches, and whether it was named in full."""
    try:  # not `exists`, which also says no where the storage refuses
        return [(path, fs.info(path)["type"] == "directory")], True
    except FileNotFoundError:
        if not any(sign in path for sign in "*?["):
            return [], True
    infos = fs.glob(path, detail=True)
    return [(name, info["type"] == "directory") for name, info in sorted(infos.items())], False


def _recognise(
    fs: Any, entries: Iterable[tuple[str, bool]], *, named: bool, nested: bool
) -> Iterator[tuple[str, Format]]:
    entries = list(entries)
    archives = {path for path, is_folder in entries if not is_folder and path.endswith(".tar")}
    for path, is_folder in entries:
        if is_folder:
            if fs.exists(f"{path}/{CAPTIONS_FILE}"):
                yield path.rstrip("/"), "folder"
            elif nested:
                inside = [(info["name"], info["type"] == "directory") for info in fs.ls(path, detail=True)]
                files = [one for one in inside if not one[1]]
                yield from _recognise(fs, files, named=False, nested=False)
        elif path.lower().endswith(_COMPRESSED):
            raise ValueError(
                f"{path}: a compressed tar cannot be read in place; unpack it first (gunzip for .tar.gz and .tgz) "
                "and name the .tar"
            )
        elif path.endswith(".tar"):
            yield path, "tar"
        elif path.endswith(".parquet"):
            if named or f"{path.removesuffix('.parquet')}.tar" not in archives:
                yield path, "parquet"
        elif named:
            raise ValueError(f"{path}: unknown kind of shard; use .tar, .parquet or a folder with {CAPTIONS_FILE}")


def _uri(fs: Any, path: str) -> str:
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    return path if "file" in protocols else fs.unstrip_protocol(path)


def _named(found: dict[str, Format]) -> list[Shard]:
    """Shards with names: the stem, and a digest of the URI where two stems are the same."""
    stems = {}
    for uri, format in found.items():
        base = posixpath.basename(uri.rstrip("/"))
        stem = base.removesuffix(f".{format}") if format != "folder" else base
        stems[uri] = re.sub(r"[^A-Za-z0-9._-]", "_", stem) or "shard"
    counts = Counter(stems.values())
    shards = []
    for uri in sorted(found):
        name = stems[uri]
        if counts[name] > 1:
            name = f"{name}-{hashlib.sha256(uri.encode()).hexdigest()[:8]}"
        shards.append(Shard(name, uri, found[uri]))
    return shards


def _advice(pattern: str, error: Exception) -> str:
    protocol = pattern.partition("://")[0]
    if isinstance(error, ImportError):
        package = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}.get(protocol, "its fsspec package")
        return f"{protocol}:// needs {package}; install it ({error})"
    return f"{type(error).__name__}: {error}"
