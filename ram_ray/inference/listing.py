"""Which images batch tagging has to tag: image files below folders, and images in shards.

    find_work   lists files on the driver, as items of work
    Lister      a task: an item of work to rows that locate images; a shard is read here
    leave_fresh a task: leaves the rows that the output does not have yet

A file whose name is no image's is counted and gives no row. The same holds for a file with an image's name and other
content, such as an error page saved as .jpg: `is_image` looks at its first bytes when it is read.
"""

from __future__ import annotations

import contextlib
import json
import posixpath
import time
from collections import Counter
from collections.abc import Iterator

import fsspec
import numpy as np
import pyarrow as pa

from ram_ray.data import images
from ram_ray.data.find import COMPRESSED, LISTS, find_shards, is_table_of_urls, match
from ram_ray.data.folder import count_unread, is_image_file
from ram_ray.data.shard import Format, Shard, make_shards
from ram_ray.data.tagged_parts import Done, Groups, group_of, hashes, image_ids
from ram_ray.data.unread import BESIDE, Unread
from ram_ray.records import Row
from ram_ray.runtime.artifacts import whole_file_of
from ram_ray.runtime.location import expand_braces, locate, locate_path, to_text, uri_of, walk
from ram_ray.runtime.storage import Info, version_of
from ram_ray.settings.data import DataConfig, LayoutConfig

FILES_PER_BLOCK = 5000  # image files in one item of work
DEFAULT_LAYOUT = LayoutConfig()
# First bytes of image files that `images.is_image` leaves out: of formats that are not read, and less certain ones.
_MAGIC = (b"\xff\xd8", b"\x89PNG", b"BM", b"\0\0\0\x0cjP", b"\xff\x0a", b"\0\0\0\x0cJXL")

LISTED = pa.schema(
    [
        ("key", pa.string()),
        ("uri", pa.string()),
        ("offset", pa.int64()),
        ("nbytes", pa.int64()),
        ("version", pa.string()),  # of the file
        ("error", pa.string()),  # "" for none
        ("member", pa.string()),  # key of an image of a shard; "" for a file
        ("stale", pa.bool_()),  # the output has a row of an earlier version
    ]
)


SIDECARS = (".txt", ".xmp")  # of an image of the same name, as `interop.sidecars` writes them
MIN_SECONDS = 10.0  # since an unfinished sidecar was written: nobody writes a small file for so long


class Work:
    """The items of work, and the files that are neither images by their names nor shards."""

    def __init__(self) -> None:
        self.items: list[Row] = []
        self.other_files: Groups = Counter()
        self.unread = Unread()  # the same files by ending, with names; without those that are known to hold no images
        self.unfinished: list[str] = []  # URIs: of these files, sidecars that a killed call began to write

    @property
    def has_shards(self) -> bool:
        """Whether there are shards among the items."""
        return any(item["shard"] for item in self.items)

    def remove_unfinished(self) -> None:
        """Remove the unfinished sidecars; those that cannot be removed stay among the other files."""
        for uri in self.unfinished:
            fs, path = locate(uri)
            with contextlib.suppress(OSError):
                fs.rm_file(path)
                self.other_files -= Counter([group_of(uri)])
        self.unfinished = []


class _Found:
    """What the names given to `find_work` stand for, by URI: a file that two of them name is there once."""

    def __init__(self, layout: LayoutConfig, out: str | None) -> None:
        self._layout, self._out = layout, locate_path(out)[1].rstrip("/") if out else None
        self.images: dict[str, Row] = {}
        self.shards: dict[str, tuple[Format, Info]] = {}
        self._others: dict[str, tuple[Info, str, bool]] = {}  # info, its match's parent, whether it is to be told

    def add(self, pattern: str) -> None:
        """Add what a path, URI or glob matches; a `ValueError` if it has no images and no shards."""
        fs, path = locate(pattern)
        fs.invalidate_cache()  # files may have been added since the last listing
        num_found = 0
        for root, infos, folders, named in _matches(fs, path, self._out):
            others = []
            for info in infos:
                if row := _image_row(fs, info, root, self._layout):
                    self.images.setdefault(row["uri"], row)
                    num_found += 1
                else:
                    others.append(info)
            names = {info["name"] for info in infos} | set(folders)
            self._others |= {
                uri_of(fs, info["name"]): (info, root, not is_table_of_urls(info["name"], names)) for info in others
            }
            readable = [info for info in others if not info["name"].lower().endswith(COMPRESSED)]
            for name, format, info in find_shards(fs, readable, named=named, layout=self._layout, beside=names):
                self.shards[uri_of(fs, name)] = format, info
                num_found += 1
        if not num_found:
            work, suffixes = Work(), ", ".join(self._layout.image_suffixes)
            self.add_others(work)
            raise ValueError(
                f"{pattern}: no images ({suffixes}) and no .tar or .parquet there"
                + (f"; not read: {work.unread}" if work.unread else "")
            )

    def add_others(self, work: Work) -> None:
        """Count the files that are neither: all by folder and extension, and by ending those that are to be told."""
        images = self.images.keys() | {posixpath.splitext(uri)[0] for uri in self.images}
        for uri, (info, root, told) in self._others.items():
            if uri in self.shards or uri in self.images:
                continue
            work.other_files[group_of(uri)] += 1
            unfinished = whole_file_of(uri)
            sidecar = unfinished or uri
            if sidecar.endswith(SIDECARS) and sidecar[:-4] in images:
                written = info.get("mtime")  # a time of another kind is that of a store, which has no unfinished files
                if unfinished and isinstance(written, float) and time.time() - written > MIN_SECONDS:
                    work.unfinished.append(uri)
            elif told:
                count_unread(info, root, work.unread)


def find_work(
    data: list[str], *, shard_folders: int = 1, layout: LayoutConfig = DEFAULT_LAYOUT, out: str | None = None
) -> Work:
    """List the items of work for `Lister`: shards, and image files in groups.

    Args:
        data: paths, URIs, globs or brace patterns of images, folders and shards.
        shard_folders: how many of the folders above a shard are a part of its name.
        layout: has the endings of image files.
        out: folder of the output, whose files are passed over.

    Returns:
        Items with the keys `shard` (name, URI, format, size and version, or None) and `rows` (rows of image files, or
        None); and the other files.

    Raises:
        ValueError: if a path or glob matches nothing, or holds neither images nor shards; if two shards share a name.
    """
    found = _Found(layout, out)
    for pattern in (name for uri in data for name in expand_braces(to_text(uri))):
        found.add(pattern)
    used: set[str] = set()
    rows = list(found.images.values())
    for row in rows:
        row["key"] = row["uri"] if row["key"] in used else row["key"]
        used.add(row["key"])
    work = Work()
    found.add_others(work)
    work.items = [{"shard": None, "rows": rows[i : i + FILES_PER_BLOCK]} for i in range(0, len(rows), FILES_PER_BLOCK)]
    for shard in make_shards(found.shards, folders=shard_folders):
        fields = (shard.name, shard.uri, shard.format, shard.size, shard.version)
        work.items.append({"shard": fields, "rows": None})
    return work


def is_image(data: bytes) -> bool:
    """Whether bytes begin like an image of any format, also of one that cannot be decoded here.

    Args:
        data: the first bytes of a file.

    Returns:
        False for other files and for no bytes.
    """
    return images.is_image(data) or data.startswith(_MAGIC) or data[4:8] == b"ftyp"


def file_version(info: Info) -> str:
    """What tells a file from its earlier versions: its size and its time of change, or its tag in an object store.

    Args:
        info: fsspec's details of the file.

    Returns:
        A text.
    """
    return f"{info['size']}:{version_of(info)}"


def _matches(
    fs: fsspec.AbstractFileSystem, path: str, out: str | None
) -> Iterator[tuple[str, list[Info], list[str], bool]]:
    """For each match, and each folder in it: the match's parent, infos, paths of folders, and whether it is a list."""
    entries, named = match(fs, path)
    for entry in entries:
        root = entry["name"].rstrip("/").rpartition("/")[0]
        if entry["type"] == "directory":
            for folder in walk(fs, entry["name"]):
                if _is_inside(folder.path, out):
                    folder.folders.clear()
                else:
                    yield root, folder.files, folder.folders, False
        elif not _is_inside(entry["name"], out):
            is_list = named and entry["name"].lower().endswith(LISTS)
            yield root, [entry], [other["name"] for other in entries], is_list


def _is_inside(path: str, folder: str | None) -> bool:
    return folder is not None and f"{path.rstrip('/')}/".startswith(f"{folder}/")


def _image_row(fs: fsspec.AbstractFileSystem, info: Info, root: str, layout: LayoutConfig) -> Row | None:
    """The row of a file; None if it is no image. A link to nothing that is called like an image has a row, too."""
    is_link = info["type"] == "link"
    if not is_image_file(fs, {**info, "type": "file"} if is_link else info, layout):
        return None
    return {
        "key": to_text(info["name"].removeprefix(root).lstrip("/")),
        "uri": uri_of(fs, info["name"]),
        "nbytes": int(info["size"]),
        "version": file_version(info),
        "error": f"bad_metadata: a link to {info['destination']}" if is_link else "",
    }


class Lister:
    """A task: turns an item of work into rows that locate images.

    Args:
        config: section `data`, with the limits of images.
    """

    def __init__(self, config: DataConfig) -> None:
        self._config = config

    def __call__(self, row: Row) -> list[Row]:
        """List the images of an item of work.

        Args:
            row: `work`, an item of `find_work` as JSON.

        Returns:
            LISTED rows, not yet compared with the output.
        """
        from ram_ray.data.shards import scan_shard

        item = json.loads(row["work"])
        if item["shard"] is None:
            same = {"offset": 0, "member": "", "stale": False}
            return [{**row, **same} for row in item["rows"]]
        shard, config = Shard(*item["shard"]), self._config
        samples = scan_shard(
            shard, limits=config.limits(min_side=1), check="header", layout=config.layout, needs_text=False
        )
        return [
            {
                **{name: sample[name] for name in ("key", "uri", "offset", "nbytes")},
                "version": _sample_version(sample, shard),
                # An image that was read has a size: what is wrong with its texts does not matter here.
                "error": "" if sample["width"] else f"{sample['reason']}: {sample['detail']}",
                "member": sample["key"],
                "stale": False,
            }
            for sample in samples
            if not sample["key"].startswith(f"{shard.name}/#{BESIDE}")
        ]


def _sample_version(sample: Row, shard: Shard) -> str:
    """The version of a sample's file: of the shard, or of the image that a list names."""
    if sample["uri"] != shard.uri and sample["width"]:
        fs, path = locate(sample["uri"])
        return file_version(fs.info(path))
    return f"{shard.size}:{shard.version}"


def leave_fresh(block: pa.Table, done: Done) -> pa.Table:
    """Leave the rows of images that the output does not have in this version.

    A key that another file in the output has, of a folder of the same name, gives way to the file's URI.

    Args:
        block: LISTED rows.
        done: what the output has.

    Returns:
        LISTED rows; `stale` where the output has a row of an earlier version.
    """
    keys, key_hashes = block["key"].to_pylist(), hashes(block["key"].to_pylist())
    known, index = done.find(image_ids(block))
    stale, taken = known.copy(), np.isin(key_hashes, done.keys)
    stale[known] = done.versions[index[known]] != hashes(block["version"].to_pylist())[known]
    taken[known] &= done.keys[index[known]] != key_hashes[known]
    for row in np.flatnonzero(taken).tolist():
        keys[row] = ":".join(part for part in (block["uri"][row].as_py(), block["member"][row].as_py()) if part)
    columns = {"key": pa.array(keys, pa.string()), "stale": pa.array(stale)}
    for name, column in columns.items():
        block = block.set_column(block.schema.get_field_index(name), name, column)
    return block.select(LISTED.names).cast(LISTED).filter(pa.array(stale | ~known))


def count_groups(block: pa.Table) -> pa.Table:
    """Count the rows of a block by folder and extension.

    Args:
        block: rows with uri.

    Returns:
        A row for each folder and extension.
    """
    counts = Counter(map(group_of, block["uri"].to_pylist()))
    return groups_table(counts)


def groups_table(counts: Groups) -> pa.Table:
    """Make a table of numbers by folder and extension.

    Args:
        counts: the numbers.

    Returns:
        Columns folder, extension and count.
    """
    return pa.table(
        {
            "folder": pa.array([folder for folder, _ in counts], pa.string()),
            "extension": pa.array([extension for _, extension in counts], pa.string()),
            "count": pa.array(list(counts.values()), pa.int64()),
        }
    )
