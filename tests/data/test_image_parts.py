"""Contract: an image file whose parts would take seconds or hundreds of megabytes is rejected before it is decoded; no
file that encoders write is.
"""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ram_ray.data.image_parts import MAX_BLOCKS, MAX_PARTS, MAX_SCANS, check_parts, count_scans
from ram_ray.data.images import Limits, decode, header
from ram_ray.records import Reject

LIMITS = Limits(8, 1_000_000, 20_000_000)


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, format, **options)
    return data.getvalue()


def noise(width: int = 64, height: int = 48, mode: str = "RGB") -> Image.Image:
    return Image.frombytes("RGB", (width, height), random.Random(0).randbytes(3 * width * height)).convert(mode)


def repeated_scans(number: int) -> bytes:
    """A progressive JPEG whose last scan is there so many times more."""
    data = encode(noise(mode="L"), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + number * last + data[-2:]


def hidden_scans(number: int) -> bytes:
    """The same behind a marker without a length, which could be taken for a long segment."""
    data = repeated_scans(number)
    start = data.rindex(b"\xff\xda", 0, len(data) - 60 * number)
    return data[:start] + b"\xff\x01" + data[start:]


def exif_segment(nbytes: int) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", nbytes) + b"Exif\0\0II*\0" + bytes(nbytes - 12)


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(before: bytes = b"", after: bytes = b"") -> bytes:
    data = encode(noise(), "PNG")
    return data[:33] + before + data[33:-12] + after + data[-12:]


def gif(before: bytes) -> bytes:
    data = encode(noise(mode="P"), "GIF")
    start = 13 + 3 * 256
    return data[:start] + before + data[start:]


def jpeg(before: bytes) -> bytes:
    data = encode(noise(), "JPEG")
    return data[:2] + before + data[2:]


def tiff(
    strips: int, *, tags: int = 0, big: bool = False, more: tuple[tuple[int, int, int], ...] = (), strip_bytes: int = 8
) -> bytes:
    """Rows of 8 pixels, one a strip, all in the same place. `more`: tags, their types and counts."""
    pixels = bytes(range(8))
    lists = struct.pack(f"<{strips}I", *[16] * strips) + struct.pack(f"<{strips}I", *[strip_bytes] * strips)
    start = 16 + len(pixels)
    entries = [(256, 8), (257, strips), (258, 8), (259, 1), (262, 1), (273, start), (277, 1), (278, 1)]
    entries += [(279, start + 4 * strips), *((40_000 + number, 1) for number in range(tags))]
    counts = {273: strips, 279: strips} | {tag: count for tag, _, count in more}
    kinds = {tag: kind for tag, kind, _ in more}
    entries += [(tag, 16) for tag, _, _ in more]
    pattern = "<HHQQ" if big else "<HHII"
    fields = [struct.pack(pattern, tag, kinds.get(tag, 4), counts.get(tag, 1), value) for tag, value in entries]
    if big:
        head = b"II+\0" + struct.pack("<HHQ", 8, 0, start + len(lists))
        table = struct.pack("<Q", len(fields)) + b"".join(fields) + bytes(8)
    else:
        head = b"II*\0" + struct.pack("<I", start + len(lists)) + bytes(8)
        table = struct.pack("<H", len(fields)) + b"".join(fields) + bytes(4)
    return head + pixels + lists + table


def pages(number: int) -> bytes:
    """A scanned document: pages in JPEG, in strips."""
    page, data = noise(900, 300), io.BytesIO()
    page.save(data, "TIFF", compression="jpeg", save_all=True, append_images=[page] * (number - 1), strip_size=900 * 48)
    return data.getvalue()


def bmp(data: bytes, *, size: tuple[int, int] = (64, 48)) -> bytes:
    palette = bytes(range(256)) * 4
    head = struct.pack("<IiiHHIIiiII", 40, *size, 1, 8, 1, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(data), 0, 0, 54 + 1024) + head + palette + data


@pytest.mark.parametrize(
    ("make", "detail"),
    [
        (lambda: repeated_scans(MAX_SCANS), "over 100 scans"),
        (lambda: repeated_scans(20_000), "over 1,000 segments"),
        (lambda: jpeg(b"\xff\xe1\x00\x02" * MAX_PARTS), "over 1,000 segments"),
        (lambda: hidden_scans(MAX_SCANS), "over 100 scans"),
        (lambda: jpeg(b"\xff" * 300_000), "over 250,000 bytes between its segments"),
        (lambda: jpeg(exif_segment(60_000) * 17), "over 1,000,000 bytes of EXIF"),
        (lambda: png(after=chunk(b"eXIf", bytes(1_000_001))), "over 1,000,000 bytes of EXIF"),
        (lambda: png(before=chunk(b"abCd") * MAX_BLOCKS), "over 100,000 chunks"),
        (lambda: png(after=chunk(b"IDAT") * MAX_BLOCKS), "over 100,000 chunks"),
        (lambda: gif(b"\x21\xfe\x00" * MAX_BLOCKS), "over 100,000 blocks"),
        (lambda: gif(b"\x21\xfe" + b"\x01a" * MAX_BLOCKS + b"\0"), "over 100,000 blocks"),
        (lambda: gif(b"\x01" * MAX_BLOCKS), "over 100,000 blocks"),
        (lambda: tiff(MAX_BLOCKS + 1), "100,001 strips or tiles"),
        (lambda: tiff(MAX_BLOCKS + 1, big=True), "100,001 strips or tiles"),
        (lambda: b"II\0*" + tiff(MAX_BLOCKS + 1)[4:], "100,001 strips or tiles"),
        (lambda: b"MM*\0" + bytes([0, 0, 0, 8, 0xFF, 0xFF]) + bytes(100), "65,535 tags"),
        (lambda: tiff(16, tags=MAX_PARTS), "1,009 tags"),
        (lambda: tiff(16, more=((282, 5, 200_000),)), "200,000 numbers of tag 282"),
        (lambda: bmp(b"\x01\x05" * 1_000_000), "a BMP with run lengths"),
        (lambda: bmp(b"\x01\x05\0\0" * 4000, size=(4000, 4000)), "a BMP with run lengths"),
    ],
)
def test_a_file_of_too_many_parts_is_rejected(make: Callable[[], bytes], detail: str) -> None:
    data = make()
    for read in (header, decode):
        with pytest.raises(Reject, match=detail) as caught:
            read(data, limits=LIMITS)
        assert caught.value.reason == "undecodable"


@pytest.mark.parametrize("big", [False, True])
def test_strips_that_are_longer_than_their_file_are_rejected_where_it_is_whole(big: bool) -> None:
    data = tiff(5000, big=big, strip_bytes=50_000)
    with pytest.raises(Reject, match="its strips are much longer than the file"):
        decode(data, limits=LIMITS)
    assert header(data, limits=LIMITS) == (8, 5000)


def test_an_offset_that_no_file_has_is_a_rejection() -> None:
    for offset in (2**64 - 1, 2**63, 2**63 - 1):
        for read in (header, decode):
            with pytest.raises(Reject):
                read(b"II+\0" + struct.pack("<HHQ", 8, 0, offset) + bytes(100), limits=LIMITS)


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: repeated_scans(MAX_SCANS - 20), (64, 48)),
        (lambda: encode(noise(), "JPEG", progressive=True), (64, 48)),
        (lambda: encode(noise(), "JPEG", icc_profile=random.Random(1).randbytes(2_000_000)), (64, 48)),
        (lambda: encode(noise(), "JPEG", exif=b"Exif\0\0" + encode(noise(), "JPEG") * 9), (64, 48)),
        (lambda: encode(noise(), "JPEG") + random.Random(2).randbytes(16_000_000), (64, 48)),  # a motion photo
        (lambda: png(after=chunk(b"tEXt", b"a\0b") * 1000), (64, 48)),
        (lambda: gif(b"\x21\xfe" + (b"\xff" + b"x" * 255) * 60_000 + b"\0"), (64, 48)),
        (lambda: tiff(5000), (8, 5000)),
        (lambda: tiff(5000, big=True), (8, 5000)),
        (lambda: encode(noise(900, 900), "TIFF", compression="jpeg"), (900, 900)),
        (lambda: pages(25), (900, 300)),
        (lambda: jpeg(b"\xff\xfe\x00\x03a" + bytes(2048) + b"\xff" * 2048), (64, 48)),
        (lambda: jpeg(exif_segment(60_000)), (64, 48)),
        (lambda: bmp(b"\x40\x05\x00\x00" * 48 + b"\x00\x01"), (64, 48)),
    ],
)
def test_files_of_many_parts_that_people_have_are_read(make: Callable[[], bytes], size: tuple[int, int]) -> None:
    assert decode(make(), limits=LIMITS).size == size


def test_only_the_scans_of_the_image_itself_are_counted() -> None:
    plain = encode(noise(), "JPEG")
    assert count_scans(plain) == 1 and count_scans(encode(noise(), "JPEG", progressive=True)) == 10
    assert count_scans(encode(noise(), "JPEG", exif=b"Exif\0\0" + plain)) == 1
    assert count_scans(plain + plain * 200) == 1 and count_scans(plain[:100]) == 0
    check_parts(plain + plain * 200)


def test_no_file_cut_anywhere_is_anything_but_cut() -> None:
    for data in (repeated_scans(2), png(), gif(b""), tiff(16), tiff(16, big=True), bmp(b"\x40\x05" * 48)):
        for length in range(1, min(len(data), 2000)):
            check_parts(data[:length])


def test_a_large_jpeg_of_several_scans_is_not_decoded_at_a_fraction() -> None:
    """Its coefficients are held whole, whether it is progressive or has a scan for each colour."""
    small = Limits(8, 2000, 1_000_000)
    data = encode(noise(), "JPEG")
    assert decode(data, limits=small).size == (32, 24)
    start = data.rindex(b"\xff\xda")
    with pytest.raises(Reject, match="64 x 48 pixels; an image may have 2,000"):
        decode(data[:-2] + data[start:], limits=small)


def test_odd_tags_are_no_lines_of_the_log(tmp_path: Path) -> None:
    data = tiff(16)
    place = data.index(struct.pack("<HHI", 277, 4, 1))
    (tmp_path / "odd.tif").write_bytes(data[:place] + struct.pack("<HHII", 300, 2, 4_000_000, 8) + data[place + 12 :])
    code = f"""
from PIL import Image
from ram_ray.data import images
Image.open({str(tmp_path / "odd.tif")!r}).size
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    silent = code.replace("from ram_ray.data import images", "")
    assert "Tag data" in subprocess.run([sys.executable, "-c", silent], capture_output=True, text=True).stderr
