"""Images: from untrusted bytes to RGB pixels (and, from `ram_ray.data.fetch`, from their location to bytes).

The header is checked before a pixel is decoded: format, bytes, parts (`image_parts`), pixels, shorter side. So a
decompression bomb of 30,000 x 30,000 pixels in a few hundred bytes costs nothing. Every failure is a `Reject` of this
image with one of the fixed reasons; a broken image is never replaced by an empty one.

A larger JPEG than `max_pixels`, as phones of 108 and 200 megapixels write it, is decoded at 1/2, 1/4 or 1/8, so that
what is decoded is within the limit; no other image is decoded at a fraction, since that changes scores. A JPEG of
several scans, as a progressive one, is not: its coefficients are held whole, whatever the fraction.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from ram_ray.data.colours import as_seen
from ram_ray.data.fetch import read_bytes
from ram_ray.data.image_parts import JPEG, PNG, check_parts, count_scans
from ram_ray.records import Reject
from ram_ray.settings.data import Limits

# Each odd tag of a TIFF has a warning of its own: tens of thousands in the log, and kept in memory.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")

__all__ = ["JPEG", "Limits", "as_seen", "check_bytes", "decode", "header", "open_image", "read_bytes"]

PILLOW_PIXELS = 178_956_970  # Pillow opens no image that has more
FORMATS = ("PNG", "WEBP", "GIF", "BMP", "TIFF")  # that Pillow tells apart; `_open` does so with JPEG, HEIF and AVIF
DRAFTED = 8  # a JPEG may have so many times `max_pixels`
_MAGIC = (JPEG, PNG, b"GIF8", b"BM", b"II*\0", b"MM\0*")
MAGIC_BYTES = 16
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # chunks that hold no pixels
_HEIF_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1", b"avif", b"avis"}
)


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
        size, draft = _webp_size(data), False
    else:
        check_parts(data, is_whole=False)
        image = _open(data, limits)
        size, draft = image.size, _can_be_drafted(image, data, limits)
        image.close()
    _check_size(size, limits, draft=draft)
    return size


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
    check_parts(data)
    image = _open(data, limits)  # the header alone
    _check_size(image.size, limits, draft=_can_be_drafted(image, data, limits))
    try:
        return _load(image, data, scale=_scale(image.size, size, limits))
    except Reject:
        plain = _without_texts(data)
        if len(plain) == len(data):
            raise
    return _load(_open(plain, limits), plain)  # long texts may also follow the pixels of a PNG


def is_image(data: bytes) -> bool:
    """Whether bytes begin like an image in a format that is read; the end of a file's name says nothing certain.

    Args:
        data: the first `MAGIC_BYTES` or more bytes of a file.

    Returns:
        Whether they do.
    """
    return data.startswith(_MAGIC[:3]) or data.startswith(_MAGIC[4:]) or _is_webp(data) or _is_heif(data)


def _can_be_drafted(image: Image.Image, data: bytes, limits: Limits) -> bool:
    """Whether an image over the limit can be decoded at a fraction in bounded memory: a JPEG of one scan."""
    is_over = image.width * image.height > limits.max_pixels
    return is_over and isinstance(image, JpegImageFile) and "progressive" not in image.info and count_scans(data) < 2


def _load(image: Image.Image, data: bytes, *, scale: int = 1) -> Image.Image:
    """Decode an open image, a JPEG at 1 / `scale`."""
    with _reject_errors(data):
        if scale > 1 and isinstance(image, JpegImageFile):
            width, height = image.size
            image.draft(None, (width // scale, height // scale))  # type: ignore[arg-type]
        image.load()
    return image


def _scale(stored: tuple[int, int], size: int | None, limits: Limits) -> int:
    """At which fraction a JPEG is decoded: 1, 2, 4 or 8; at least so that it is within the limits."""
    width, height = stored
    least = next(scale for scale in (1, 2, 4, 8) if -(-width // scale) * -(-height // scale) <= limits.max_pixels)
    if size is None:
        return least
    return max(least, *(scale for scale in (1, 2, 4, 8) if scale == 1 or min(stored) >= scale * size))


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
    """Open an image; a PNG with texts or a profile that are longer than Pillow reads is opened without them."""
    try:
        return _open_whole(data, limits)
    except Reject:
        plain = _without_texts(data)
        if len(plain) == len(data):
            raise
    return _open_whole(plain, limits)


def _open_whole(data: bytes, limits: Limits) -> Image.Image:
    stream = _Bytes(data)
    try:
        if data.startswith(JPEG):
            return JpegImageFile(stream)  # `Image.open` opens no image that has more than `PILLOW_PIXELS`
        return Image.open(stream, formats=_formats(data))
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
    words = ("truncated", "cannot load", "end of file")  # "cannot load": no pixels follow the header
    cut = short or isinstance(error, EOFError) or any(word in detail.lower() for word in words)
    is_part = cut and data.startswith(_MAGIC)
    return Reject("truncated" if is_part or (_is_heif(data) and (cut or _is_cut(data))) else "undecodable", detail)


def _is_cut(data: bytes) -> bool:
    """Whether the last box of HEIC or AVIF is longer than what is there."""
    position = 0
    while position + 8 <= len(data):
        nbytes = int.from_bytes(data[position : position + 4], "big")
        if nbytes < 8:  # 0: to the end; 1: a length of 64 bits, which follows
            return nbytes == 1 and int.from_bytes(data[position + 8 : position + 16], "big") > len(data) - position
        position += nbytes
    return position != len(data)


def _check_size(size: tuple[int, int], limits: Limits, *, draft: bool) -> None:
    width, height = size
    if width * height > limits.max_pixels * (DRAFTED if draft else 1):
        raise _too_many_pixels(f"{width} x {height}", limits, times=DRAFTED if draft else 1)
    if min(width, height) < limits.min_side:
        raise Reject("too_small", f"{width} x {height} pixels; data.min_side is {limits.min_side}")


def _too_many_pixels(pixels: str, limits: Limits, *, times: int = 1) -> Reject:
    max_pixels = limits.max_pixels * times if times > 1 else min(limits.max_pixels, PILLOW_PIXELS)
    allowed = (
        f"a JPEG may have {max_pixels:,} ({times} max_pixels)"
        if times > 1
        else (f"an image may have {max_pixels:,} (max_pixels)")
    )
    return Reject("too_large", f"{pixels} pixels; {allowed}")


def _formats(data: bytes) -> tuple[str, ...]:
    """The formats that bytes can have; the decoder of HEIF is loaded for bytes that begin like it."""
    if not _is_heif(data):
        return FORMATS
    if "HEIF" not in Image.OPEN:
        import pi_heif

        pi_heif.register_heif_opener(thumbnails=False)
    return ("AVIF", "HEIF")


def _is_heif(data: bytes) -> bool:
    """Whether bytes begin as HEIC, HEIF or AVIF do, which share a container."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS


def _without_texts(data: bytes) -> bytes:
    """A PNG without its texts and its colour profile, which Pillow bounds; other bytes as they are."""
    if not data.startswith(PNG):
        return data
    kept, position = [PNG], len(PNG)
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] not in _PNG_TEXTS:
            kept.append(data[position:end])
        position = end
    return b"".join(kept)


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
