"""Training crops: random resized crop, flip, RandAugment and colours, drawn from a generator of each image.

The generator is seeded by run, epoch and key, so an image's crop depends neither on the worker that decodes it
nor on how often the run was resumed. torchvision's RandAugment draws from torch's global state,
so this file applies the operations with Pillow.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from ram_ray.settings.training import AugmentConfig
from ram_ray.training.colour_augment import augment_colours

RATIO = (3 / 4, 4 / 3)  # width by height of a crop
GREY = (128, 128, 128)

Operation = Callable[[Image.Image, float, int], Image.Image]  # image, level from 0 to 1, direction 1 or -1


def train_crop(image: Image.Image, *, size: int, config: AugmentConfig, seed: int | str) -> np.ndarray:
    """Crop an image at random, and augment the crop for training.

    Args:
        image: RGB.
        size: S, pixels a side.
        config: crop scale, flips, RandAugment, and changes of colour.
        seed: seed of all draws.

    Returns:
        (S, S, 3) uint8.
    """
    rng = random.Random(seed)
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=_crop_box(image.size, config.crop_scale, rng))
    if config.flip and rng.random() < 0.5:
        image = ImageOps.mirror(image)
    if config.randaugment:
        image = randaugment(image, *config.randaugment, rng=rng)
    return np.asarray(augment_colours(image, config, rng=rng))


def randaugment(image: Image.Image, operations: int, magnitude: int, *, rng: random.Random) -> Image.Image:
    """Apply RandAugment (arXiv 1909.13719) as the official training: each drawn operation is applied half of the time.

    At magnitude 5 brightness and sharpness have factor 1, which changes nothing, as there.

    Args:
        image: RGB.
        operations: number of operations that are drawn, with replacement.
        magnitude: 0 to 10.
        rng: generator of the draws.

    Returns:
        The augmented RGB image, of the same size.
    """
    for operation in rng.choices(list(OPERATIONS.values()), k=operations):
        if rng.random() < 0.5:
            image = operation(image, magnitude / 10, rng.choice((-1, 1)))
    return image


def _crop_box(
    size: tuple[int, int], scale: tuple[float, float], rng: random.Random
) -> tuple[float, float, float, float]:
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, top, left + w, top + h
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _enhance(factory: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    """Blend with black or a blurred image: factor 0.1 at level 0, 1.9 at level 1."""
    return lambda image, level, sign: factory(image).enhance(0.1 + 1.8 * level)


def _affine(matrix: Callable[[float], tuple[float, ...]]) -> Operation:
    """Move each pixel by a matrix of the signed level; what comes in from outside is grey."""
    return lambda image, level, sign: image.transform(
        image.size,
        Image.Transform.AFFINE,
        matrix(sign * level),
        resample=Image.Resampling.BILINEAR,
        fillcolor=GREY,
    )


def _rotate(image: Image.Image, level: float, sign: int) -> Image.Image:
    return image.rotate(30 * sign * level, resample=Image.Resampling.BILINEAR, fillcolor=GREY)


# The official ten, without solarize, posterize, colour and contrast. A shift is at most 10 pixels at any resolution.
OPERATIONS: dict[str, Operation] = {
    "identity": lambda image, level, sign: image,
    "autocontrast": lambda image, level, sign: ImageOps.autocontrast(image),
    "equalize": lambda image, level, sign: ImageOps.equalize(image),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear_x": _affine(lambda level: (1, 0.3 * level, 0, 0, 1, 0)),
    "shear_y": _affine(lambda level: (1, 0, 0, 0.3 * level, 1, 0)),
    "translate_x": _affine(lambda level: (1, 0, 10 * level, 0, 1, 0)),
    "translate_y": _affine(lambda level: (1, 0, 0, 0, 1, 10 * level)),
    "rotate": _rotate,
}
