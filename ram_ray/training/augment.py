"""Training crops: random resized crop, flip, RandAugment and colours, drawn from a generator of each image.

The generator is seeded by run, epoch and key, so an image's crop depends neither on the worker that decodes it
nor on how often the run was resumed. torchvision's RandAugment draws from torch's global state,
so this file applies the operations with Pillow.
"""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from ram_ray.settings.training import AugmentConfig
from ram_ray.training.colour_augment import augment_colours

RATIO = (3 / 4, 4 / 3)  # width by height of a crop


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
    """Apply RandAugment: random operations of strength magnitude / 10 (arXiv 1909.13719).

    Args:
        image: RGB.
        operations: number of operations.
        magnitude: 0 to 10.
        rng: generator of the draws.

    Returns:
        The augmented RGB image, of the same size.
    """
    level = magnitude / 10
    for _ in range(operations):
        image = rng.choice(_OPERATIONS)(image, level if rng.random() < 0.5 else -level)
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


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR)


_OPERATIONS = (
    lambda image, level: image,
    lambda image, level: ImageOps.autocontrast(image),
    lambda image, level: ImageOps.equalize(image),
    lambda image, level: image.rotate(30 * level, resample=Image.Resampling.BILINEAR),
    lambda image, level: ImageOps.solarize(image, int(256 * (1 - abs(level)))),
    lambda image, level: ImageOps.posterize(image, 8 - int(4 * abs(level))),
    lambda image, level: ImageEnhance.Color(image).enhance(1 + 0.9 * level),
    lambda image, level: ImageEnhance.Brightness(image).enhance(1 + 0.9 * level),
    lambda image, level: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * level),
    lambda image, level: _affine(image, (1, 0.3 * level, 0, 0, 1, 0)),
    lambda image, level: _affine(image, (1, 0, 0, 0.3 * level, 1, 0)),
    lambda image, level: _affine(image, (1, 0, 0.45 * level * image.width, 0, 1, 0)),
    lambda image, level: _affine(image, (1, 0, 0, 0, 1, 0.45 * level * image.height)),
)
