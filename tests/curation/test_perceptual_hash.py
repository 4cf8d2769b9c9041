"""Contract: copies of an image that was scaled, compressed, mirrored, framed or written over are near duplicates of it;
other images are not, also if only their colours differ; an image of one colour has no signature."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from ram_ray.curation.lookup import pair_near
from ram_ray.curation.perceptual_hash import SIGNATURE, find_content, make_signature
from tests.tiny import photo

SIZE = (160, 120)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return Image.open(data).convert("RGB")


def write_over(image: Image.Image) -> Image.Image:
    copy = image.copy()
    ImageDraw.Draw(copy).text((8, 100), "SALE", fill="white")
    return copy


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half the size": lambda image: image.resize((80, 60)),
    "a square": lambda image: image.resize((100, 100)),
    "JPEG 50": lambda image: jpeg(image, 50),
    "mirrored": ImageOps.mirror,
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    "a white frame": lambda image: ImageOps.expand(image, 12, "white"),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "text over it": write_over,
}


def signatures(images: list[Image.Image]) -> np.ndarray:
    made = [make_signature(image) for image in images]
    assert all(signature is not None for signature in made)
    return np.frombuffer(b"".join(signature for signature in made if signature), SIGNATURE)


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_found(name: str) -> None:
    images = [photo(seed, size=SIZE) for seed in range(20)]
    pairs = pair_near(signatures([*images, *map(COPIES[name], images)]), max_distance=8)
    found = {(int(left), int(right)) for left, right, _ in zip(*pairs, strict=True)}
    assert found <= {(index, index + 20) for index in range(20)}
    assert len(found) >= 18


def test_other_images_and_other_colours_are_not_near() -> None:
    red, green = Image.new("RGB", (64, 64), (150, 150, 150)), Image.new("RGB", (64, 64), (150, 150, 150))
    ImageDraw.Draw(red).ellipse((10, 20, 50, 60), fill=(230, 20, 20))
    ImageDraw.Draw(green).ellipse((10, 20, 50, 60), fill=(0, 120, 0))
    both = signatures([red, green])
    assert np.bitwise_count(both["coarse"][0] ^ both["coarse"][1]) <= 8
    assert len(pair_near(both, max_distance=8)[0]) == 0
    assert len(pair_near(signatures([red, red]), max_distance=0)[0]) == 1


def test_mirrored_images_are_a_setting() -> None:
    image = photo(3, size=SIZE)
    pair = signatures([image, ImageOps.mirror(image)])
    assert len(pair_near(pair, max_distance=8)[0]) == 1
    assert len(pair_near(pair, max_distance=8, mirrored=False)[0]) == 0


def test_one_colour_has_no_signature() -> None:
    assert make_signature(Image.new("RGB", (50, 40), (10, 200, 30))) is None
    assert make_signature(Image.new("RGB", (1, 1))) is None


def test_a_border_of_one_colour_is_not_content() -> None:
    pixels = np.zeros((100, 80, 3), np.uint8)
    pixels[10:90, 5:60] = np.random.default_rng(0).integers(0, 256, (80, 55, 3))
    assert find_content(pixels) == (5, 10, 60, 90)
    pixels[:, :70] = 0  # too little remains
    assert find_content(pixels) == (0, 0, 80, 100)
