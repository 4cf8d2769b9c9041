"""A folder as a shard: with one list of its images, or with a text file beside each image.

What belongs to a folder are the files in it and in all folders below, except those that are shards themselves: with a
list, with archives, or with img2dataset's table beside them. The search for shards (`find.py`) and the reader ask the
same function, `own_folders`, so that no image is in two shards and none is in no shard. Whatever is neither an image
nor a text is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import fsspec

from ram_ray.data.coco import PEEKED, is_coco, read_coco
from ram_ray.data.images import MAGIC_BYTES, is_image
from ram_ray.data.samples import ImageCheck, Sample, check_file
from ram_ray.data.tables import HEADER_BYTES, read_header, read_table
from ram_ray.data.tar_groups import CAPTION_FOLDERS, IMAGE_FOLDERS
from ram_ray.data.text_files import TextFiles
from ram_ray.data.texts import MAX_TEXT
from ram_ray.data.unread import BESIDE, LINK, LOST, Unread, ending_of
from ram_ray.records import Reject
from ram_ray.runtime.location import Folder, locate, to_text, uri_of, walk
from ram_ray.runtime.storage import Info
from ram_ray.settings.data import LayoutConfig

LIST_FILES = ("captions.jsonl", "metadata.jsonl", "metadata.csv", "metadata.tsv")  # the first that is there counts
ARCHIVES = (".tar", ".parquet")
ANNOTATIONS = "annotations"  # the folder of COCO's lists, beside those of its images
MAX_PEEKED = 20  # files of a folder that are opened to see whether they are its list


def list_file(fs: fsspec.AbstractFileSystem, folder: Folder, layout: LayoutConfig) -> Info | None:
    """Find the list of a folder's images among its files.

    Args:
        fs: filesystem of the folder.
        folder: with all its files.
        layout: names columns, or leaves it to the usual names.

    Returns:
        fsspec's info of the list: a table with one of the names of `LIST_FILES`, else the only CSV, TSV or COCO file,
        which may also lie in a folder `annotations`; None if there is none.

    Raises:
        ValueError: if several files could be the list.
    """
    annotations = [path for path in folder.folders if path.rpartition("/")[2] == ANNOTATIONS]
    files = [*folder.files, *(info for path in annotations for info in fs.ls(path, detail=True))]
    by_name = {base_name(info): info for info in files if info["type"] == "file"}
    if named := next((by_name[name] for name in LIST_FILES if name in by_name), None):
        return named
    if any(name.lower().endswith(ARCHIVES) for name in by_name):
        return None  # what lies beside archives may describe them
    stems = {name.rpartition(".")[0] for name in by_name if _is_image_name(name, layout)}
    peeked = [
        info
        for name, info in by_name.items()
        if name.lower().endswith((".csv", ".tsv", ".json")) and name.rpartition(".")[0] not in stems
    ]
    lists = [info for info in peeked[:MAX_PEEKED] if _is_list(fs, info["name"], layout)]
    if len(lists) > 1:
        names = " and ".join(base_name(info) for info in lists[:3])
        raise ValueError(f"{folder.path}: {names} both list images; name the one that you mean in place of the folder")
    return lists[0] if lists else None


def _has_list(fs: fsspec.AbstractFileSystem, folder: Folder, layout: LayoutConfig) -> bool:
    return folder.path.rpartition("/")[2] != ANNOTATIONS and list_file(fs, folder, layout) is not None


def _is_list(fs: fsspec.AbstractFileSystem, path: str, layout: LayoutConfig) -> bool:
    if path.lower().endswith(".json"):
        return is_coco(fs.cat_file(path, start=0, end=PEEKED))
    return read_header(fs.cat_file(path, start=0, end=HEADER_BYTES), layout) is not None


def own_folders(
    fs: fsspec.AbstractFileSystem, root: str, layout: LayoutConfig, *, found: Callable[[str], None] | None = None
) -> Iterator[Folder]:
    """Walk what belongs to a folder.

    Args:
        fs: filesystem of the folder.
        root: path of the folder, which is a shard or may be one.
        layout: names columns, or leaves it to the usual names.
        found: called with the path of each folder below that is a shard itself; its files are not walked.

    Yields:
        The folders.
    """
    tabled: set[str] = set()  # folders with img2dataset's table or statistics beside them
    for folder in walk(fs, root):
        names = {base_name(info) for info in folder.files}
        is_shard = folder.path in tabled or any(name.lower().endswith(ARCHIVES) for name in names)
        if folder.path != root.rstrip("/") and (is_shard or _has_list(fs, folder, layout)):
            folder.folders.clear()
            if found:
                found(folder.path)
            continue
        for path in folder.folders:
            name = path.rpartition("/")[2]
            if f"{name}.parquet" in names or f"{name}_stats.json" in names:
                tabled.add(path)
        yield folder


def is_image_file(fs: fsspec.AbstractFileSystem, info: Info, layout: LayoutConfig) -> bool:
    """Whether a file of a folder is an image: by its ending, or, without one, by its first bytes.

    Args:
        fs: filesystem of the file.
        info: fsspec's info.
        layout: has the endings.

    Returns:
        Whether it is.
    """
    name = base_name(info)
    if info["type"] != "file" or name.startswith("._"):
        return False
    if _is_image_name(name, layout):
        return True
    if "." in name or not info["size"]:
        return False
    return is_image(fs.cat_file(info["name"], start=0, end=MAGIC_BYTES))


def base_name(info: Info) -> str:
    """The name of a file without its folder."""
    return info["name"].rpartition("/")[2]


def _is_image_name(name: str, layout: LayoutConfig) -> bool:
    return name.lower().endswith(layout.image_suffixes) and not name.startswith("._")


def count_unread(info: Info, root: str, unread: Unread, *, kind: str = LOST) -> None:
    """Count a file that nothing reads.

    Args:
        info: fsspec's info; also of a link that was not followed.
        root: path of the folder that its name is shown from.
        unread: gets the count.
        kind: as of `Unread.add`.
    """
    name = to_text(info["name"].removeprefix(root).lstrip("/"))
    if info["type"] == "link":
        unread.add(f"{name} -> {info['destination']}", 0, kind=LOST, ending=LINK)
    else:
        unread.add(name, int(info["size"] or 0), kind=kind)


def read_folder(
    uri: str, *, check_image: ImageCheck, layout: LayoutConfig, images: str | None = None
) -> Iterator[Sample]:
    """Read the samples of a folder.

    Args:
        uri: URI of the folder.
        check_image: function that checks an image.
        layout: says what is an image and a text, and how texts are read.
        images: folder that paths of a list start from; None: this folder.

    Yields:
        Samples; the key is the image's path in the folder. An image that its list does not name is one, too.

    Raises:
        OSError: if the storage fails.
    """
    fs, root = locate(uri)
    unread, named, listing = Unread(), set[int](), None
    for number, folder in enumerate(own_folders(fs, root, layout)):
        if not number and (listing := list_file(fs, folder, layout)):
            for sample in _list_samples(uri_of(fs, listing["name"]), check_image, layout, images):
                named.add(hash(sample.uri))
                yield sample
        if listing:
            yield from _unnamed(fs, folder, root, listing["name"], named, layout, unread)
        else:
            yield from _Pairs(fs, folder, root, layout, unread).samples(check_image)
    yield from unread.samples(uri)


def _list_samples(uri: str, check_image: ImageCheck, layout: LayoutConfig, images: str | None) -> Iterator[Sample]:
    if uri.lower().endswith(".json"):
        return read_coco(uri, check_image=check_image, images=images)
    return read_table(uri, check_image=check_image, layout=layout, images=images)


def _unnamed(
    fs: fsspec.AbstractFileSystem,
    folder: Folder,
    root: str,
    listing: str,
    named: set[int],
    layout: LayoutConfig,
    unread: Unread,
) -> Iterator[Sample]:
    """The images of a folder that its list does not name, as rejected samples; other files are counted."""
    for info in folder.files:
        if not is_image_file(fs, info, layout):
            if info["name"] != listing:
                count_unread(info, root, unread, kind=BESIDE)
        elif hash(uri := uri_of(fs, info["name"])) not in named:
            key = to_text(info["name"].removeprefix(root).lstrip("/"))
            problem = Reject("no_caption", f"{listing.rpartition('/')[2]} does not name it")
            yield Sample(key, uri, nbytes=int(info["size"]), problem=problem)


@dataclass
class _Pairs:
    """The images of one folder with the text files beside them."""

    fs: fsspec.AbstractFileSystem
    folder: Folder
    root: str
    layout: LayoutConfig
    unread: Unread
    texts: dict[str, list[Info]] = field(default_factory=dict)  # name of an image with or without its ending -> texts

    def samples(self, check_image: ImageCheck) -> Iterator[Sample]:
        """A sample for each image; texts without an image, and other files, are counted."""
        others, images = [], []
        for info in self.folder.files:
            extension = ending_of(info["name"])[1:]
            if info["type"] == "file" and extension in (*self.layout.caption_extensions, "json"):
                self.texts.setdefault(base_name(info).rpartition(".")[0], []).append(info)
            elif is_image_file(self.fs, info, self.layout):
                images.append(info)
            else:
                others.append(info)
        stems = {name for info in images for name in _names(info)}
        beside = self._files_of_sibling(IMAGE_FOLDERS, CAPTION_FOLDERS)
        stems |= {name for info in beside for name in _names(info)}
        for name, texts in self.texts.items():
            others += texts if name not in stems else []
        for info in self._files_of_sibling(CAPTION_FOLDERS, IMAGE_FOLDERS):
            if ending_of(info["name"])[1:] in (*self.layout.caption_extensions, "json"):
                self.texts.setdefault(base_name(info).rpartition(".")[0], []).append(info)
        for info in others:
            count_unread(info, self.root, self.unread, kind=BESIDE if images or beside else LOST)
        for info in images:
            yield self._sample(info, check_image)

    def _sample(self, info: Info, check_image: ImageCheck) -> Sample:
        name = to_text(info["name"].removeprefix(self.root).lstrip("/"))
        sample = Sample(name, uri_of(self.fs, info["name"]))
        texts = TextFiles()
        for text in (text for name in _names(info) for text in self.texts.get(name, ())):
            raw = self.fs.cat_file(text["name"], start=0, end=min(int(text["size"]), MAX_TEXT + 1))
            texts.add(ending_of(text["name"])[1:], raw, self.layout)
        texts.describe(sample)
        check_file(sample, named_in="the folder", check_image=check_image)
        return sample

    def _files_of_sibling(self, wanted: frozenset[str], here: frozenset[str]) -> list[Info]:
        """The files of the folder `images` beside a folder `captions`, or the other way round."""
        parent, _, name = self.folder.path.rpartition("/")
        if name.lower() not in here or self.folder.path == self.root:
            return []
        try:
            siblings = [info["name"].rstrip("/") for info in self.fs.ls(parent, detail=True)]
        except FileNotFoundError:
            return []
        paths = [path for path in siblings if path.rpartition("/")[2].lower() in wanted]
        return [info for path in paths if self.fs.isdir(path) for info in self.fs.ls(path, detail=True)]


def _names(info: Info) -> tuple[str, ...]:
    """What a text beside an image may be called, without its ending: `a` and `a.jpg`."""
    name = base_name(info)
    stem = name.rpartition(".")[0]
    return (stem, name) if stem else (name,)
