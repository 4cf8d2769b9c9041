"""The bytes of a batch of pictures, from where they lie.

Images never move, so every stage fetches them again; what counts is the number of requests. Places of one file
that lie near each other come in one request, and requests to an object store run side by side.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import fsspec

from ram_ray.data.parquet import read_rows
from ram_ray.records import Reject

MAX_GAP = 64 << 10  # bytes between two pictures that are still fetched in one request
MAX_REQUEST = 64 << 20  # bytes of one request


def read_bytes(uris: Sequence[str], offsets: Sequence[int], nbytes: Sequence[int]) -> list[bytes | Reject]:
    """The bytes of a batch of pictures, order kept: any mixture of tar members, Parquet rows and whole files.

    A picture that is not there, or not whole, is a `Reject` (broken_archive, truncated) in its place only. A
    storage that fails raises, so that the caller's retry takes the batch again.

    Args:
        uris: of the files that pictures lie in.
        offsets: of each picture: its first byte, or in a Parquet file its row.
        nbytes: length of each picture.
    """
    found: list[bytes | Reject] = [Reject("broken_archive", "not read")] * len(uris)
    rows: dict[str, list[int]] = defaultdict(list)
    for place, uri in enumerate(uris):
        rows[uri].append(place)
    ranges: dict[str, list[int]] = {}
    for uri, places in rows.items():
        if not uri.lower().endswith(".parquet"):
            ranges[uri] = places
            continue
        wanted = {offsets[place] for place in places}
        values = read_rows(uri, wanted)
        for place in places:
            found[place] = values.get(offsets[place], Reject("broken_archive", f"{uri} has no row {offsets[place]}"))
    for place, value in _ranges(ranges, offsets, nbytes):
        found[place] = value
    return found


def _ranges(
    rows: dict[str, list[int]], offsets: Sequence[int], nbytes: Sequence[int]
) -> Iterator[tuple[int, bytes | Reject]]:
    """(place, bytes) for the rows of each URI, in as few requests as lie near each other, side by side."""
    requests: dict[int, tuple[Any, list[tuple[str, int, int, list[int]]]]] = {}
    for uri, places in rows.items():
        fs, path = fsspec.url_to_fs(uri)
        for start, end, inside in _coalesce(places, offsets, nbytes):
            requests.setdefault(id(fs), (fs, []))[1].append((path, start, end, inside))
    for fs, wanted in requests.values():
        for (path, start, _, inside), chunk in zip(wanted, _fetch(fs, wanted), strict=True):
            for place in inside:
                if isinstance(chunk, Reject):
                    yield place, chunk
                    continue
                data = chunk[offsets[place] - start : offsets[place] - start + nbytes[place]]
                whole = len(data) == nbytes[place]
                yield place, data if whole else Reject("truncated", f"{len(data)} of {nbytes[place]} bytes in {path}")


def _coalesce(
    places: Iterable[int], offsets: Sequence[int], nbytes: Sequence[int]
) -> Iterator[tuple[int, int, list[int]]]:
    """(start, end, places) of the requests that cover the ranges."""
    start = end = -1
    inside: list[int] = []
    for place in sorted(places, key=lambda place: offsets[place]):
        first, last = offsets[place], offsets[place] + nbytes[place]
        assert first >= 0 and last >= first, (first, last)
        if inside and first - end < MAX_GAP and max(last, end) - start <= MAX_REQUEST:
            end = max(end, last)
            inside.append(place)
            continue
        if inside:
            yield start, end, inside
        start, end, inside = first, last, [place]
    if inside:
        yield start, end, inside


def _fetch(fs: Any, wanted: list[tuple[str, int, int, list[int]]]) -> Iterator[bytes | Reject]:
    if not getattr(fs, "async_impl", False):
        yield from _fetch_in_turn(fs, wanted)
        return
    paths, starts, ends = ([one[field] for one in wanted] for field in range(3))
    for path, answer in zip(paths, fs.cat_ranges(paths, starts, ends, on_error="return"), strict=True):
        if isinstance(answer, FileNotFoundError):
            yield Reject("broken_archive", f"{path} is gone")
        elif isinstance(answer, OSError) and "range" in str(answer).lower():
            yield Reject("truncated", f"{path} ends before the picture begins")
        elif isinstance(answer, BaseException):
            raise answer
        else:
            yield answer


def _fetch_in_turn(fs: Any, wanted: list[tuple[str, int, int, list[int]]]) -> Iterator[bytes | Reject]:
    """For storage without concurrent requests; the requests of one path follow each other, so one handle serves."""
    name, file = None, None
    try:
        for path, start, end, _ in wanted:
            if path != name:
                if file:
                    file.close()
                name, file = path, None
                with contextlib.suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
                    file = fs.open(path, "rb")
            if file is None:
                yield Reject("broken_archive", f"{path} is gone")
                continue
            file.seek(start)
            yield file.read(end - start)
    finally:
        if file:
            file.close()
