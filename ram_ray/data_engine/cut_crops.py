"""Crops of images: a box in shares of the sides to pixels, cut out and stretched to the square that a model takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ram_ray.data.preprocess import resize_square
from ram_ray.detectors.regions import Box

Corners = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels


class Crops:
    """The crops of a batch of images, each box of an image once. Their pixels are cut when they are needed."""

    def __init__(self, images: list[Image.Image]) -> None:
        self.images = images
        self.corners: list[tuple[int, Corners]] = []  # of each crop: index of the image, and corners in its pixels
        self.is_whole: list[bool] = []
        self._indices: dict[tuple[int, Corners], int] = {}

    def add(self, image: int, box: Box) -> int:
        """Add a crop, and return its index among all crops."""
        width, height = self.images[image].size
        corners = to_pixels(box, (height, width))
        index = self._indices.setdefault((image, corners), len(self.corners))
        if index == len(self.corners):
            self.corners.append((image, corners))
            self.is_whole.append(corners == (0, 0, width, height))
        return index

    def cut(self, indices: Sequence[int], size: int) -> np.ndarray:
        """Cut crops of these indices, each stretched to (`size`, `size`, 3) uint8."""
        crops = (self.corners[index] for index in indices)
        return np.stack([crop(self.images[image], corners, size=size) for image, corners in crops])


def to_pixels(box: Box, size: tuple[int, int]) -> Corners:
    """Convert a box from shares to pixels; each side has at least a pixel.

    Args:
        box: x0, y0, x1, y1 as shares of width and height, 0 to 1.
        size: (height, width) of the image in pixels.

    Returns:
        x0, y0, x1, y1 in pixels.
    """
    height, width = size
    x0, y0 = min(int(box[0] * width), width - 1), min(int(box[1] * height), height - 1)
    return x0, y0, max(x0 + 1, min(width, round(box[2] * width))), max(y0 + 1, min(height, round(box[3] * height)))


def crop(image: Image.Image, corners: Corners, *, size: int) -> np.ndarray:
    """Crop an image, and stretch the crop to a square, as images are for the models.

    Args:
        image: RGB.
        corners: x0, y0, x1, y1 in pixels.
        size: pixels a side of the square.

    Returns:
        (size, size, 3) uint8.
    """
    return resize_square(image.crop(corners), size=size)  # not `resize(box=)`, which mixes in pixels around the box
