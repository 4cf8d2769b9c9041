"""Images: from untrusted bytes to RGB pixels (and, from `ram_ray.data.fetch`, from their location to bytes).

The header is checked before a pixel is decoded: format, bytes, pixels, shorter side. So a decompression bomb of
30,000 x 30,000 pixels in a few hundred bytes costs nothing. Every failure is a `Reject` of this image with one of the
fixed reasons; a broken image is never replaced by an empty one.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, ImageChops, ImageFile, UnidentifiedImageError

from ram_ray.data.fetch import read_bytes
from ram_ray.records import Reject
from ram_ray.settings.data import Limits

__all__ = ["Limits", "as_seen", "check_bytes", "decode", "header", "open_image", "read_bytes"]

PILLOW_PIXELS = 178_956_970  # Pillow opens no image that has more
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM")
_ORIENTATION = 0x0112
MAX_PARTS = 1000  # segments or chunks of a file before its pixels
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def header(data: bytes, *, limits: Limits) -> tuple[int, int]:
    """Read the size of an image from its header, and check it.

    Args:
        data: the first bytes of an image file; if they are too few, the reason is `truncated`.
        limits: limits of sides, pixels and bytes.

    Returns:
        (width, height) in pixels as stored, before EXIF orientation.

    Raises:
        Reject: undecodable, truncated, too_small or too_large.
    """
    check_bytes(len(data), limits=limits)
    if not data:
        raise Reject("undecodable", "zero bytes")
    if _is_webp(data):  # Pillow would want the whole file and room for its canvas first
        size = _webp_size(data)
    else:
        with _open(data, limits) as image:
            size = image.size
    _check_size(size, limits)
    return size


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
    jpeg = data.startswith(b"\xff\xd8")
    if not jpeg and not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return None
    pixels, offset = 0, 2 if jpeg else 8
    for _ in range(MAX_PARTS):
        if offset + 24 > len(data) or (jpeg and data[offset] != 0xFF):
            return None
        if jpeg:
            kind, length = data[offset + 1], 2 + int.from_bytes(data[offset + 2 : offset + 4])
            is_size, is_end = 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC), kind == 0xDA
            height, width = struct.unpack_from(">HH", data, offset + 5)
        else:
            length, name = struct.unpack_from(">I4s", data, offset)
            length, is_size, is_end = length + 12, name == b"IHDR", name == b"IDAT"
            width, height = struct.unpack_from(">II", data, offset + 8)
        if is_end:
            return pixels or None
        if is_size:
            pixels = max(pixels, width * height)
        offset += length
    raise Reject("undecodable", f"over {MAX_PARTS:,} parts before the pixels")


def check_bytes(nbytes: int, *, limits: Limits) -> None:
    """Check the length of an image file.

    Args:
        nbytes: its length.
        limits: limits of sides, pixels and bytes.

    Raises:
        Reject: too_large.
    """
    if nbytes > limits.max_bytes:
        raise Reject("too_large", f"{nbytes:,} bytes; an image may have {limits.max_bytes:,}")


def decode(data: bytes, *, limits: Limits, size: int | None = None, exif: bool = True) -> Image.Image:
    """Decode to RGB as the image is seen (`as_seen`).

    Args:
        data: the whole file.
        limits: limits of sides, pixels and bytes.
        size: if it is set, a JPEG whose shorter side is at least twice `size` is decoded at 1/2, 1/4 or 1/8, so that
            its shorter side stays >= `size`: several times faster, but other pixels than a resize of the whole image.
            For training and checks only; inference prepares images with `ram_ray.data.preprocess`.
        exif: turn the image upright by its EXIF orientation.

    Returns:
        An RGB image; the first frame of an animation.

    Raises:
        Reject: undecodable, truncated, too_small or too_large.
    """
    image = open_image(data, limits=limits, size=size)
    with _reject_errors(data):
        return as_seen(image, exif=exif)


def open_image(data: bytes, *, limits: Limits, size: int | None = None) -> Image.Image:
    """Check and decode without changing mode or orientation.

    Args:
        data: the whole file.
        limits: limits of sides, pixels and bytes.
        size: as of `decode`.

    Returns:
        The image in its own mode; the first frame of an animation.

    Raises:
        Reject: undecodable, truncated, too_small or too_large.
    """
    assert not ImageFile.LOAD_TRUNCATED_IMAGES, "LOAD_TRUNCATED_IMAGES would pass off cut images as whole"
    if _is_webp(data) or not data:
        header(data, limits=limits)
        if struct.unpack_from("<I", data, 4)[0] + 8 > len(data):
            raise Reject("truncated", f"{len(data)} bytes of {struct.unpack_from('<I', data, 4)[0] + 8}")
    check_bytes(len(data), limits=limits)
    image = _open(data, limits)  # the header alone
    _check_size(image.size, limits)
    with _reject_errors(data):
        if size is not None and image.format in ("JPEG", "MPO"):
            image.draft(None, (size, size))  # type: ignore[arg-type]
        image.load()
    return image


def as_seen(image: Image.Image, *, exif: bool = True) -> Image.Image:
    """Convert an image of any mode to RGB as people see it.

    Transparent parts become white, grey of 16 bits keeps its upper 8 bits, and with `exif` the image is turned upright
    by its EXIF orientation.

    Args:
        image: image of any mode, decoded or not.
        exif: turn the image upright by its EXIF orientation.

    Returns:
        An RGB image.
    """
    return upright(_to_rgb(image), image) if exif else _to_rgb(image)


@contextmanager
def _reject_errors(data: bytes) -> Iterator[None]:
    """Turn whatever Pillow raises on bad bytes into a `Reject` of the image; no other code may run inside."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise _rejection(data, error) from None


class _Bytes(io.BytesIO):
    """Bytes that record whether a read asked for more than there are."""

    short = False

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if size is not None and len(data) < size:
            self.short = True
        return data


def _open(data: bytes, limits: Limits) -> Image.Image:
    stream = _Bytes(data)
    try:
        return Image.open(stream, formats=FORMATS)
    except MemoryError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels("too many", limits) from None  # `open` checks them and does not say how many
    except Exception as error:  # as in `_reject_errors`
        raise _rejection(data, error, stream.short) from None


def _rejection(data: bytes, error: Exception, short: bool = False) -> Reject:
    """Truncated if the bytes begin like an image and end too soon, undecodable otherwise.

    `short` means that the header asked for more bytes than there are; while pixels are read this is so for every file.
    """
    detail = "no image that can be read" if isinstance(error, UnidentifiedImageError) else f"{error}"
    ended = "truncated" in detail.lower() or "cannot load" in detail  # the latter: no pixels follow the header
    cut = short or ended or isinstance(error, EOFError)
    return Reject("truncated" if cut and data.startswith(_MAGIC) else "undecodable", detail)


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise _too_many_pixels(f"{width} x {height}", limits)
    if min(width, height) < limits.min_side:
        raise Reject("too_small", f"{width} x {height} pixels; data.min_side is {limits.min_side}")


def _too_many_pixels(pixels: str, limits: Limits) -> Reject:
    max_pixels = min(limits.max_pixels, PILLOW_PIXELS)
    return Reject("too_large", f"{pixels} pixels; an image may have {max_pixels:,} (max_pixels)")


def _is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def _webp_size(data: bytes) -> tuple[int, int]:
    """(width, height) of the canvas, from the first chunk."""
    if len(data) < 30:
        raise Reject("truncated", f"{len(data)} bytes of WebP")
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise Reject("undecodable", f"a WebP that begins with {kind!r}")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey: keep the upper 8, where Pillow would clip
        return image.point(lambda value: value * (1 / 256)).convert("L").convert("RGB")
    if has_alpha(image):
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def has_alpha(image: Image.Image) -> bool:
    """Whether an image may have transparent parts.

    Args:
        image: of any mode.

    Returns:
        True for a mode with alpha, or a colour that stands for transparency.
    """
    if image.mode.startswith("I"):  # 16 bits of grey; a grey that stands for transparency is not applied
        return False
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def premultiplied(image: Image.Image) -> Image.Image:
    """Multiply the colours of an image by their alpha, after which it can be resized without wrong colours.

    Args:
        image: with alpha (`has_alpha`).

    Returns:
        The image in mode RGBa.
    """
    return image if image.mode == "RGBa" else (image if image.mode == "RGBA" else image.convert("RGBA")).convert("RGBa")


def on_white(layer: Image.Image) -> Image.Image:
    """Lay an image on white.

    Args:
        layer: mode RGBa, colours multiplied by alpha.

    Returns:
        An RGB image: colour + (255 - alpha).
    """
    *colours, alpha = layer.split()
    rest = ImageChops.invert(alpha)
    return Image.merge("RGB", [ImageChops.add(colour, rest) for colour in colours])


def upright(rgb: Image.Image, image: Image.Image) -> Image.Image:
    """Turn an image upright.

    Args:
        rgb: the image, or a resized square of it.
        image: the image with its EXIF orientation.

    Returns:
        `rgb`, turned or mirrored.
    """
    if "exif" not in image.info:
        return rgb
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # an EXIF block that cannot be read says nothing; the pixels are whole
        return rgb
    return rgb.transpose(turn) if turn is not None else rgb
