"""Images of the kinds that are prepared wrongly where two ways to prepare them exist, made in memory."""

from __future__ import annotations

import io

import numpy as np
import pillow_heif
from PIL import Image

from tests.tiny import photo


def encode(image: Image.Image, format: str, **options) -> bytes:
    """A file of an image."""
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def odd_images() -> dict[str, bytes]:
    """File name -> bytes. Some have a twin that looks the same, such as alpha.png and on_white.png."""
    rgb = photo(3, size=(96, 80))
    rotated = Image.Exif()
    rotated[0x0112] = 6
    mask = Image.new("L", rgb.size, 0)
    mask.paste(255, (20, 10, 70, 60))
    alpha, on_white = rgb.convert("RGBA"), Image.new("RGB", rgb.size, (255, 255, 255))
    alpha.putalpha(mask)
    on_white.paste(rgb, (0, 0), mask)
    grey = rgb.convert("L")
    grey_alpha, grey_on_white = grey.convert("LA"), Image.new("L", rgb.size, 255)
    grey_alpha.putalpha(mask)
    grey_on_white.paste(grey, (0, 0), mask)
    palette = rgb.convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    clear = palette.getpixel((0, 0))
    palette_on_white = palette.convert("RGB")
    palette_on_white.paste((255, 255, 255), (0, 0), Image.fromarray(np.asarray(palette) == clear).convert("L"))
    noise = np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)
    large = Image.fromarray(noise).resize((1000, 750), Image.Resampling.BICUBIC)
    upright = rgb.transpose(Image.Transpose.ROTATE_270)
    blank = Image.new("RGB", (40, 40), (255, 255, 255))
    stream = io.BytesIO()
    pillow_heif.from_pillow(rgb).save(stream, format="HEIF", exif=rotated.tobytes())
    heic = stream.getvalue()
    return {
        "rgb.png": encode(rgb, "PNG"),
        "alpha.png": encode(alpha, "PNG"),
        "alpha.webp": encode(alpha, "WEBP", lossless=True),
        "on_white.png": encode(on_white, "PNG"),
        "clear.png": encode(Image.new("RGBA", (40, 40), (0, 0, 0, 0)), "PNG"),
        "white.png": encode(blank, "PNG"),
        "palette.png": encode(palette, "PNG"),
        "palette_transparent.png": encode(palette, "PNG", transparency=clear),
        "palette_on_white.png": encode(palette_on_white, "PNG"),
        "grey_alpha.png": encode(grey_alpha, "PNG"),
        "grey_on_white.png": encode(grey_on_white, "PNG"),
        "grey8.png": encode(grey, "PNG"),
        "grey16.png": encode(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG"),
        "one_bit.png": encode(rgb.convert("1"), "PNG"),
        "exif6.png": encode(rgb, "PNG", exif=rotated),
        "exif6.jpg": encode(rgb, "JPEG", exif=rotated),
        "upright.png": encode(upright, "PNG"),
        "bad_exif.jpg": encode(rgb, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 40),
        "cmyk.jpg": encode(rgb.convert("CMYK"), "JPEG"),
        "two.jpg": encode(rgb, "MPO", save_all=True, append_images=[photo(4)], exif=rotated),
        "animated.gif": encode(blank, "GIF", save_all=True, append_images=[photo(5)]),
        "photo.heic": heic,
        "photo.avif": encode(rgb, "AVIF", exif=rotated),
        "pages.tif": encode(rgb, "TIFF", save_all=True, append_images=[photo(4)]),
        "grey16.tiff": encode(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "TIFF"),
        "photo.jfif": encode(rgb, "JPEG", quality=90),
        "no_ending": encode(rgb, "JPEG", quality=90),
        "large.jpg": encode(large, "JPEG", quality=90),
        "large_grey.jpg": encode(large.convert("L"), "JPEG", quality=90),
    }
