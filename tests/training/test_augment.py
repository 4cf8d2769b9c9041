"""Contract: a training crop has the requested size and type and depends only on its seed."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from PIL import Image

from ram_ray.settings.training import AugmentConfig
from ram_ray.training.augment import OPERATIONS, _crop_box, randaugment, train_crop
from tests.tiny import photo

PAPER = AugmentConfig()
PLAIN = AugmentConfig(crop_scale=(1.0, 1.0), flip=False, randaugment=None)


@pytest.mark.parametrize("size", [(48, 40), (500, 10), (10, 500), (1, 1), (3, 1000), (16, 16)])
def test_a_crop_has_the_requested_size_for_any_image_size(size: tuple[int, int]) -> None:
    image = photo(0, size=size)
    for seed in range(20):
        crop = train_crop(image, size=24, config=PAPER, seed=seed)
        assert crop.shape == (24, 24, 3) and crop.dtype == np.uint8


def test_the_same_seed_gives_the_same_crop_and_global_state_does_not_matter() -> None:
    image = photo(1)
    crops = []
    for state in (1, 2):
        random.seed(state)
        np.random.seed(state)
        crops.append([train_crop(image, size=24, config=PAPER, seed=f"7/0/key{n}/0") for n in range(10)])
    np.testing.assert_array_equal(crops[0], crops[1])
    assert len({crop.tobytes() for crop in crops[0]}) == 10, "other seeds, other crops"


def test_the_input_image_is_not_changed() -> None:
    image = photo(2)
    original = image.tobytes()
    for seed in range(20):
        train_crop(image, size=24, config=PAPER, seed=seed)
    assert image.tobytes() == original and image.size == (48, 40)


def test_crop_boxes_lie_inside_and_have_the_requested_share_and_ratio() -> None:
    rng = random.Random(0)
    shares, ratios = [], []
    for _ in range(500):
        left, top, right, bottom = _crop_box((60, 40), (0.2, 1.0), rng)
        assert 0 <= left < right <= 60 + 1e-9 and 0 <= top < bottom <= 40 + 1e-9
        shares.append((right - left) * (bottom - top) / 2400)
        ratios.append((right - left) / (bottom - top))
    assert min(shares) >= 0.2 - 1e-9 and 0.2 < np.mean(shares) < 0.7 and max(shares) > 0.8
    assert min(ratios) >= 0.75 - 1e-9 and max(ratios) <= 4 / 3 + 1e-9 and min(ratios) < 0.85 and max(ratios) > 1.2


def test_an_image_too_long_for_the_scale_is_cropped_in_its_middle() -> None:
    assert _crop_box((500, 10), (1.0, 1.0), random.Random(0)) == (245, 0, 255, 10)


def test_without_augmentation_a_square_image_is_resized() -> None:
    image = photo(3, size=(40, 40))
    crops = [train_crop(image, size=20, config=PLAIN, seed=seed) for seed in range(30)]
    for crop in crops:  # the whole image, or almost (the ratio is drawn)
        assert np.abs(crop.astype(int) - np.asarray(image.resize((20, 20), Image.Resampling.BICUBIC))).mean() < 30


def test_half_of_the_crops_are_flipped() -> None:
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 40, dtype=np.uint8)[None, :, None], (40, 1, 3)))
    config = AugmentConfig(crop_scale=(0.5, 1.0), flip=True, randaugment=None)
    crops = [train_crop(ramp, size=16, config=config, seed=seed).astype(int) for seed in range(200)]
    flipped = sum(crop[:, 0].mean() > crop[:, -1].mean() for crop in crops)
    assert 70 < flipped < 130
    still = AugmentConfig(crop_scale=(0.5, 1.0), flip=False, randaugment=None)
    assert all(
        crop[:, 0].mean() < crop[:, -1].mean()
        for crop in (train_crop(ramp, size=16, config=still, seed=seed).astype(int) for seed in range(50))
    )


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_keeps_size_and_mode_and_acts_more_when_stronger(name: str) -> None:
    image = photo(4, size=(33, 21)).point(lambda value: 40 + value * 0.6)  # room for contrast
    original = np.asarray(image).astype(int)
    neutral = 0.5 if name in ("brightness", "sharpness") else 0.0  # the level at which nothing changes
    changes = {}
    for level, sign in itertools.product((neutral, neutral + 0.1, 1.0), (-1, 1)):
        made = OPERATIONS[name](image, level, sign)
        assert made.size == image.size and made.mode == "RGB"
        changes[level, sign] = np.abs(np.asarray(made).astype(int) - original).mean()
    for sign in (-1, 1):
        changed = [changes[level, sign] for level in (neutral, neutral + 0.1, 1.0)]
        if name == "identity":
            assert not any(changed)
        elif name in ("autocontrast", "equalize"):
            assert changed[0] == changed[1] == changed[2] > 0.5, "they have no strength"
        else:
            assert changed[0] <= 1 and changed[2] > 0.5 and changed[2] > changed[1]


def test_what_comes_in_from_outside_is_grey_and_the_sign_is_the_direction() -> None:
    white = Image.new("RGB", (40, 40), "white")
    left, right = (np.asarray(OPERATIONS["translate_x"](white, 0.5, sign)) for sign in (1, -1))
    assert (left[:, :35] == 255).all() and (left[:, 35:] == 128).all(), "5 pixels, whatever the size"
    assert (right[:, 5:] == 255).all() and (right[:, :5] == 128).all()


def test_operations_are_the_official_ten_and_each_is_applied_half_of_the_time() -> None:
    assert len(OPERATIONS) == 10 and not {"solarize", "posterize", "color", "contrast"} & set(OPERATIONS)
    image, rng = photo(5).point(lambda value: 40 + value * 0.6), random.Random(0)
    made = [randaugment(image, 1, 5, rng=rng) for _ in range(400)]
    unchanged = sum(result.tobytes() == image.tobytes() for result in made)
    # Half are not applied; of the others identity, brightness and sharpness, 3 of 10, change nothing at magnitude 5.
    assert 230 < unchanged < 290  # 260 are expected, with a standard deviation of 10
    assert len({randaugment(image, 2, 5, rng=rng).tobytes() for _ in range(60)}) > 8
