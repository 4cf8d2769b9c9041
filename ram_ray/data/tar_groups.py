"""The members of a tar as samples: which belong together, and what becomes of those that are not whole.

A sample is the members that share a key: the name up to the first dot after the last slash (WebDataset's rule), or up
to the last one (`data.layout.key_end`). `images/1.jpg` and `captions/1.txt` share one too. The members of a sample are
usually adjacent; an incomplete sample waits for its other members (`waiting.py`).
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any, Self

from ram_ray.data.images import MAGIC_BYTES, is_image
from ram_ray.data.samples import ImageCheck, Sample
from ram_ray.data.text_files import TextFiles
from ram_ray.data.texts import MAX_TEXT
from ram_ray.data.unread import BESIDE, LOST, Unread, ending_of
from ram_ray.data.waiting import Waiting
from ram_ray.records import Json, Reject
from ram_ray.runtime.location import to_text
from ram_ray.settings.data import LayoutConfig

IMAGE_FOLDERS = frozenset({"images", "image", "imgs", "img"})
CAPTION_FOLDERS = frozenset({"captions", "caption", "texts", "text", "txt"})
MAX_OTHERS = 20  # endings of other members that a sample counts by themselves


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file of the archive; its data is `nbytes` bytes from byte `offset`."""

    name: str
    offset: int
    nbytes: int


@dataclass(slots=True)
class Group:
    """The members of one sample that were read so far."""

    key: str  # of the sample
    pair: str  # what its members share: the key without a folder that is called images or captions
    first: str  # name of the first member
    offset: int
    nbytes: int
    images: list[Sample] = field(default_factory=list)
    extensions: set[str] = field(default_factory=set)  # of texts and images
    texts: TextFiles = field(default_factory=TextFiles)
    others: dict[str, list[Any]] = field(default_factory=dict)  # ending -> [members, bytes, name of the first]
    dotted: list[str] = field(default_factory=list)  # the first images whose names have more dots
    num_dotted: int = 0
    beside_corrupt: bool = False

    @property
    def has_text(self) -> bool:
        """Whether a text was read."""
        return any(not extension.startswith("image/") for extension in self.extensions)

    @property
    def is_complete(self) -> bool:
        """Whether there are an image and a text."""
        return bool(self.images) and self.has_text

    @property
    def num_chars(self) -> int:
        """Characters of the texts."""
        return sum(map(len, self.texts.txt_captions)) + sum(map(len, self.texts.json_captions))

    def add_other(self, ending: str, name: str, nbytes: int, *, is_dotted: bool) -> None:
        """Count a member that is neither an image nor a text."""
        ending = ending if ending in self.others or len(self.others) < MAX_OTHERS else ".*"
        entry = self.others.setdefault(ending, [0, 0, name])
        entry[0] += 1
        entry[1] += nbytes
        if is_dotted:
            self.num_dotted += 1
            if len(self.dotted) < 3:
                self.dotted.append(name)

    def samples(self, uri: str, unread: Unread) -> Iterator[Sample]:
        """The sample, and a rejected one for each further image; nothing if a corrupt span took a part of it."""
        if not self.is_complete and self.beside_corrupt:
            return
        for index, sample in enumerate(self.images):
            if index:
                sample.problem = Reject("duplicate_key", f"a second image of {self.key[:200]!r}")
            else:
                self.texts.describe(sample)
            yield sample
        is_named = not self.images and (self.num_dotted > 0 or self.has_text)
        if is_named:
            problem = self.texts.problem if self.has_text else None
            if problem is None or not problem.detail.startswith("img2dataset"):
                problem = Reject("bad_metadata", self._describe_no_image())
            yield Sample(self.key, uri, self.offset, self.nbytes, problem=problem)
        for ending, (count, nbytes, name) in ({} if is_named else self.others).items():
            unread.add(name, nbytes, kind=BESIDE if self.images else LOST, ending=ending, count=count)

    def _describe_no_image(self) -> str:
        if self.num_dotted:
            more = f" and {self.num_dotted - 1} more" if self.num_dotted > 1 else ""
            return (
                f"no image beside {self.first[:200]!r}; a WebDataset key ends at the first dot: put no other dot "
                f"into an image's name, or set data.layout.key_end to last_dot (here {self.dotted[0][:100]!r}{more})"
            )
        detail = f"no image beside {self.first[:200]!r}"
        if self.others:
            detail += f"; {', '.join(self.others)} is no ending of an image (data.layout.image_extensions)"
        return detail

    def to_json(self) -> Json:
        """The group as a JSON object."""
        texts = self.texts
        return {
            "group": [self.key, self.pair, self.first, self.offset, self.nbytes, self.beside_corrupt],
            "images": [
                [sample.key, sample.uri, sample.offset, sample.nbytes, sample.size, _problem_to_json(sample.problem)]
                for sample in self.images
            ],
            "extensions": sorted(self.extensions),
            "texts": [
                texts.txt_captions,
                texts.json_captions,
                texts.labels,
                texts.origin,
                _problem_to_json(texts.problem),
            ],
            "others": [self.others, self.dotted, self.num_dotted],
        }

    @classmethod
    def from_json(cls, tree: Json) -> Self:
        """The group that `to_json` wrote."""
        key, pair, first, offset, nbytes, beside_corrupt = tree["group"]
        txt_captions, json_captions, labels, origin, problem = tree["texts"]
        others, dotted, num_dotted = tree["others"]
        images = [
            Sample(key, uri, start, length, tuple(size) if size else None, problem=_problem_from_json(reject))
            for key, uri, start, length, size, reject in tree["images"]
        ]
        texts = TextFiles(
            txt_captions,
            json_captions,
            labels=(labels[0], labels[1]),
            origin=(origin[0], origin[1]),
            problem=_problem_from_json(problem),
        )
        extensions = set(tree["extensions"])
        return cls(
            key, pair, first, offset, nbytes, images, extensions, texts, others, dotted, num_dotted, beside_corrupt
        )


class Groups:
    """Groups members to samples: the group being read, and incomplete groups that wait for a member.

    Args:
        uri: of the archive.
        layout: says which members are images and texts, and where a key ends.
    """

    def __init__(self, uri: str, layout: LayoutConfig) -> None:
        self._uri, self._layout = uri, layout
        self._images, self._texts = frozenset(layout.image_extensions), frozenset((*layout.caption_extensions, "json"))
        self._current: Group | None = None
        self._waiting = Waiting(Group)
        self._after_corrupt = False
        self.unread = Unread()

    def add(self, member: Member, *, file: IO[bytes], check_image: ImageCheck) -> Iterator[Sample]:
        """Add a member.

        Args:
            member: of the archive.
            file: the archive, open for reading.
            check_image: function that checks an image.

        Yields:
            The samples that are finished with it.
        """
        folder, _, base = member.name.removeprefix("./").lstrip("/").rpartition("/")
        first_stem, _, dotted = base.partition(".")
        stem, dot, extension = (first_stem, "." * bool(dotted), dotted)
        if self._layout.key_end == "last_dot" and first_stem:
            stem, dot, extension = base.rpartition(".") if dotted else (base, "", "")
        extension = extension.lower()
        if not dot and base and is_image(_read(file, member, MAGIC_BYTES)):  # an image without an ending
            stem, extension = base, "image"
        elif not stem or not dot:  # not part of a sample by WebDataset's rule: README, .hidden, ._resource
            self.unread.add(to_text(member.name), member.nbytes)
            return
        key = to_text(posixpath.join(folder, stem))
        pair = _pair_key(key)
        is_image_file = extension in self._images or extension == "image"
        kind = f"image/{extension}" if is_image_file else extension
        group = self._current
        if group is None or group.pair != pair or (group.is_complete and kind in group.extensions):
            yield from self._close()
            group = self._current = self._waiting.pop(pair) or Group(
                key, pair, to_text(member.name), member.offset, member.nbytes
            )
        group.beside_corrupt |= self._after_corrupt
        self._after_corrupt = False
        if is_image_file:
            group.key = key
            group.extensions.add(kind)
            group.images.append(_image_sample(self._uri, key, member, file=file, check_image=check_image))
        elif extension in self._texts:
            group.extensions.add(kind)
            group.texts.add(extension, _read(file, member, MAX_TEXT + 1), self._layout)
        else:
            is_dotted = "." in extension and extension.rpartition(".")[2] in self._images
            ending = f".{extension[:20]}" if extension.count(".") < 2 else ending_of(base)
            group.add_other(ending, to_text(member.name), member.nbytes, is_dotted=is_dotted)

    def mark_corrupt(self) -> None:
        """Mark the group read last and the next one as beside a corrupt span."""
        self._after_corrupt = True
        if self._current:
            self._current.beside_corrupt = True

    def finish(self) -> Iterator[Sample]:
        """Yield the samples of all remaining groups, and the rows of what nothing read."""
        yield from self._close()
        for group in self._waiting.drain():
            yield from group.samples(self._uri, self.unread)
        yield from self.unread.samples(self._uri)

    def close(self) -> None:
        """Remove what was written to temporary files."""
        self._waiting.close()

    def _close(self) -> Iterator[Sample]:
        group, self._current = self._current, None
        if group is None:
            return
        if group.is_complete:
            yield from group.samples(self._uri, self.unread)
        else:
            self._waiting.put(group.pair, group)


def _pair_key(key: str) -> str:
    """The key without a folder that says what its files are: `images/1` and `captions/1` are `*/1`."""
    if "/" not in key:
        return key
    *folders, stem = key.split("/")
    return "/".join([*("*" if name.lower() in IMAGE_FOLDERS | CAPTION_FOLDERS else name for name in folders), stem])


def _read(file: IO[bytes], member: Member, num_bytes: int) -> bytes:
    file.seek(member.offset)
    return file.read(min(num_bytes, member.nbytes))


def _image_sample(uri: str, key: str, member: Member, *, file: IO[bytes], check_image: ImageCheck) -> Sample:
    sample = Sample(key, uri, member.offset, member.nbytes)
    sample.check_image(check_image, lambda num_bytes: _read(file, member, num_bytes))
    return sample


def _problem_to_json(problem: Reject | None) -> list[str] | None:
    return None if problem is None else [problem.reason, problem.detail]


def _problem_from_json(value: list[Any] | None) -> Reject | None:
    return None if value is None else Reject(*value)
