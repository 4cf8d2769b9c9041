"""What `--data` of batch tagging stands for: image files in folders of any depth, and shards.

Captions play no part here. Every image becomes a row, whatever its file is called: a location is text that leads to the
file again (`runtime/location.py`). Files that are neither images nor shards are counted by the endings of their names.
"""

from __future__ import annotations

from collections.abc import Iterator

import fsspec

from ram_ray.data.find import COMPRESSED, LISTS, find_shards, match
from ram_ray.data.folder import count_unread, is_image_file
from ram_ray.data.shard import Format, make_shards
from ram_ray.data.unread import Unread
from ram_ray.records import Row
from ram_ray.runtime.location import expand_braces, locate, to_text, uri_of, walk
from ram_ray.runtime.storage import Info
from ram_ray.settings.data import LayoutConfig

FILES_PER_BLOCK = 5000  # image files in one item of work
DEFAULT_LAYOUT = LayoutConfig()


def find_work(
    data: list[str], *, shard_folders: int = 1, layout: LayoutConfig = DEFAULT_LAYOUT, unread: Unread | None = None
) -> list[Row]:
    """List the items of work for `Lister`: shards, and image files in groups.

    Args:
        data: paths, URIs, globs or brace patterns of images, folders and shards.
        shard_folders: how many of the folders above a shard are a part of its name.
        layout: has the endings of image files.
        unread: counts the files that are neither; None: they are not counted.

    Returns:
        Items with the keys `shard` (name, URI and format, or None) and `rows` (rows of image files, or None).

    Raises:
        ValueError: if a path or glob matches nothing, or holds neither images nor shards; if two shards share a name.
    """
    unread = Unread() if unread is None else unread
    images: dict[str, Row] = {}  # by URI
    shards: dict[str, tuple[Format, Info]] = {}
    for pattern in (name for uri in data for name in expand_braces(to_text(uri))):
        fs, path = locate(pattern)
        num_matches = len(images) + len(shards)
        for root, infos, folders, named in _matches(fs, path):
            others = []
            for info in infos:
                row = _image_row(fs, info, root, layout)
                if row:
                    images[row["uri"]] = row
                elif info["name"].lower().endswith(COMPRESSED):
                    count_unread(info, root, unread)
                else:
                    others.append(info)
            found = find_shards(fs, others, named=named, layout=layout, unread=unread, beside=folders)
            for name, format, info in found:
                shards[uri_of(fs, name)] = format, info
        if num_matches == len(images) + len(shards):
            raise ValueError(
                f"{pattern}: no images ({', '.join(layout.image_suffixes)}) and no .tar or .parquet there"
                + (f"; not read: {unread}" if unread else "")
            )
    used: set[str] = set()
    rows = list(images.values())
    for row in rows:
        row["key"] = row["uri"] if row["key"] in used else row["key"]
        used.add(row["key"])
    work = [{"shard": None, "rows": rows[i : i + FILES_PER_BLOCK]} for i in range(0, len(rows), FILES_PER_BLOCK)]
    named_shards = make_shards(shards, folders=shard_folders)
    return work + [{"shard": (shard.name, shard.uri, shard.format), "rows": None} for shard in named_shards]


def _matches(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[tuple[str, list[Info], list[str], bool]]:
    """For each match, and each folder in it: the match's parent, infos, paths of folders, and whether it is a list."""
    entries, named = match(fs, path)
    for entry in entries:
        root = entry["name"].rstrip("/").rpartition("/")[0]
        if entry["type"] == "directory":
            for folder in walk(fs, entry["name"]):
                yield root, folder.files, folder.folders, False
        else:
            yield root, [entry], [other["name"] for other in entries], named and entry["name"].lower().endswith(LISTS)


def _image_row(fs: fsspec.AbstractFileSystem, info: Info, root: str, layout: LayoutConfig) -> Row | None:
    """The row of a file; None if it is no image. A link to nothing that is called like an image has a row, too."""
    is_image = is_image_file(fs, {**info, "type": "file"} if info["type"] == "link" else info, layout)
    if not is_image:
        return None
    key = to_text(info["name"].removeprefix(root).lstrip("/"))
    error = f"bad_metadata: a link to {info['destination']}" if info["type"] == "link" else ""
    return {"key": key, "uri": uri_of(fs, info["name"]), "offset": 0, "nbytes": int(info["size"]), "error": error}
