"""Shards: what a glob matches, and a checked row for every picture in it.

Pictures stay where they are. This stage walks each shard once and leaves one SAMPLE row a picture: where it
lies, how large it is, its captions, or why it cannot be used. Every defect is one rejected row, and every row
has a key of its own, so that what went in can be counted against what came out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Literal

import fsspec

from ram_ray.data.formats import CAPTIONS_FILE, Read, Sample, read_folder
from ram_ray.data.images import Limits, decode, header
from ram_ray.data.parquet import read_parquet
from ram_ray.data.tar import read_tar
from ram_ray.records import Reject
from ram_ray.runtime.storage import version_of

Format = Literal["tar", "parquet", "folder"]
Info = dict[str, Any]  # what fsspec tells of a file
HEADER_BYTES = 32 << 10  # read first; a header that is longer costs the whole picture
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")
_READERS = {"tar": read_tar, "parquet": read_parquet, "folder": read_folder}


@dataclass(frozen=True)
class Shard:
    """One shard. Its name is a part of its own URI, so it stays the same whatever data is added."""

    name: str  # "FOLDER/STEM", unique over the run; letters, digits, '-', '_', '.', and '/' between the parts
    uri: str  # an absolute path, or a URI with its protocol
    format: Format
    size: int | None = None  # bytes, of a folder those of its captions.jsonl
    version: str = ""  # changes when the content does


def list_shards(uris: list[str], *, folders: int = 1) -> list[Shard]:
    """The shards that paths, URIs and globs name, sorted by URI; a folder of .tar or .parquet files gives each of them.

    A glob passes over files that are no shards; a file named in full must be one. A .parquet beside a .tar of
    the same name is img2dataset's table of what it fetched, holds no pictures, and is passed over as well.

    Args:
        uris: paths, URIs or globs, of any fsspec storage.
        folders: how many of the folders above a shard are a part of its name.

    Raises:
        ValueError: if a name matches nothing, or is no shard, or its storage cannot be reached, or two shards have one
            name.
    """
    found: dict[str, tuple[Format, Info]] = {}
    for pattern in uris:
        try:
            fs, path = fsspec.url_to_fs(pattern)
            fs.invalidate_cache()  # data may have come since
            entries, named = _entries(fs, path)
        except Exception as error:  # each storage has errors of its own; all of them are the user's to mend
            raise ValueError(f"{pattern}: cannot be listed: {_advice(pattern, error)}") from error
        if not entries:
            raise ValueError(f"{pattern}: nothing is there; check the path, or quote a glob such as 'data/*.tar'")
        shards = list(recognise(fs, entries, named=named, nested=True))
        if not shards:
            raise ValueError(
                f"{pattern}: no shard among {len(entries)} match(es); use .tar, .parquet, "
                f"or a folder that holds {CAPTIONS_FILE}, .tar or .parquet files"
            )
        found |= {_uri(fs, path): (format, info) for path, format, info in shards}
    if not found:
        raise ValueError("no shards are named; give a path, a URI or a glob, such as 'data/*.tar'")
    return make_shards(found, folders=folders)


def make_shards(found: dict[str, tuple[Format, Info]], *, folders: int) -> list[Shard]:
    """Shards of what lies at URIs, sorted by URI.

    Args:
        found: URI -> format and fsspec info.
        folders: how many of the folders above a shard are a part of its name.

    Raises:
        ValueError: if two have one name; it says what tells them apart.
    """
    names: dict[str, str] = {}
    for uri in sorted(found):
        other = names.setdefault(shard_name(uri, folders=folders), uri)
        if other == uri:
            continue
        deepest = max(one.count("/") for one in (uri, other))
        more = next(
            (n for n in range(folders + 1, deepest) if shard_name(uri, folders=n) != shard_name(other, folders=n)), 0
        )
        advice = f"set data.shard_folders to {more}, so that folders above count too" if more else "rename one of them"
        raise ValueError(f"two shards are called {shard_name(uri, folders=folders)!r}: {other} and {uri}; {advice}")
    return [
        Shard(name, uri, found[uri][0], found[uri][1].get("size"), version_of(found[uri][1]))
        for name, uri in names.items()
    ]


def shard_name(uri: str, *, folders: int = 1) -> str:
    """The name of the shard at a URI: the last `folders` folders above it, and its stem ("coco/00000").

    Args:
        uri: of the shard.
        folders: how many of the folders above it are a part of the name.
    """
    parts = [one for one in uri.partition("://")[2 if "://" in uri else 0].split("/") if one]
    stem = parts[-1].removesuffix(".tar").removesuffix(".parquet") if parts else ""
    chosen = [*parts[:-1][-folders:], stem or "shard"] if folders else [stem or "shard"]
    return "/".join(re.sub(r"[^A-Za-z0-9._-]", "_", one) for one in chosen)


def shard_matches(name: str, pattern: str) -> bool:
    """Whether a glob means a shard: one with a "/" the whole name or its end, one without the stem or a folder.

    Args:
        name: of the shard, with its folders.
        pattern: a glob.
    """
    parts = name.split("/")
    depth = pattern.count("/") + 1
    if depth > 1:
        return any(fnmatchcase(one, pattern) for one in (name, "/".join(parts[-depth:])))
    return any(fnmatchcase(one, pattern) for one in parts)


def scan_shard(shard: Shard, *, limits: Limits, check: Literal["decode", "header"]) -> Iterator[dict[str, Any]]:
    """A row of `records.SAMPLE` for every picture of the shard and every defect, in bounded memory.

    A picture with human labels is good without captions.

    Args:
        shard: to be read.
        limits: of sides, pixels and bytes.
        check: "decode" reads pictures whole; "header" judges them by their first bytes: it sees format and size, not
            that the end is missing.

    Yields:
        Columns by name; a row that cannot be used has a reason.

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


def _entries(fs: Any, path: str) -> tuple[list[Info], bool]:
    """What a path or glob matches, and whether it was named in full."""
    try:  # not `exists`, which also says no where the storage refuses
        return [{**fs.info(path), "name": path}], True
    except FileNotFoundError:
        if not any(sign in path for sign in "*?["):
            return [], True
    return [{**info, "name": name} for name, info in sorted(fs.glob(path, detail=True).items())], False


def recognise(fs: Any, entries: list[Info], *, named: bool, nested: bool) -> Iterator[tuple[str, Format, Info]]:
    """(path, format, info) of the shards among files and folders, which a listing has told of.

    Args:
        fs: the fsspec file system of the entries.
        entries: fsspec's infos, with the whole path as `name`.
        named: in full by the user: what is no shard is an error.
        nested: whether the files in a folder are taken.

    Raises:
        ValueError: if an entry is a compressed tar, or `named` and no shard.
    """
    archives = {info["name"] for info in entries if info["type"] != "directory" and info["name"].endswith(".tar")}
    for info in entries:
        path = info["name"]
        if info["type"] == "directory":
            captions = _captions(fs, path)
            if captions:
                yield path.rstrip("/"), "folder", captions
            elif nested:
                inside = [one for one in fs.ls(path, detail=True) if one["type"] != "directory"]
                yield from recognise(fs, inside, named=False, nested=False)
        elif path.lower().endswith(_COMPRESSED):
            raise ValueError(
                f"{path}: a compressed tar cannot be read in place; unpack it first (gunzip for .tar.gz and .tgz) "
                "and name the .tar"
            )
        elif path.endswith(".tar"):
            yield path, "tar", info
        elif path.endswith(".parquet"):
            if named or f"{path.removesuffix('.parquet')}.tar" not in archives:
                yield path, "parquet", info
        elif named:
            raise ValueError(f"{path}: unknown kind of shard; use .tar, .parquet or a folder with {CAPTIONS_FILE}")


def _captions(fs: Any, folder: str) -> Info | None:
    try:
        return fs.info(f"{folder}/{CAPTIONS_FILE}")
    except FileNotFoundError:
        return None


def _uri(fs: Any, path: str) -> str:
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    return path if "file" in protocols else fs.unstrip_protocol(path)


def _advice(pattern: str, error: Exception) -> str:
    protocol = pattern.partition("://")[0]
    if isinstance(error, ImportError):
        package = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}.get(protocol, "its fsspec package")
        return f"{protocol}:// needs {package}; install it ({error})"
    return f"{type(error).__name__}: {error}"
