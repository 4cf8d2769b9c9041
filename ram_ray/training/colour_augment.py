"""Colour augmentations of contrastive training (SimCLR, StableRep): jitter of colours, greyscale and blur, with Pillow.

As torchvision's ColorJitter: the four changes are made in a random order, each by a factor that is drawn evenly from
1 - strength to 1 + strength; the hue is turned by a share of the circle.
"""

from __future__ import annotations

import random

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from ram_ray.settings.training import AugmentConfig

JITTERED = 0.8  # share of the crops whose colours are changed
BLUR = (0.1, 2.0)  # smallest and largest deviation, in pixels
_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def augment_colours(image: Image.Image, config: AugmentConfig, *, rng: random.Random) -> Image.Image:
    """Change colours, make grey and blur, each with its probability.

    Args:
        image: RGB.
        config: `colour_jitter`, `greyscale` and `blur`; without them nothing is drawn.
        rng: generator of the draws.

    Returns:
        The augmented RGB image, of the same size.
    """
    if config.colour_jitter and rng.random() < JITTERED:
        image = jitter_colours(image, config.colour_jitter, rng=rng)
    if config.greyscale and rng.random() < config.greyscale:
        image = ImageOps.grayscale(image).convert("RGB")
    if config.blur and rng.random() < config.blur:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(*BLUR)))
    return image


def jitter_colours(
    image: Image.Image, strengths: tuple[float, float, float, float], *, rng: random.Random
) -> Image.Image:
    """Change brightness, contrast, saturation and hue in a random order.

    Args:
        image: RGB.
        strengths: largest change of each.
        rng: generator of the draws.

    Returns:
        An RGB image of the same size.
    """
    for index in rng.sample(range(4), 4):
        strength = strengths[index]
        if index == 3:
            image = turn_hue(image, rng.uniform(-strength, strength))
        else:
            image = _ENHANCERS[index](image).enhance(rng.uniform(max(0.0, 1 - strength), 1 + strength))
    return image


def turn_hue(image: Image.Image, share: float) -> Image.Image:
    """Turn the hue of every pixel.

    Args:
        image: RGB.
        share: of the circle, -0.5 to 0.5.

    Returns:
        An RGB image of the same size.
    """
    hue, saturation, value = image.convert("HSV").split()
    turned = np.asarray(hue) + np.uint8(round(share * 255) % 256)  # uint8 wraps around, as the hue does
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")
