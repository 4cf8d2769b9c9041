"""What a shard holds and nothing reads: counted by the ending of its name, one row for each ending.

A file is unread beside an image (a `.cls`, a mask), or it is all that there is of a sample (`0.jp2` with `0.txt`). The
keys of the rows tell which: `#unread-.cls`, `#lost-.jp2`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ram_ray.data.samples import Sample
from ram_ray.records import Reject

LOST, BESIDE = "lost", "unread"
MAX_ENDINGS = 50  # counted by themselves; what comes later is counted together
LINK = " link"  # the ending of links that are not followed


class Unread:
    """Counts the files of a shard that nothing reads."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], list[Any]] = {}  # (kind, ending) -> [files, bytes, name of the first]

    def add(self, name: str, nbytes: int, *, kind: str = BESIDE, ending: str | None = None, count: int = 1) -> None:
        """Count a file.

        Args:
            name: of the file, without its folder if it is long.
            nbytes: length of the file, or of all of them.
            kind: `LOST` if no image of the shard goes with it, else `BESIDE`.
            ending: that it is counted under; None: that of its name.
            count: number of files.
        """
        key = kind, ending_of(name) if ending is None else ending
        if key not in self._counts and len(self._counts) >= MAX_ENDINGS:
            key = kind, ".*"
        entry = self._counts.setdefault(key, [0, 0, name])
        entry[0] += count
        entry[1] += nbytes

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __str__(self) -> str:
        return ", ".join(_describe(ending, entry[0], entry[2]) for (_, ending), entry in self._counts.items())

    def samples(self, uri: str) -> Iterator[Sample]:
        """The rows of the counts.

        Args:
            uri: of the shard.

        Yields:
            A rejected sample for each ending.
        """
        for (kind, ending), (count, nbytes, name) in self._counts.items():
            detail = _describe(ending, count, name) + (
                "" if ending == LINK else "; data.layout.image_extensions and caption_extensions say what is read"
            )
            problem = Reject("unsupported_format", detail)
            yield Sample(f"#{kind}-{ending.strip() or 'no-ending'}", uri, nbytes=nbytes, problem=problem)


def ending_of(name: str) -> str:
    """The ending of a file's name, in lower case: ".db" of "Thumbs.db"; "" if it has none."""
    base = name.rpartition("/")[2]
    if base.startswith("._"):  # what macOS leaves beside each file
        return "._*"
    stem, dot, ending = base.rpartition(".")
    return f".{ending.lower()[:20]}" if dot and stem else ""


def _describe(ending: str, count: int, name: str) -> str:
    plural = "s" if count > 1 else ""
    what = f"link{plural} not followed" if ending == LINK else f"file{plural} {ending or 'without an ending'}"
    return f"{count:,} {what}, such as {name[-200:]!r}"
