"""An image of any mode as people see it: RGB, on white, upright."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageChops

from ram_ray.data.image_parts import MAX_EXIF

_ORIENTATION = 0x0112
_ON_ITS_SIDE = (5, 6, 7, 8)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey: keep the upper 8, where Pillow would clip
        return Image.fromarray((np.asarray(image) // 256).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":  # of 0 to 1, 8 bits or 16 bits, whichever its values need
        values = np.nan_to_num(np.asarray(image))
        scale = next((scale for most, scale in ((1, 255), (255, 1)) if values.max() <= most), 1 / 256)
        return Image.fromarray((values * scale).clip(0, 255).astype(np.uint8)).convert("RGB")
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
    turn = _UPRIGHT.get(_orientation(image))
    return rgb.transpose(turn) if turn is not None else rgb


def size_as_seen(image: Image.Image) -> tuple[int, int]:
    """Compute the size of an image as it is seen; nothing is decoded.

    Args:
        image: the image with its EXIF orientation.

    Returns:
        (width, height) in pixels.
    """
    width, height = image.size
    return (height, width) if _orientation(image) in _ON_ITS_SIDE else (width, height)


def _orientation(image: Image.Image) -> int:
    """EXIF's number of the orientation; 1, upright, without one."""
    if "exif" not in image.info or len(image.info["exif"] or b"") > MAX_EXIF:
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # an EXIF block that cannot be read says nothing; the pixels are whole
        return 1
