"""The one preprocessing for inference: from a path, bytes, a PIL image or an array to the model's input.

    image -> RGB as it is seen -> S x S uint8   `to_square`: CPU work, without torch
                                -> normalised    `preprocess`: on the model's device

The data engine, evaluation, `Predictor`, the command line, batch tagging, HTTP and export all use this module, so an
image has the same scores everywhere. The image is resized to a square by Pillow's bilinear filter, as the released
models do. A JPEG is decoded at its full size first: scaled decoding (JPEG draft) gives other pixels and changes scores.
Only training uses it, and a JPEG of more than `max_pixels`, which could not be decoded otherwise. A square of the
model's size is not changed, so one process can prepare images and another can tag them.

`as_stored` repeats the released models' own code, to compare with their figures: EXIF orientation and transparency are
ignored, and grey of 16 bits is clipped to 8.

Letters: B images, H x W pixels of an image, S pixels a side of the model's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec
import numpy as np
from PIL import Image

from ram_ray.data.colours import as_seen, has_alpha, on_white, premultiplied, upright
from ram_ray.data.images import Limits, open_image
from ram_ray.records import Reject
from ram_ray.settings.data import DataConfig

if TYPE_CHECKING:
    import torch

    from ram_ray.settings.models import ModelConfig

ImageLike = str | Path | bytes | Image.Image | np.ndarray
Images = ImageLike | Sequence[ImageLike]  # one image, several, or a batch array (B, S, S, 3)
LIMITS = DataConfig().limits(min_side=1)  # of a user's own files
# A larger image with transparency is shrunk before it is put on white, which takes a third of the memory: whole, one of
# 50 million pixels would take 600 MB more. The result differs by rounding, at most 2 of 255.
LARGE_PIXELS = 4_000_000


def to_square(image: ImageLike, *, size: int, limits: Limits = LIMITS, as_stored: bool = False) -> np.ndarray:
    """Bring one image to the model's size.

    Args:
        image: a path or URI, the bytes of a file, a PIL image of any mode, or an array uint8 (H, W), (H, W, 3) or
            (H, W, 4): grey, RGB or RGBA.
        size: S, pixels a side.
        limits: limits of files; images that are already decoded are not checked.
        as_stored: ignore EXIF orientation and transparency, as the released models do.

    Returns:
        uint8 (S, S, 3), RGB.

    Raises:
        Reject: if the file or bytes are no usable image.
        ValueError: if a path cannot be read, or `image` is none of these.
    """
    decoded = _decode(image, limits)
    try:
        if as_stored:
            return resize_square(decoded.convert("RGB"), size=size)
        if has_alpha(decoded) and decoded.width * decoded.height > LARGE_PIXELS:
            shrunk = premultiplied(decoded).resize((size, size), Image.Resampling.BILINEAR)
            return np.asarray(upright(on_white(shrunk), decoded))
        return resize_square(as_seen(decoded), size=size)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises nearly anything on bad bytes, of a PIL image as late as this
        raise Reject("undecodable", str(error)) from None


def resize_square(image: Image.Image, *, size: int) -> np.ndarray:
    """Stretch an image to the model's size.

    Args:
        image: RGB, as it is seen.
        size: S, pixels a side.

    Returns:
        uint8 (S, S, 3), RGB.
    """
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def to_squares(images: Images, *, size: int, limits: Limits = LIMITS, as_stored: bool = False) -> np.ndarray:
    """Bring an image or several to the model's size; arguments and errors are those of `to_square`.

    Args:
        images: an image as of `to_square`, a sequence of images, or a batch array uint8 (B, S, S, 3) of the model's
            size.
        size: S, pixels a side.
        limits: limits of files; images that are already decoded are not checked.
        as_stored: ignore EXIF orientation and transparency, as the released models do.

    Returns:
        uint8 (B, S, S, 3), RGB. A batch array of this shape is returned as it is.

    Raises:
        ValueError: also if a batch array has another size or type.
    """
    if isinstance(images, np.ndarray) and images.ndim == 4:
        if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3):
            raise ValueError(
                f"images have shape {images.shape} and type {images.dtype}; "
                f"expected uint8 (B, {size}, {size}, 3), or a list of images"
            )
        return images
    several = images if isinstance(images, Sequence) and not isinstance(images, (str, bytes)) else [images]
    squares = [to_square(image, size=size, limits=limits, as_stored=as_stored) for image in several]
    return np.stack(squares) if squares else np.zeros((0, size, size, 3), np.uint8)


def preprocess(
    images: Images, config: ModelConfig, *, device: torch.device | str = "cpu", as_stored: bool = False
) -> torch.Tensor:
    """Bring images to the model's input; arguments and errors are those of `to_squares`.

    Args:
        images: as of `to_squares`.
        config: configuration of the model: its image size and its normalisation.
        device: device on which the pixels are normalised.
        as_stored: ignore EXIF orientation and transparency, as the released models do.

    Returns:
        Normalised pixels float32 (B, 3, S, S) on `device`.
    """
    import torch

    from ram_ray.models.image_encoder import normalise

    squares = to_squares(images, size=config.image_size, as_stored=as_stored)
    return normalise(torch.from_numpy(np.require(squares, requirements=["C", "W"])).to(device), config.mean, config.std)


def _decode(image: ImageLike, limits: Limits) -> Image.Image:
    """The image in its own mode, without EXIF orientation."""
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))):
            raise ValueError(
                f"an image has shape {image.shape} and type {image.dtype}; use uint8 (H, W), (H, W, 3) or (H, W, 4)"
            )
        return Image.fromarray(image)
    if isinstance(image, bytes):
        return open_image(image, limits=limits)
    if not isinstance(image, (str, Path)):
        raise ValueError(f"an image is a {type(image).__name__}; give a path, bytes, a PIL image or a uint8 array")
    try:
        return open_image(_read(image, limits), limits=limits)
    except Reject as reject:
        raise Reject(reject.reason, f"{image}: {reject.detail}") from None


def _read(path: str | Path, limits: Limits) -> bytes:
    """The bytes of a file, at most one byte more than is allowed.

    A path without a protocol is opened without fsspec, which would give "::" and "*" in its name a meaning.
    """
    try:
        remote = isinstance(path, str) and "://" in path
        with fsspec.open(path, "rb") if remote else open(path, "rb") as file:
            return file.read(limits.max_bytes + 1)
    except MemoryError:
        raise
    except Exception as error:  # each storage has errors of its own
        raise ValueError(f"{path} cannot be read: {error}") from None
