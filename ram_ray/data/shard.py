"""A shard: what it is called, and where it lies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from ram_ray.runtime.storage import Info, version_of

Format = Literal["tar", "parquet", "folder", "json", "coco", "table"]
_ENDING = re.compile(r"\.(tar|parquet|json|jsonl|csv|tsv)$", re.IGNORECASE)


@dataclass(frozen=True)
class Shard:
    """One shard. Its name is a part of its own URI, so it does not change when other data is added."""

    name: str  # "FOLDER/STEM", unique over the run; letters, digits, '-', '_', '.', and '/' between the parts
    uri: str  # an absolute path, or a URI with its protocol
    format: Format
    size: int | None = None  # bytes, of a folder those of its list, or of all its files
    version: str = ""  # changes when the content does
    images: str | None = None  # folder that image paths of lists and tables start from; None: theirs


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
    stem = _ENDING.sub("", parts[-1]) if parts else ""
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
