"""The bytes of a batch of images, read from their locations.

Images stay in their files, so every stage fetches them again; the cost is the number of requests. Byte ranges of a
file that are near each other share a request, and requests to an object store run concurrently.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import fsspec

from ram_ray.data.parquet import is_parquet, read_rows
from ram_ray.records import Reject
from ram_ray.runtime.location import locate
from ram_ray.runtime.metrics import count_request, counted_retries

MAX_GAP = 64 << 10  # bytes between two images that are still fetched in one request
MAX_REQUEST = 64 << 20  # bytes of one request


def read_bytes(uris: Sequence[str], offsets: Sequence[int], nbytes: Sequence[int]) -> list[bytes | Reject]:
    """Read the bytes of a batch of images: any mixture of tar members, Parquet rows and whole files.

    Args:
        uris: URI of the file of each image.
        offsets: first byte of each image, or its row number in a Parquet file.
        nbytes: length of each image in bytes.

    Returns:
        For each image, in order, its bytes or the `Reject` (broken_archive, truncated) of an image that is missing or
        not whole.

    Raises:
        OSError: if the storage fails, so that the caller's retry reads the batch again.
    """
    results: list[bytes | Reject] = [Reject("broken_archive", "not read")] * len(uris)
    rows: dict[str, list[int]] = defaultdict(list)
    for index, uri in enumerate(uris):
        rows[uri].append(index)
    ranges: dict[str, list[int]] = {}
    with counted_retries():
        for uri, indices in rows.items():
            if not is_parquet(uri):
                ranges[uri] = indices
                continue
            wanted = {offsets[index] for index in indices}
            values = read_rows(uri, wanted)
            count_request("read", num_bytes=sum(nbytes[index] for index in indices))
            for index in indices:
                missing = Reject("broken_archive", f"{uri} has no row {offsets[index]}")
                results[index] = values.get(offsets[index], missing)
        for index, value in _read_ranges(ranges, offsets, nbytes):
            results[index] = value
    return results


def _read_ranges(
    rows: dict[str, list[int]], offsets: Sequence[int], nbytes: Sequence[int]
) -> Iterator[tuple[int, bytes | Reject]]:
    """(index, bytes) for the rows of each URI; near ranges share a request, and requests run concurrently."""
    requests: dict[int, tuple[fsspec.AbstractFileSystem, list[tuple[str, int, int, list[int]]]]] = {}
    for uri, indices in rows.items():
        fs, path = locate(uri)
        for start, end, covered in _coalesce(indices, offsets, nbytes):
            requests.setdefault(id(fs), (fs, []))[1].append((path, start, end, covered))
    for fs, wanted in requests.values():
        count_request("read", num_bytes=sum(end - start for _, start, end, _ in wanted), requests=len(wanted))
        for (path, start, _, covered), chunk in zip(wanted, _fetch(fs, wanted), strict=True):
            for index in covered:
                if isinstance(chunk, Reject):
                    yield index, chunk
                    continue
                data = chunk[offsets[index] - start : offsets[index] - start + nbytes[index]]
                whole = len(data) == nbytes[index]
                yield index, data if whole else Reject("truncated", f"{len(data)} of {nbytes[index]} bytes in {path}")


def _coalesce(
    indices: Iterable[int], offsets: Sequence[int], nbytes: Sequence[int]
) -> Iterator[tuple[int, int, list[int]]]:
    """(start, end, indices) of the requests that cover the ranges."""
    start = end = -1
    covered: list[int] = []
    for index in sorted(indices, key=lambda index: offsets[index]):
        first, last = offsets[index], offsets[index] + nbytes[index]
        assert first >= 0 and last >= first, (first, last)
        if covered and first - end < MAX_GAP and max(last, end) - start <= MAX_REQUEST:
            end = max(end, last)
            covered.append(index)
            continue
        if covered:
            yield start, end, covered
        start, end, covered = first, last, [index]
    if covered:
        yield start, end, covered


def _fetch(fs: fsspec.AbstractFileSystem, requests: list[tuple[str, int, int, list[int]]]) -> Iterator[bytes | Reject]:
    if not getattr(fs, "async_impl", False):
        yield from _fetch_in_turn(fs, requests)
        return
    paths, starts, ends = ([request[field] for request in requests] for field in range(3))
    for path, answer in zip(paths, fs.cat_ranges(paths, starts, ends, on_error="return"), strict=True):
        if isinstance(answer, FileNotFoundError):
            yield Reject("broken_archive", f"{path} no longer exists")
        elif isinstance(answer, OSError) and "range" in str(answer).lower():
            yield Reject("truncated", f"{path} ends before the image begins")
        elif isinstance(answer, BaseException):
            raise answer
        else:
            yield answer


def _fetch_in_turn(
    fs: fsspec.AbstractFileSystem, requests: list[tuple[str, int, int, list[int]]]
) -> Iterator[bytes | Reject]:
    """For storage without concurrent requests; requests of the same path are adjacent, so they share a file handle."""
    name, file = None, None
    try:
        for path, start, end, _ in requests:
            if path != name:
                if file:
                    file.close()
                name, file = path, None
                with contextlib.suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
                    file = fs.open(path, "rb")
            if file is None:
                yield Reject("broken_archive", f"{path} no longer exists")
                continue
            file.seek(start)
            yield file.read(end - start)
    finally:
        if file:
            file.close()
