"""The signature of an image: a perceptual hash, with a finer hash and mean colours that confirm a match.

The hash is the usual pHash: the image as 32 x 32 grey values, its discrete cosine transform, and of the 8 x 8 lowest
frequencies without the constant one bit each: above their median or not. Scaling, compression and brightness hardly
change it. On its own it is too coarse for millions of images, and it is blind to colour. So a match must be confirmed
by the same bits of the 16 x 16 lowest frequencies, and by the mean colours of a 4 x 4 grid.

A border of one colour is cut off first: an image with a frame has the hash of the image. The hash of the mirrored image
follows from the same transform, since mirroring changes the sign of the odd horizontal frequencies. An image of
nearly one grey has no hash: its bits would be noise.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

SIDE, COARSE, FINE = 32, 8, 16  # pixels of the grey image; frequencies a side of the two hashes
GRID = 4  # cells a side of the mean colours
THUMBNAIL = 128  # pixels a side in which borders are looked for
BORDER_TOLERANCE = 12  # grey levels by which a border may vary
MIN_CONTENT = 0.3  # share of a side that must remain
MIN_CONTRAST = 2.0  # standard deviation of the grey levels
MAX_FINE, MAX_FINE_GREY = 60, 30  # bits of 255, confirming a match; the latter if only one image is grey
MAX_COLOUR = 12.0  # mean difference of Cb and Cr
GREY = 3  # largest Cb and Cr of a grey image

SIGNATURE = np.dtype(
    [
        ("coarse", "<u8"),
        ("fine", "<u8", FINE * FINE // 64),
        ("colour", "i1", 2 * GRID * GRID),  # Cb, then Cr
        ("mirrored_coarse", "<u8"),
        ("mirrored_fine", "<u8", FINE * FINE // 64),
    ]
)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_CHROMA = np.array([[-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]], np.float32)


def make_signature(image: Image.Image) -> bytes | None:
    """Make the signature of an image.

    Args:
        image: RGB, of any size.

    Returns:
        The bytes of a `SIGNATURE`; None for an image of nearly one grey.
    """
    thumbnail = image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX, reducing_gap=2.0)
    small = thumbnail.resize((SIDE, SIDE), Image.Resampling.BOX, box=find_content(np.asarray(thumbnail)))
    signatures, is_flat = sign(np.asarray(small)[None])
    return None if is_flat[0] else signatures[0].tobytes()


def sign(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Make the signatures of images of the size that they are made from.

    Args:
        pixels: uint8 (B, 32, 32, 3), RGB.

    Returns:
        `SIGNATURE` (B,), and bool (B,): whether an image has nearly one grey, so that its signature says nothing.
    """
    rgb = pixels.astype(np.float32)
    grey = rgb @ _LUMA
    frequencies = _cosines() @ grey @ _cosines().T
    mirrored = frequencies * np.where(np.arange(FINE) % 2, -1, 1)
    cells = rgb.reshape(-1, GRID, SIDE // GRID, GRID, SIDE // GRID, 3).mean((2, 4))
    signatures = np.zeros(len(pixels), SIGNATURE)
    for prefix, values in (("", frequencies), ("mirrored_", mirrored)):
        signatures[f"{prefix}coarse"] = _bits(values[:, :COARSE, :COARSE])[:, 0]
        signatures[f"{prefix}fine"] = _bits(values)
    colours = np.moveaxis(cells @ _CHROMA.T, -1, 1)
    signatures["colour"] = np.rint(colours).clip(-127, 127).reshape(len(pixels), -1)
    return signatures, grey.std((1, 2)) < MIN_CONTRAST


def find_content(pixels: np.ndarray) -> tuple[float, float, float, float]:
    """Find the part of an image inside a border of one colour.

    Args:
        pixels: uint8 (H, W, 3).

    Returns:
        (left, upper, right, lower) in pixels; the whole image if too little would remain.
    """
    values = pixels.astype(np.float32)
    top, bottom = _border(values), _border(values[::-1])
    columns = values.transpose(1, 0, 2)
    left, right = _border(columns), _border(columns[::-1])
    height, width = pixels.shape[:2]
    if height - top - bottom < MIN_CONTENT * height or width - left - right < MIN_CONTENT * width:
        return 0.0, 0.0, float(width), float(height)
    return float(left), float(top), float(width - right), float(height - bottom)


def mirror_colours(colours: np.ndarray) -> np.ndarray:
    """The mean colours of mirrored images.

    Args:
        colours: int8 (N, 32), as in `SIGNATURE`.

    Returns:
        int8 (N, 32).
    """
    return colours.reshape(-1, 2, GRID, GRID)[..., ::-1].reshape(len(colours), -1)


def confirm(fine: np.ndarray, colours: np.ndarray, other_fine: np.ndarray, other_colours: np.ndarray) -> np.ndarray:
    """Whether pairs whose coarse hashes match are near duplicates.

    A grey copy of a coloured image has other colours; it must agree more closely in its grey values.

    Args:
        fine: uint64 (N, 4).
        colours: int8 (N, 32).
        other_fine: uint64 (N, 4).
        other_colours: int8 (N, 32).

    Returns:
        bool (N,).
    """
    bits = np.bitwise_count(fine ^ other_fine).sum(1)
    difference = np.abs(colours.astype(np.int16) - other_colours).mean(1)
    is_grey = np.minimum(_strongest(colours), _strongest(other_colours)) <= GREY
    return (bits <= MAX_FINE) & ((difference <= MAX_COLOUR) | (is_grey & (bits <= MAX_FINE_GREY)))


def _strongest(colours: np.ndarray) -> np.ndarray:
    return np.abs(colours.astype(np.int16)).max(1)


@cache
def _cosines() -> np.ndarray:
    """The lowest `FINE` rows of the DCT-II matrix of `SIDE` values, float32."""
    positions, frequencies = np.arange(SIDE), np.arange(FINE)[:, None]
    matrix = np.cos(np.pi * (2 * positions + 1) * frequencies / (2 * SIDE)) * np.sqrt(2 / SIDE)
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)


def _bits(frequencies: np.ndarray) -> np.ndarray:
    """One bit for each frequency but the constant one, which is 0: above the median of the others. uint64 (B, n)."""
    values = frequencies.reshape(len(frequencies), -1)
    bits = values > np.median(values[:, 1:], axis=1, keepdims=True)
    bits[:, 0] = False
    return np.packbits(bits, axis=1, bitorder="little").view("<u8")


def _border(rows: np.ndarray) -> int:
    """How many rows from the first on have one colour; 0 if all do. Most images end the loop at their first row."""
    colour = rows[0].mean(0)
    for index, row in enumerate(rows):
        if np.abs(row - colour).max() > BORDER_TOLERANCE:
            return index
    return 0
