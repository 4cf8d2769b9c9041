"""Which images batch tagging has to tag: image files below folders, and images in shards.

    find_work   lists files on the driver, as items of work
    Lister      a task: an item of work to rows that locate images; a shard is read here
    Fresh       a task: leaves the rows that the output does not have yet

A file whose name is no image's is counted and gives no row. The same holds for a file with an image's name and other
content, such as an error page saved as .jpg: `is_image` looks at its first bytes when it is read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import fsspec
import numpy as np
import pyarrow as pa

from ram_ray.data.tagged_parts import Done, Groups, group_of, hashes, image_ids
from ram_ray.records import Row
from ram_ray.runtime.storage import Info, version_of
from ram_ray.settings.data import DataConfig

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
FILES_PER_BLOCK = 5000  # image files in one item of work
# Reasons that concern a row's text, which tagging does not read.
_TEXT_REASONS = ("no_caption", "bad_metadata", "duplicate_key")
# First bytes of image files, also of formats that cannot be decoded here: they get a row with an error.
_MAGIC = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP", b"\xff\x0a", b"\0\0\0\x0cJXL")
_APPLE_DOUBLE = "._"  # of a file that macOS writes beside each file on other disks

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


class Work:
    """The items of work, and how many files are no images by their names."""

    def __init__(self) -> None:
        self.items: list[Row] = []
        self.other_files: Groups = Counter()

    @property
    def has_shards(self) -> bool:
        """Whether there are shards among the items."""
        return any(item["shard"] for item in self.items)


def find_work(data: list[str], *, shard_folders: int = 1, out: str | None = None) -> Work:
    """List the items of work for `Lister`: shards, and image files in groups.

    Args:
        data: paths, URIs or globs of images, folders and shards.
        shard_folders: how many of the folders above a shard are a part of its name.
        out: folder of the output, whose files are passed over.

    Returns:
        Items with the keys `shard` (name, URI, format, size and version, or None) and `rows` (rows of image files, or
        None).

    Raises:
        ValueError: if a path or glob matches nothing, or holds neither images nor shards; if two shards share a name.
    """
    from ram_ray.data.shards import Format, find_shards, make_shards

    work = Work()
    files: dict[str, tuple[str, Info]] = {}  # uri: (key, fsspec's info)
    others: set[str] = set()  # URIs
    shards: dict[str, tuple[Format, Info]] = {}
    for pattern in data:
        fs, path = fsspec.url_to_fs(pattern)
        fs.invalidate_cache()  # files may have been added since the last listing
        num_matches = 0
        for root, infos in _matches(fs, path, out=out):
            for info in infos:
                uri = _uri(fs, pattern, info["name"])
                if is_image_name(info["name"]):
                    files[uri] = info["name"].removeprefix(root).lstrip("/"), info
                    num_matches += 1
                else:
                    others.add(uri)
            archives = [info for info in infos if info["name"].endswith((".tar", ".parquet"))]
            for name, format, info in find_shards(fs, archives, named=False, nested=False):
                shards[_uri(fs, pattern, name)] = format, info
                num_matches += 1
        if not num_matches:
            raise ValueError(f"{pattern}: no images ({', '.join(IMAGE_SUFFIXES)}) and no .tar or .parquet there")
    work.other_files.update(group_of(uri) for uri in others if uri not in shards)
    used: set[str] = set()
    rows = []
    for uri, (key, info) in files.items():
        unique = uri if key in used else key
        used.add(unique)
        rows.append({"key": unique, "uri": uri, "nbytes": int(info["size"]), "version": file_version(info)})
    work.items = [{"shard": None, "rows": rows[i : i + FILES_PER_BLOCK]} for i in range(0, len(rows), FILES_PER_BLOCK)]
    for shard in make_shards(shards, folders=shard_folders):
        fields = (shard.name, shard.uri, shard.format, shard.size, shard.version)
        work.items.append({"shard": fields, "rows": None})
    return work


def find_images(path: str) -> list[str]:
    """List the images below a folder.

    Args:
        path: folder or URI.

    Returns:
        Their paths or URIs, sorted.

    Raises:
        ValueError: if there is no image.
    """
    fs, root = fsspec.url_to_fs(path)
    images = [_uri(fs, path, name) for name in sorted(fs.find(root)) if is_image_name(name)]
    if not images:
        raise ValueError(f"{path}: no images ({', '.join(IMAGE_SUFFIXES)}) there")
    return images


def is_folder(path: str) -> bool:
    """Whether a path or URI is a folder.

    Args:
        path: may not exist.

    Returns:
        True for an existing folder.
    """
    fs, root = fsspec.url_to_fs(path)
    return bool(fs.isdir(root))


def is_image_name(path: str) -> bool:
    """Whether a file is an image by its name.

    Args:
        path: of the file.

    Returns:
        True for the ending of an image, unless the file is one that macOS writes beside others ("._a.jpg").
    """
    return path.lower().endswith(IMAGE_SUFFIXES) and not path.rpartition("/")[2].startswith(_APPLE_DOUBLE)


def is_image(data: bytes) -> bool:
    """Whether bytes begin like an image of any format, also of one that cannot be decoded here.

    Args:
        data: the first bytes of a file.

    Returns:
        False for other files and for no bytes.
    """
    boxes = data[4:8] == b"ftyp"  # HEIC, AVIF
    return data.startswith(_MAGIC) or boxes or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def file_version(info: Info) -> str:
    """What tells a file from its earlier versions: its size and its time of change, or its tag in an object store.

    Args:
        info: fsspec's details of the file.

    Returns:
        A text.
    """
    return f"{info['size']}:{version_of(info)}"


def _matches(fs: fsspec.AbstractFileSystem, path: str, *, out: str | None) -> Iterator[tuple[str, list[Info]]]:
    """For each match of a path or glob: its parent folder, and fsspec's infos of the match or of all files in it."""
    try:
        matches = {path: fs.info(path)}
    except FileNotFoundError:
        matches = fs.glob(path, detail=True)
    hidden = f"{fsspec.url_to_fs(out)[1].rstrip('/')}/" if out else None
    for match, info in sorted(matches.items()):
        files = fs.find(match, detail=True) if info["type"] == "directory" else {match: info}
        infos = [{**file, "name": name} for name, file in sorted(files.items())]
        yield match.rstrip("/").rpartition("/")[0], [info for info in infos if not _is_below(info["name"], hidden)]


def _is_below(path: str, folder: str | None) -> bool:
    return folder is not None and path.startswith(folder)


def _uri(fs: fsspec.AbstractFileSystem, pattern: str, path: str) -> str:
    return fs.unstrip_protocol(path) if "://" in pattern else path


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
        from ram_ray.data.shards import Shard, scan_shard

        item = json.loads(row["work"])
        if item["shard"] is None:
            same = {"offset": 0, "error": "", "member": "", "stale": False}
            return [{**row, **same} for row in item["rows"]]
        shard = Shard(*item["shard"])
        samples = scan_shard(shard, limits=self._config.limits(min_side=1), check="header")
        return [
            {
                **{name: sample[name] for name in ("key", "uri", "offset", "nbytes")},
                "version": f"{shard.size}:{shard.version}",
                "error": ""
                if sample["reason"] in (None, *_TEXT_REASONS)
                else f"{sample['reason']}: {sample['detail']}",
                "member": sample["key"],
                "stale": False,
            }
            for sample in samples
            if sample["nbytes"] or sample["reason"] not in _TEXT_REASONS
        ]


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
