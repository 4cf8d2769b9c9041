"""Contract: untrusted bytes become an RGB image or a rejection with the right reason, and nothing else.

A decompression bomb is rejected by its header; scaled decoding never goes under the size asked for; every mode and
EXIF orientation is decoded as it looks; many threads may decode at once; near byte ranges share a request.
"""

from __future__ import annotations

import io
import random
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from ram_ray.data import fetch
from ram_ray.data.image_parts import count_pixels
from ram_ray.data.images import Limits, decode, header, is_image, open_image, read_bytes
from ram_ray.records import Reject
from tests.data.defects import bomb, image_bytes
from tests.data.layouts import heic

LIMITS = Limits(min_side=16, max_pixels=50_000_000, max_bytes=50_000_000)
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"]


def encode(image: Image.Image, format: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def reason(data: bytes, *, limits: Limits = LIMITS, **options) -> str | None:
    try:
        decode(data, limits=limits, **options)
    except Reject as reject:
        return reject.reason
    return None


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_read(format: str) -> None:
    data = image_bytes(1, format, size=(90, 40))
    assert header(data, limits=LIMITS) == (90, 40)
    assert count_pixels(data) == (3600 if format in ("JPEG", "PNG") else None)
    image = decode(data, limits=LIMITS)
    assert image.mode == "RGB" and image.size == (90, 40)
    with Image.open(io.BytesIO(data)) as truth:
        assert np.array_equal(np.asarray(image), np.asarray(truth.convert("RGB")))
    assert is_image(data[:16]) or format == "BMP", "two letters at the start are not enough"


def test_heic_is_read_upright_and_cut_heic_is_truncated() -> None:
    truth = decode(image_bytes(1, "PNG", size=(90, 40)), limits=LIMITS)
    data = heic(1, size=(90, 40))
    image = decode(data, limits=LIMITS)
    assert header(data, limits=LIMITS) == image.size == (90, 40) and is_image(data[:16])
    assert np.abs(np.asarray(image, float) - np.asarray(truth, float)).mean() < 6
    for length in range(40, len(data) - 24, 61):
        assert reason(data[:length]) == "truncated", (length, len(data))


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"compression": "jpeg"}])
def test_of_a_tiff_the_first_page_is_read(options: dict) -> None:
    pages = [Image.new("RGB", (64, 48), colour) for colour in ((200, 20, 20), (20, 200, 20))]
    data = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:], **options)
    assert np.abs(np.subtract(decode(data, limits=LIMITS).getpixel((9, 9)), (200, 20, 20))).max() < 4


def test_deep_and_real_numbers_of_a_tiff_come_out_as_they_look() -> None:
    grey = np.full((32, 32), 0x8000, np.uint16)
    big = Image.frombytes("I;16B", (32, 32), grey.astype(">u2").tobytes())
    shares = Image.fromarray(np.full((32, 32), 0.5, np.float32))
    for image in (Image.fromarray(grey), big, shares, Image.fromarray(np.full((32, 32), 128, np.float32))):
        value = decode(encode(image, "TIFF"), limits=LIMITS).getpixel((9, 9))
        assert value in ((128,) * 3, (127,) * 3), image.mode


def test_a_jpeg_over_the_limit_is_decoded_at_the_least_fraction_within_it() -> None:
    data = image_bytes(1, size=(400, 300))
    whole = decode(data, limits=LIMITS)
    for max_pixels, size in ((120_000, (400, 300)), (119_999, (200, 150)), (30_000, (200, 150)), (15_000, (100, 75))):
        image = decode(data, limits=Limits(16, max_pixels, 10**6))
        assert image.size == size
        small = np.asarray(whole.resize(size, Image.Resampling.BOX), float)
        assert np.abs(np.asarray(image, float) - small).mean() < 3
    assert reason(data, limits=Limits(16, 14_999, 10**6)) == "too_large", "over 8 times the limit"
    assert decode(data, limits=Limits(16, 30_000, 10**6), size=40).size == (100, 75), "training decodes no more"
    progressive = encode(Image.new("RGB", (400, 300)), "JPEG", progressive=True)
    assert reason(progressive, limits=Limits(16, 119_999, 10**6)) == "too_large", "its coefficients are held whole"
    phone = encode(Image.new("RGB", (16_320, 12_240), (90, 140, 40)), "JPEG", quality=30)  # 200 megapixels
    assert header(phone[:1000], limits=LIMITS) == (16_320, 12_240), "Pillow by itself opens no such image"
    assert open_image(phone, limits=Limits(16, 25_000_000, 10**8 // 2)).size == (4080, 3060)


def test_long_texts_and_profiles_of_a_png_do_not_matter() -> None:
    image = Image.open(io.BytesIO(image_bytes(1, "PNG")))
    packed, international, many = (PngImagePlugin.PngInfo() for _ in range(3))
    packed.add_text("k", "x" * (2 << 20), zip=True)
    international.add_itxt("k", "x" * (2 << 20), zip=True)
    for index in range(80):
        many.add_text(f"k{index}", "x" * (900 << 10), zip=True)
    after = encode(image, "PNG")
    end = after.index(b"IEND") - 4
    text = encode(image, "PNG", pnginfo=packed)
    chunk = text[text.index(b"zTXt") - 4 : text.index(b"IDAT") - 4]
    files = [encode(image, "PNG", pnginfo=info) for info in (packed, international, many)]
    files += [encode(image, "PNG", icc_profile=bytes(30 << 20)), after[:end] + chunk + after[end:]]
    for data in files:
        np.testing.assert_array_equal(np.asarray(decode(data, limits=LIMITS)), np.asarray(image))
        assert header(data, limits=LIMITS) == image.size
    for data in files[:4]:
        assert reason(data[: len(data) - 60]) == "truncated"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("size", [None, 1])
def test_an_image_cut_anywhere_is_truncated(format: str, size: int | None) -> None:
    noise = Image.frombytes("RGB", (64, 48), random.Random(0).randbytes(64 * 48 * 3))
    for options in [{}, {"progressive": True}] if format == "JPEG" else [{}]:
        data = encode(noise, format, **options)
        for length in range(16, len(data) - 24, 97):
            assert reason(data[:length], size=size) == "truncated", (length, len(data))


def test_the_pixels_of_odd_files_are_counted_and_no_file_costs_more_than_its_header() -> None:
    for options in {"progressive": True}, {"comment": b"x" * 60_000, "subsampling": 0}:
        assert count_pixels(encode(Image.new("RGB", (90, 40)), "JPEG", **options)) == 3600
    data = image_bytes(1, "JPEG", size=(90, 40))
    start = data.index(b"\xff\xc0")
    twice = data[:start] + b"\xff\xc0\x00\x11\x08\x10\x00\x10\x00" + bytes(10) + data[start:]
    assert count_pixels(twice) == 4096 * 4096, "the larger of two frames"
    assert count_pixels(data[:start]) is None and count_pixels(b"\xff\xd8") is None
    for many in b"\xff\xd8" + b"\xff\xe0\x00\x02" * 2_000_000, b"\x89PNG\r\n\x1a\n" + bytes(12) * 1_000_000:
        with pytest.raises(Reject, match="over 1,000 (segments|chunks)"):
            count_pixels(many)


def test_bytes_that_are_no_image() -> None:
    rng = random.Random(0)
    for data in (b"", b"text", rng.randbytes(5000), b"RIFF\0\0\0\0WEBPxxxx" + bytes(99)):
        assert reason(data) == "undecodable", data[:20]
    assert reason(image_bytes(1, "PPM")) == "undecodable", "a decoder that is not on the list is never tried"
    whole = image_bytes(3, "PNG")
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(10):
            data[rng.randrange(len(data))] = rng.randrange(256)
        assert reason(bytes(data)) in (None, "undecodable", "truncated", "too_large", "too_small")


def test_limits_are_held_by_the_header_alone() -> None:
    data = bomb()
    started = time.process_time()  # not of the clock: the machine may be busy
    tracemalloc.start()
    assert reason(data) == "too_large"
    assert reason(data, limits=Limits(16, 10**12, 10**9)) == "too_large", "Pillow's own bound stands behind ours"
    assert tracemalloc.get_traced_memory()[1] < 5 << 20 and time.process_time() - started < 1
    tracemalloc.stop()
    webp = bytearray(encode(Image.new("RGB", (20, 20)), "WEBP", lossless=True))
    webp[21:25] = (16382 | 16382 << 14).to_bytes(4, "little")
    assert reason(bytes(webp)) == "too_large"
    data = image_bytes(1, "PNG", size=(40, 30))
    assert reason(data, limits=Limits(31, 10**6, 10**6)) == "too_small"
    assert reason(data, limits=Limits(30, 1200, 10**6)) is None
    assert reason(data, limits=Limits(30, 1199, 10**6)) == "too_large"
    assert reason(data, limits=Limits(30, 1200, len(data) - 1)) == "too_large"


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}])
def test_webp_headers_of_all_three_kinds(options: dict) -> None:
    data = encode(Image.new("RGB", (123, 45)), "WEBP", **options)
    assert header(data[:40], limits=LIMITS) == (123, 45)


@pytest.mark.parametrize("size", [16, 50, 100, 128, 333])
def test_scaled_decoding_stays_at_or_over_the_size(size: int) -> None:
    data = image_bytes(1, size=(1000, 667))
    image = decode(data, limits=LIMITS, size=size)
    assert min(image.size) >= size
    assert min(image.size) < max(2 * size + 2, 667 / 8 + 1), "no larger than it need be; 1/8 is the least there is"
    full = decode(data, limits=LIMITS).resize(image.size, Image.Resampling.BOX)
    assert np.abs(np.asarray(image, float) - np.asarray(full, float)).mean() < 3
    assert decode(image_bytes(1, "PNG", size=(1000, 667)), limits=LIMITS, size=size).size == (1000, 667)


def test_modes_come_out_as_they_look() -> None:
    red = Image.new("RGBA", (32, 32), (255, 0, 0, 255))
    red.paste((0, 0, 0, 0), (0, 0, 16, 32))
    for data in (encode(red, "PNG"), encode(red, "WEBP", lossless=True)):
        image = decode(data, limits=LIMITS)
        assert image.getpixel((4, 4)) == (255, 255, 255) and image.getpixel((20, 4)) == (255, 0, 0)
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([0, 0, 0, 0, 128, 255])
    assert decode(encode(palette, "PNG"), limits=LIMITS).getpixel((0, 0)) == (0, 128, 255)
    assert decode(encode(palette, "PNG", transparency=1), limits=LIMITS).getpixel((0, 0)) == (255, 255, 255)
    cyan = decode(encode(Image.new("CMYK", (32, 32), (255, 0, 0, 0)), "JPEG"), limits=LIMITS).getpixel((9, 9))
    assert np.abs(np.subtract(cyan, (0, 255, 255))).max() < 8
    deep = Image.fromarray(np.full((32, 32), 0x8000, np.uint16))
    assert decode(encode(deep, "PNG"), limits=LIMITS).getpixel((9, 9)) == (128, 128, 128)
    for mode, value in (("1", 255), ("L", 255), ("LA", (255, 255))):
        assert decode(encode(Image.new(mode, (32, 32), value), "PNG"), limits=LIMITS).getpixel((0, 0)) == (255,) * 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.open(io.BytesIO(image_bytes(1, "PNG", size=(64, 32)))), "PNG", exif=exif)
    turns = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90,
    }
    stored = np.asarray(decode(data, limits=LIMITS, exif=False))
    assert stored.shape == (32, 64, 3)
    assert np.array_equal(np.asarray(decode(data, limits=LIMITS)), turns[orientation](stored))


def test_exif_that_cannot_be_read_does_not_reject_the_image() -> None:
    data = encode(Image.new("RGB", (32, 32)), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\xff")
    assert decode(data, limits=LIMITS).size == (32, 32)


def test_threads_decode_side_by_side() -> None:
    batch = [image_bytes(seed, FORMATS[seed % len(FORMATS)]) for seed in range(40)] + [
        b"text",
        image_bytes(1)[:200],
    ] * 5
    alone = [decode(data, limits=LIMITS).tobytes() for data in batch[:40]]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda data: decode(data, limits=LIMITS).tobytes(), batch[:40])) == alone
        assert list(pool.map(reason, batch[40:])) == ["undecodable", "truncated"] * 5


def test_near_ranges_share_a_request() -> None:
    offsets = [0, 1000, 70_000, 200_000, 200_500, 10**9]
    nbytes = [500, 500, 10, 300, 300, 60 << 20]
    assert list(fetch._coalesce([5, 3, 1, 0, 4, 2], offsets, nbytes)) == [
        (0, 1500, [0, 1]),
        (70_000, 70_010, [2]),
        (200_000, 200_800, [3, 4]),
        (10**9, 10**9 + (60 << 20), [5]),
    ]
    side_by_side = [index * (30 << 20) for index in range(5)]
    requests = list(fetch._coalesce(range(5), side_by_side, [30 << 20] * 5))
    assert [indices for _, _, indices in requests] == [[0, 1], [2, 3], [4]], "one request holds 64 MiB at most"


def test_a_missing_image_is_its_own_rejection(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(range(100)))
    uri, gone = str(tmp_path / "a.bin"), str(tmp_path / "b.bin")
    results = read_bytes([uri, gone, uri, uri, f"{gone}.parquet"], [10, 0, 95, 500, 0], [5, 5, 10, 5, 5])
    assert results[0] == bytes(range(10, 15))
    assert [result.reason for result in results[1:] if isinstance(result, Reject)] == [
        "broken_archive",
        "truncated",
        "truncated",
        "broken_archive",
    ]
    assert read_bytes([], [], []) == []
