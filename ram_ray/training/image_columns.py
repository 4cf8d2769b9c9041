"""What a batch of training has of its images: crops, read and decoded, or tokens that the stage `encode` stored.

Letters: B rows of a batch, V views of a row, S pixels a side, L image tokens, C their width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from ram_ray.data.images import Limits, decode, read_bytes
from ram_ray.records import Reject, Row
from ram_ray.settings.training import AugmentConfig
from ram_ray.training.augment import train_crop

CODEC = "zstd"  # tokens after a ReLU are mostly zeros: a fifth of their bytes
LEVEL = 1
FETCHED_BYTES = 64 << 20  # of images that a task fetches together, or those of a micro batch if they are more

Locations = Sequence[Sequence[Row]]  # of each row V dicts with uri, offset and nbytes
Contents = list[list[bytes | Reject]]  # of each row the bytes of V images, or why they cannot be read


def read_contents(locations: Locations) -> Contents:
    """Read the bytes of the views of rows.

    Args:
        locations: of B rows.

    Returns:
        B lists of the bytes of a view, or why they cannot be read.
    """
    flat = [location for row in locations for location in row]
    columns = ([location[name] for location in flat] for name in ("uri", "offset", "nbytes"))
    contents = iter(read_bytes(*columns))
    return [[next(contents) for _ in row] for row in locations]


def split_by_size(sizes: Sequence[int], *, limit: int) -> Iterator[range]:
    """Split a sequence into parts whose sizes add up to `limit` at most, or that have a single item.

    Args:
        sizes: of the items.
        limit: of a part.

    Yields:
        The indices of a part, in order.
    """
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and total + size > limit:
            yield range(start, index)
            start, total = index, 0
        total += size
    if sizes:
        yield range(start, len(sizes))


def make_crops(
    contents: Sequence[bytes | Reject], seeds: Sequence[str], *, size: int, limits: Limits, augment: AugmentConfig
) -> tuple[np.ndarray, Reject | None]:
    """Decode the images of a row, and crop each of them at random.

    Args:
        contents: V files, or why they cannot be read.
        seeds: V seeds of the crops.
        size: S.
        limits: limits of sides, pixels and bytes.
        augment: settings of the crops.

    Returns:
        uint8 (V, S, S, 3), zeros for an image that cannot be read; and why the last such image cannot be.
    """
    pixels = np.zeros((len(contents), size, size, 3), dtype=np.uint8)
    rejection = None
    for view, (content, seed) in enumerate(zip(contents, seeds, strict=True)):
        try:
            if isinstance(content, Reject):
                raise content
            image = decode(content, limits=limits, size=size)
        except Reject as reject:
            rejection = reject
            continue
        pixels[view] = train_crop(image, size=size, config=augment, seed=seed)
    return pixels, rejection


def pack_tokens(tokens: np.ndarray) -> bytes:
    """Pack the tokens of a view, losslessly.

    Args:
        tokens: float16 (L, C).

    Returns:
        The bytes.
    """
    return pa.Codec(CODEC, compression_level=LEVEL).compress(np.ascontiguousarray(tokens).tobytes(), asbytes=True)


def unpack_tokens(data: bytes | Reject, shape: tuple[int, int]) -> tuple[np.ndarray, Reject | None]:
    """Unpack the tokens of a view.

    Args:
        data: bytes of `pack_tokens`, or why they cannot be read.
        shape: (L, C).

    Returns:
        float16 (L, C), and why they cannot be read, with zeros.
    """
    if isinstance(data, Reject):
        return np.zeros(shape, np.float16), data
    nbytes = 2 * shape[0] * shape[1]
    values = pa.Codec(CODEC).decompress(data, decompressed_size=nbytes, asbytes=True)
    return np.frombuffer(values, np.float16).reshape(shape), None
