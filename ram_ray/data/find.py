"""What a path, URI or pattern stands for: the shards that it names.

A folder can hold archives, a list of its images, images with texts beside them, and folders that are shards
themselves. All of these are found, at any depth; what is none of them is counted and told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

import fsspec

from ram_ray.data.coco import PEEKED, is_coco
from ram_ray.data.folder import count_unread, is_image_file, list_file, own_folders
from ram_ray.data.shard import Format, Shard, make_shards
from ram_ray.data.unread import BESIDE, Unread
from ram_ray.runtime.key_hash import hash_key
from ram_ray.runtime.location import expand_braces, locate, to_text, uri_of
from ram_ray.runtime.storage import Info, version_of
from ram_ray.settings.data import LayoutConfig

Found = tuple[str, Format, Info]  # path, format, and fsspec's info

DEFAULT_LAYOUT = LayoutConfig()
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")
_TABLES = (".csv", ".tsv", ".jsonl")
LISTS = (".json", *_TABLES)  # shards where they, or a glob with their ending, are named
_SPLIT = re.compile(r"(train|test|val|valid|validation|dev|eval)(ing|\d+)?([-_.]|$)", re.IGNORECASE)


def list_shards(
    uris: list[str],
    *,
    folders: int = 1,
    images: str | None = None,
    layout: LayoutConfig = DEFAULT_LAYOUT,
    unread: Unread | None = None,
) -> list[Shard]:
    """List the shards that paths, URIs and patterns name; of a folder, all that are in it and below.

    A glob skips files that are no shards; a file named in full must be a shard. A .parquet beside a .tar or a folder of
    the same name is img2dataset's table of URLs, holds no images, and is skipped too. A JSON list, a COCO file, a CSV
    and a TSV are shards only where they, or a glob with their ending, are named: such files lie beside shards.

    Args:
        uris: paths, URIs, globs or brace patterns, of any fsspec storage.
        folders: how many of the folders above a shard are a part of its name.
        images: folder that the image paths of lists and tables start from; None: the folder of each list.
        layout: how images and captions lie in their files.
        unread: counts the files that are no shards; None: they are not counted.

    Returns:
        The shards, sorted by URI.

    Raises:
        ValueError: if a name matches nothing, or is no shard, or its storage cannot be reached, or two shards have one
            name.
    """
    unread = Unread() if unread is None else unread
    shard_files: dict[str, tuple[Format, Info]] = {}
    for pattern in (name for uri in uris for name in expand_braces(to_text(uri))):
        try:
            fs, path = locate(pattern)
            fs.invalidate_cache()  # files may have been added since the last listing
            entries, named = match(fs, path)
        except Exception as error:  # each storage has its own errors; the user has to fix all of them
            raise ValueError(f"{pattern}: cannot be listed: {_advice(pattern, error)}") from error
        if not entries:
            brackets = "; a '[' of a name is written '[[]' in a glob" if "[" in pattern else ""
            raise ValueError(
                f"{pattern}: nothing is there; check the path, or quote a glob such as 'data/*.tar'{brackets}"
            )
        lists = named or pattern.lower().endswith(LISTS)
        found = list(find_shards(fs, entries, named=lists, layout=layout, unread=unread))
        if not found:
            are_images = any(is_image_file(fs, info, layout) for info in entries)
            raise ValueError(
                f"{pattern}: no shard among {len(entries)} match(es); use .tar, .parquet, a folder with images and "
                f"their captions, or a list of images ({', '.join(LISTS)}), whose name must be given"
                + ("; name the folder in place of its images" if are_images else "")
                + (f"; not read: {unread}" if unread else "")
            )
        shard_files |= {uri_of(fs, path): (format, info) for path, format, info in found}
    if not shard_files:
        raise ValueError("no shards are named; write a path, a URI or a glob, such as 'data/*.tar'")
    if images is not None:
        images = uri_of(*locate(to_text(images)))  # absolute, for tasks that run in other folders
    return [replace(shard, images=images) for shard in make_shards(shard_files, folders=folders)]


def match(fs: fsspec.AbstractFileSystem, path: str) -> tuple[list[Info], bool]:
    """What a path or glob matches.

    Args:
        fs: filesystem of the path.
        path: in the form of `fs`; a name that exists is no glob.

    Returns:
        (fsspec's infos, whether the path was named in full); no infos if nothing is there.
    """
    try:  # not `exists`, which is also false if the storage refuses access
        return [{**fs.info(path), "name": path.rstrip("/") or "/"}], True
    except FileNotFoundError:
        if not any(sign in path for sign in "*?["):
            return [], True
    return [{**info, "name": name} for name, info in sorted(fs.glob(path, detail=True).items())], False


def find_shards(
    fs: fsspec.AbstractFileSystem,
    entries: list[Info],
    *,
    named: bool,
    layout: LayoutConfig = DEFAULT_LAYOUT,
    unread: Unread | None = None,
    beside: Iterable[str] = (),
) -> Iterator[Found]:
    """Find the shards among the files and folders of a listing.

    Args:
        fs: the fsspec file system of the entries.
        entries: fsspec's infos, with the whole path as `name`.
        named: whether the user named the entries: then a list is a shard, and a file that is no shard is an error.
        layout: how images and captions lie in their files.
        unread: counts the files that are no shards; None: they are not counted.
        beside: paths of what else is in the folder of the entries.

    Yields:
        (path, format, info) of each shard.

    Raises:
        ValueError: if an entry is a compressed tar, or `named` and no shard, or a folder holds several splits.
    """
    unread = Unread() if unread is None else unread
    files = [info for info in entries if info["type"] != "directory"]
    names = {info["name"] for info in entries} | set(beside)
    for info in entries:
        path = info["name"]
        if info["type"] == "directory":
            yield from _find_in_folder(fs, path, layout, unread)
        elif shard := _archive(info, names, named=named and len(files) == 1):
            yield shard
        elif named and path.lower().endswith(LISTS):
            yield path, _list_format(fs, path), info
        elif named:
            raise ValueError(
                f"{path}: unknown kind of shard; use .tar, .parquet, a folder, or a list of images ({', '.join(LISTS)})"
            )
        elif not is_table_of_urls(path, names):
            count_unread(info, "", unread, kind=BESIDE)


def _find_in_folder(fs: fsspec.AbstractFileSystem, root: str, layout: LayoutConfig, unread: Unread) -> Iterator[Found]:
    """The shards of a folder: its archives, itself with its list or its images, and the folders below."""
    pending = [root.rstrip("/") or "/"]
    while pending:
        path = pending.pop(0)
        listing, archives = None, list[Found]()
        others, num_images, num_bytes, version = list[Info](), 0, 0, 0
        for number, folder in enumerate(own_folders(fs, path, layout, found=pending.append)):
            if not number:
                listing = list_file(fs, folder, layout)
                names = {info["name"] for info in folder.files} | set(folder.folders)
                archives = [shard for info in folder.files if (shard := _archive(info, names, named=False))]
                archived = {name for name, _, _ in archives}
                if listing is None:
                    _check_splits(path, [*folder.folders, *archived])
            for info in folder.files:
                if is_image_file(fs, info, layout):
                    num_images += 1
                elif not number and info["name"] not in archived and not is_table_of_urls(info["name"], names):
                    others.append(info)
                num_bytes += int(info["size"] or 0)
                version = (version + _hash(info)) % (1 << 61)
        yield from archives
        if listing:
            yield path, "folder", listing
        elif num_images:
            yield path, "folder", {"name": path, "size": num_bytes, "ETag": f"{num_images}-{version:x}"}
        else:  # nothing reads this folder, which would count them
            for info in others:
                count_unread(info, root, unread, kind=BESIDE)


def _hash(info: Info) -> int:
    """A number that changes with the name, the size and the version of a file."""
    return hash_key(f"{to_text(info['name'])} {info['size']} {version_of(info)}")


def _archive(info: Info, names: Iterable[str], *, named: bool) -> Found | None:
    path, lower = info["name"], info["name"].lower()
    if lower.endswith(COMPRESSED):
        raise ValueError(
            f"{path}: a compressed tar cannot be read in place; unpack it first (gunzip for .tar.gz and .tgz) "
            "and name the .tar"
        )
    if lower.endswith(".tar"):
        return path, "tar", info
    if lower.endswith(".parquet") and (named or not is_table_of_urls(path, names)):
        return path, "parquet", info
    return None


def is_table_of_urls(path: str, names: Iterable[str]) -> bool:
    """Whether a file is the table or the statistics that img2dataset writes beside an archive or a folder.

    Args:
        path: of the file.
        names: paths of all that is in its folder.

    Returns:
        Whether it is: it holds no images, and nothing reads it.
    """
    stem = path.removesuffix(".parquet").removesuffix("_stats.json")
    return stem != path and (f"{stem}.tar" in names or stem in names)


def _list_format(fs: fsspec.AbstractFileSystem, path: str) -> Format:
    """The format of a list that was named."""
    if path.lower().endswith(_TABLES):
        return "table"
    return "coco" if is_coco(fs.cat_file(path, start=0, end=PEEKED)) else "json"


def _check_splits(root: str, paths: list[str]) -> None:
    """Refuse a folder with parts for training and for evaluation, which would all be trained on."""
    splits: dict[bool, str] = {}
    for path in paths:
        name = path.rpartition("/")[2]
        if found := _SPLIT.match(name):
            splits.setdefault(found[1].lower() == "train", name)
    if len(splits) > 1:
        raise ValueError(
            f"{root} holds {splits[True]} and {splits[False]}, parts for training and for evaluation: "
            f"name one of them, such as {root}/{splits[True]} or '{root}/train*'"
        )


def _advice(pattern: str, error: Exception) -> str:
    protocol = pattern.partition("://")[0]
    if isinstance(error, ImportError):
        package = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}.get(protocol, "its fsspec package")
        return f"{protocol}:// needs {package}; install it ({error})"
    return f"{type(error).__name__}: {error}"
