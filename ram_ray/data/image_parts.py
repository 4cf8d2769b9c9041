"""The parts of an image file: segments, scans, chunks, blocks and strips, counted before anything is decoded.

Pillow and its libraries take time and memory for each part, however small it is: a JPEG of 3 MB can have 200,000 scans
over all its pixels, which take minutes, a TIFF of 15 MB two million strips, and all strips of a TIFF can be the same
bytes. Files that people make have far fewer than the limits here.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from ram_ray.records import Reject

JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
MAX_PARTS = 1000  # segments of a JPEG, chunks of a PNG before its pixels (`count_pixels`), tags of a TIFF
MAX_SCANS = 100  # of a JPEG; encoders write up to about 15
MAX_FILL = 250_000  # bytes that are outside of a JPEG's segments
MAX_EXIF = 1_000_000  # bytes, whose numbers become objects of Python; a camera writes at most 64 kB
MAX_BLOCKS = 100_000  # chunks of a PNG, blocks of a GIF before its pixels, strips or tiles of a TIFF
MAX_RLE_BYTES, MAX_RLE_PIXELS = 2_000_000, 10_000_000  # of a BMP with run lengths, which Pillow reads in Python
MAX_STRIP_BYTES = 200_000_000  # of all strips of a TIFF, over twice its length: they may be the same bytes
_RLE = (b"\1\0\0\0", b"\2\0\0\0")
_SCAN = b"\xff\xda"
_END = 0xD9
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")  # those that have a length, and the start and the end
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"II\0*", b"MM*\0")  # and what Pillow takes for one
_STRIPS, _STRIP_BYTES = (273, 324), (279, 325)  # tags of a TIFF
_TEXTS = (1, 2, 7)  # types of a TIFF's tags that Pillow keeps as bytes
_SIZES = {3: "H", 4: "I", 16: "Q"}


def check_parts(data: bytes, *, is_whole: bool = True) -> None:
    """Check that an image file has no more parts than can be read in a moment.

    Args:
        data: the file.
        is_whole: whether it is the whole file, and not its beginning.

    Raises:
        Reject: undecodable, with what there is too much of.
    """
    if data.startswith(JPEG):
        next((kind for kind, _ in _segments(data) if kind == _SCAN[1]), None)
        if data.count(_SCAN) > MAX_SCANS and count_scans(data) > MAX_SCANS:  # there may be more in other parts
            raise Reject("undecodable", f"over {MAX_SCANS} scans")
    elif data.startswith(PNG):
        _check_chunks(data)
    elif data.startswith(b"GIF8"):
        _check_blocks(data)
    elif data.startswith(b"BM"):
        _check_run_lengths(data)
    elif data.startswith(_TIFF):
        _check_tags(data, order="<" if data[:1] == b"I" else ">", is_big=b"+" in data[2:4], is_whole=is_whole)


def count_scans(data: bytes) -> int:
    """Count the scans of a JPEG, without those of images inside its metadata or behind its end.

    Args:
        data: the whole file, or its beginning.

    Returns:
        Their number.

    Raises:
        Reject: undecodable, if there are too many other parts.
    """
    return sum(kind == _SCAN[1] for kind, _ in _segments(data))


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """(kind, position of its length) of the segments of a JPEG, to its end."""
    position, in_pixels, fill, exif = 2, False, 0, 0
    for _ in range(MAX_PARTS):
        end = len(data) if in_pixels else min(len(data), position + MAX_FILL + 2)
        found = _MARKER.search(data, position, end)
        if found is None and end < len(data):
            raise Reject("undecodable", f"over {MAX_FILL:,} bytes between its segments")
        if found is None or found[1][0] == _END:
            return
        kind, start = found[1][0], found.end()
        length = int.from_bytes(data[start : start + 2])
        fill += 0 if in_pixels else found.start() - position
        exif += length if data.startswith(b"Exif\0", start + 2) else 0
        if fill > MAX_FILL:
            raise Reject("undecodable", f"over {MAX_FILL:,} bytes between its segments")
        _check_exif(exif)
        yield kind, start
        in_pixels = kind == _SCAN[1]
        position = start + length
    if position < len(data):
        raise Reject("undecodable", f"over {MAX_PARTS:,} segments")


def _check_exif(nbytes: int) -> None:
    if nbytes > MAX_EXIF:
        raise Reject("undecodable", f"over {MAX_EXIF:,} bytes of EXIF")


def _check_chunks(data: bytes) -> None:
    position = len(PNG)
    for _ in range(MAX_BLOCKS):
        if position + 8 > len(data):
            return
        length = int.from_bytes(data[position : position + 4])
        if data.startswith(b"eXIf", position + 4):
            _check_exif(length)
        position += 12 + length
    raise Reject("undecodable", f"over {MAX_BLOCKS:,} chunks")


def _check_blocks(data: bytes) -> None:
    """Blocks of extensions, and bytes outside of any, before the first image of a GIF."""
    if len(data) < 13:
        return
    position = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    in_extension = False
    for _ in range(MAX_BLOCKS):
        if position >= len(data) or (not in_extension and data[position] in (0x2C, 0x3B)):
            return
        if in_extension:
            in_extension = data[position] > 0
            position += 1 + data[position]
        else:
            in_extension = data[position] == 0x21
            position += 2 if in_extension else 1
    raise Reject("undecodable", f"over {MAX_BLOCKS:,} blocks before the pixels")


def _check_run_lengths(data: bytes) -> None:
    if len(data) < 34 or int.from_bytes(data[14:18], "little") < 40 or data[30:34] not in _RLE:
        return
    width, height = struct.unpack_from("<ii", data, 18)
    if len(data) > MAX_RLE_BYTES or abs(width * height) > MAX_RLE_PIXELS:
        limit = f"{MAX_RLE_BYTES:,} bytes and {MAX_RLE_PIXELS:,} pixels"
        raise Reject("undecodable", f"a BMP with run lengths may have {limit}")


def _check_tags(data: bytes, *, order: str, is_big: bool, is_whole: bool) -> None:
    """Tags, and strips or tiles, of the first image of a TIFF, or of a BigTIFF."""
    try:
        (start,) = struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", data, 8 if is_big else 4)
        (tags,) = struct.unpack_from(f"{order}{'Q' if is_big else 'H'}", data, start)
        if tags > MAX_PARTS:
            raise Reject("undecodable", f"{tags:,} tags")
        for index in range(tags):
            place = start + (8 + 20 * index if is_big else 2 + 12 * index)
            tag, kind, count = struct.unpack_from(f"{order}HH{'Q' if is_big else 'I'}", data, place)
            if count > MAX_BLOCKS and tag in _STRIPS + _STRIP_BYTES:
                raise Reject("undecodable", f"{count:,} strips or tiles")
            if count > MAX_BLOCKS and kind not in _TEXTS:
                raise Reject("undecodable", f"{count:,} numbers of tag {tag}")
            if tag in _STRIP_BYTES and is_whole and kind in _SIZES:
                sizes = f"{order}{count}{_SIZES[kind]}"
                value, room = place + (12 if is_big else 8), 8 if is_big else 4
                if struct.calcsize(sizes) > room:
                    (value,) = struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", data, value)
                if sum(struct.unpack_from(sizes, data, value)) > 2 * len(data) + MAX_STRIP_BYTES:
                    raise Reject("undecodable", "its strips are much longer than the file")
    except (struct.error, OverflowError):
        return  # cut, which the decoder says


def count_pixels(data: bytes) -> int | None:
    """Read the number of a JPEG's or a PNG's pixels in a tenth of the time that `header` takes.

    Args:
        data: the whole file.

    Returns:
        Width times height, not checked against limits, as decoding does that; the larger number if the file contradicts
        itself. None: `header` has to tell.

    Raises:
        Reject: undecodable, if more parts come before the pixels than in any image: Pillow would read them for seconds.
    """
    pixels = 0
    if data.startswith(JPEG):
        for kind, start in _segments(data):
            if kind == _SCAN[1]:
                return pixels or None
            if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC) and start + 7 <= len(data):
                height, width = struct.unpack_from(">HH", data, start + 3)
                pixels = max(pixels, width * height)
        return None
    if not data.startswith(PNG):
        return None
    position = len(PNG)
    for _ in range(MAX_PARTS):
        if position + 16 > len(data):
            return None
        length, name = struct.unpack_from(">I4s", data, position)
        if name == b"IDAT":
            return pixels or None
        if name == b"IHDR":
            width, height = struct.unpack_from(">II", data, position + 8)
            pixels = max(pixels, width * height)
        position += 12 + length
    raise Reject("undecodable", f"over {MAX_PARTS:,} chunks before the pixels")
