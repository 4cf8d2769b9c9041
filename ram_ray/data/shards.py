"""Shards: what a glob matches, and a checked row for every image in them.

Images stay in their files. Each shard is read once, and every image becomes a SAMPLE row: its location, its size, its
captions, or why it cannot be used. Every defect is one rejected row, and every row has a unique key, so that rows in
and rows out can be compared.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Literal

import fsspec

from ram_ray.data.annotation_list import read_annotation_list
from ram_ray.data.images import Limits, check_bytes, decode, header
from ram_ray.data.parquet import read_parquet
from ram_ray.data.samples import CAPTIONS_FILE, ImageCheck, Read, Sample, read_folder
from ram_ray.data.tar import read_tar
from ram_ray.records import Reject, Row
from ram_ray.runtime.storage import Info, version_of

Format = Literal["tar", "parquet", "folder", "json"]
HEADER_BYTES = 32 << 10  # read first; for a longer header the whole image is read
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")
_READERS = {"tar": read_tar, "parquet": read_parquet, "folder": read_folder}


@dataclass(frozen=True)
class Shard:
    """One shard. Its name is a part of its own URI, so it does not change when other data is added."""

    name: str  # "FOLDER/STEM", unique over the run; letters, digits, '-', '_', '.', and '/' between the parts
    uri: str  # an absolute path, or a URI with its protocol
    format: Format
    size: int | None = None  # bytes, of a folder those of its captions.jsonl
    version: str = ""  # changes when the content does
    images: str | None = None  # of a JSON list: folder that image paths start from; None: the folder of the list


def list_shards(uris: list[str], *, folders: int = 1, images: str | None = None) -> list[Shard]:
    """List the shards that paths, URIs and globs name; for a folder of .tar or .parquet files, each of these files.

    A glob skips files that are no shards; a file named in full must be a shard. A .parquet beside a .tar of the same
    name is img2dataset's table of URLs, holds no images, and is skipped too. A JSON list is a shard only where it, or a
    glob that ends with .json, is named: other .json files lie beside shards.

    Args:
        uris: paths, URIs or globs, of any fsspec storage.
        folders: how many of the folders above a shard are a part of its name.
        images: folder that the image paths of JSON lists start from; None: the folder of each list.

    Returns:
        The shards, sorted by URI.

    Raises:
        ValueError: if a name matches nothing, or is no shard, or its storage cannot be reached, or two shards have one
            name.
    """
    shard_files: dict[str, tuple[Format, Info]] = {}
    for pattern in uris:
        try:
            fs, path = fsspec.url_to_fs(pattern)
            fs.invalidate_cache()  # files may have been added since the last listing
            entries, named = _entries(fs, path)
        except Exception as error:  # each storage has its own errors; the user has to fix all of them
            raise ValueError(f"{pattern}: cannot be listed: {_advice(pattern, error)}") from error
        if not entries:
            raise ValueError(f"{pattern}: nothing is there; check the path, or quote a glob such as 'data/*.tar'")
        shards = list(find_shards(fs, entries, named=named or pattern.endswith(".json"), nested=True))
        if not shards:
            raise ValueError(
                f"{pattern}: no shard among {len(entries)} match(es); use .tar, .parquet, "
                f"a folder that holds {CAPTIONS_FILE}, .tar or .parquet files, or a JSON list, whose name must be given"
            )
        shard_files |= {_uri(fs, path): (format, info) for path, format, info in shards}
    if not shard_files:
        raise ValueError("no shards are named; write a path, a URI or a glob, such as 'data/*.tar'")
    if images is not None:
        images = _uri(*fsspec.url_to_fs(images))  # absolute, for tasks that run in other folders
    return [replace(shard, images=images) for shard in make_shards(shard_files, folders=folders)]


def make_shards(shard_files: dict[str, tuple[Format, Info]], *, folders: int) -> list[Shard]:
    """Name the shards at URIs.

    Args:
        shard_files: URI -> format and fsspec info.
        folders: how many of the folders above a shard are a part of its name.

    Returns:
        The shards, sorted by URI.

    Raises:
        ValueError: if two shards have the same name; the message says how to tell them apart.
    """
    names: dict[str, str] = {}
    for uri in sorted(shard_files):
        other = names.setdefault(shard_name(uri, folders=folders), uri)
        if other == uri:
            continue
        deepest = max(path.count("/") for path in (uri, other))
        more = next(
            (
                depth
                for depth in range(folders + 1, deepest)
                if shard_name(uri, folders=depth) != shard_name(other, folders=depth)
            ),
            0,
        )
        advice = f"set data.shard_folders to {more}, so that folders above count too" if more else "rename one of them"
        raise ValueError(f"two shards are called {shard_name(uri, folders=folders)!r}: {other} and {uri}; {advice}")
    return [
        Shard(name, uri, shard_files[uri][0], shard_files[uri][1].get("size"), version_of(shard_files[uri][1]))
        for name, uri in names.items()
    ]


def shard_name(uri: str, *, folders: int = 1) -> str:
    """The name of the shard at a URI: the last `folders` folders above it, and its stem ("coco/00000").

    Args:
        uri: URI of the shard.
        folders: how many of the folders above it are a part of the name.

    Returns:
        The name; it has letters, digits, "-", "_", ".", and "/" between the parts.
    """
    parts = [part for part in uri.partition("://")[2 if "://" in uri else 0].split("/") if part]
    stem = re.sub(r"\.(tar|parquet|json)$", "", parts[-1]) if parts else ""
    name_parts = [*parts[:-1][-folders:], stem or "shard"] if folders else [stem or "shard"]
    return "/".join(re.sub(r"[^A-Za-z0-9._-]", "_", part) for part in name_parts)


def shard_matches(name: str, pattern: str) -> bool:
    """Whether a glob matches a shard: with a "/" its whole name or the end of it, without "/" its stem or a folder.

    Args:
        name: name of the shard, with its folders.
        pattern: a glob.

    Returns:
        Whether it matches.
    """
    parts = name.split("/")
    depth = pattern.count("/") + 1
    if depth > 1:
        return any(fnmatchcase(candidate, pattern) for candidate in (name, "/".join(parts[-depth:])))
    return any(fnmatchcase(part, pattern) for part in parts)


def read_samples(shard: Shard, *, check_image: ImageCheck) -> Iterator[Sample]:
    """Read the samples of a shard of any format.

    Args:
        shard: the shard to read.
        check_image: function that checks an image.

    Returns:
        An iterator of samples.
    """
    if shard.format == "json":
        return read_annotation_list(shard.uri, images=shard.images, check_image=check_image)
    return _READERS[shard.format](shard.uri, check_image=check_image)


def scan_shard(shard: Shard, *, limits: Limits, check: Literal["decode", "header"]) -> Iterator[Row]:
    """Read a shard, in bounded memory: a row for every image and every defect.

    An image with human labels, or with tags that came with it, needs no captions.

    Args:
        shard: the shard to read.
        limits: limits of sides, pixels and bytes.
        check: "decode" decodes whole images; "header" checks the first bytes: format and size, but not whether the end
            is missing.

    Yields:
        Columns of `records.SAMPLE` by name; a row that cannot be used has a reason.

    Raises:
        ValueError: if a Parquet file has no image column, or neither captions nor labels.
        OSError: if the storage fails; a defect of the content is a rejected row.
    """
    if check not in ("decode", "header"):
        raise ValueError(f"check must be 'decode' or 'header', not {check!r}")
    used: Counter[str] = Counter()
    check_image = partial(_check_image, limits=limits, check=check)
    for sample in read_samples(shard, check_image=check_image):
        yield _row(shard, sample, used)


def _check_image(read: Read, nbytes: int, *, limits: Limits, check: str) -> tuple[int, int]:
    check_bytes(nbytes, limits=limits)
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


def _row(shard: Shard, sample: Sample, used: Counter[str]) -> Row:
    key, problem = sample.key, sample.problem
    if key in used:
        problem = Reject("duplicate_key", f"{key[:200]!r} was used before in this shard")
        while key in used:
            used[sample.key] += 1
            key = f"{sample.key}#{used[sample.key]}"
    elif problem is None and not sample.captions and not sample.has_labels:
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
        "url": sample.url,
        "sha256": sample.sha256,
        "captions": sample.captions,
        "labels": sample.labels,
        "negative_labels": sample.negative_labels,
        "given_tags": sample.given_tags,
        "reason": problem.reason if problem else None,
        "detail": problem.detail if problem else None,
    }


def _entries(fs: fsspec.AbstractFileSystem, path: str) -> tuple[list[Info], bool]:
    """What a path or glob matches, and whether it was named in full."""
    try:  # not `exists`, which is also false if the storage refuses access
        return [{**fs.info(path), "name": path}], True
    except FileNotFoundError:
        if not any(sign in path for sign in "*?["):
            return [], True
    return [{**info, "name": name} for name, info in sorted(fs.glob(path, detail=True).items())], False


def find_shards(
    fs: fsspec.AbstractFileSystem, entries: list[Info], *, named: bool, nested: bool
) -> Iterator[tuple[str, Format, Info]]:
    """Find the shards among the files and folders of a listing.

    Args:
        fs: the fsspec file system of the entries.
        entries: fsspec's infos, with the whole path as `name`.
        named: whether the user named the entries in full: then an entry that is no shard is an error.
        nested: whether the files in a folder are searched.

    Yields:
        (path, format, info) of each shard.

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
                inside = [entry for entry in fs.ls(path, detail=True) if entry["type"] != "directory"]
                yield from find_shards(fs, inside, named=False, nested=False)
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
        elif named and path.endswith(".json"):
            yield path, "json", info
        elif named:
            raise ValueError(
                f"{path}: unknown kind of shard; use .tar, .parquet, a JSON list or a folder with {CAPTIONS_FILE}"
            )


def _captions(fs: fsspec.AbstractFileSystem, folder: str) -> Info | None:
    try:
        return fs.info(f"{folder}/{CAPTIONS_FILE}")
    except FileNotFoundError:
        return None


def _uri(fs: fsspec.AbstractFileSystem, path: str) -> str:
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    return path if "file" in protocols else fs.unstrip_protocol(path)


def _advice(pattern: str, error: Exception) -> str:
    protocol = pattern.partition("://")[0]
    if isinstance(error, ImportError):
        package = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}.get(protocol, "its fsspec package")
        return f"{protocol}:// needs {package}; install it ({error})"
    return f"{type(error).__name__}: {error}"
