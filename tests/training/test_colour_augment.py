"""Contract: colours change with their probability and in their bounds, by a generator alone; without settings nothing
is drawn, so crops of other trainings stay as they are."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image

from ram_ray.settings.synthesis import RepresentConfig
from ram_ray.settings.training import AugmentConfig
from ram_ray.training.augment import train_crop
from ram_ray.training.colour_augment import augment_colours, jitter_colours, turn_hue
from tests.tiny import photo

OFFICIAL = RepresentConfig().train.augment


def _array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def test_without_settings_nothing_is_drawn_or_changed() -> None:
    rng, image = random.Random(3), photo(0)
    state = rng.getstate()
    assert augment_colours(image, AugmentConfig(), rng=rng) is image and rng.getstate() == state


def test_shares_of_grey_and_blurred_crops() -> None:
    image = photo(1)
    grey = [augment_colours(image, AugmentConfig(greyscale=0.2), rng=random.Random(seed)) for seed in range(400)]
    num_grey = sum((_array(crop)[..., 0] == _array(crop)[..., 2]).all() for crop in grey)
    assert 50 < num_grey < 110
    blurred = [augment_colours(image, AugmentConfig(blur=0.5), rng=random.Random(seed)) for seed in range(200)]
    edges = [np.abs(np.diff(_array(crop), axis=1)).sum() for crop in blurred]
    sharp = np.abs(np.diff(_array(image), axis=1)).sum()
    assert 70 < sum(total < sharp for total in edges) < 130 and all(total <= sharp for total in edges)


def test_jitter_is_within_its_strength_and_in_any_order() -> None:
    image = Image.new("RGB", (8, 8), (120, 120, 120))
    for seed in range(100):
        made = _array(jitter_colours(image, (0.4, 0.0, 0.0, 0.0), rng=random.Random(seed)))
        assert 0.6 * 120 - 1 <= made.min() <= made.max() <= 1.4 * 120 + 1
    coloured = photo(2)
    same = jitter_colours(coloured, (0.0, 0.0, 0.0, 0.0), rng=random.Random(0))
    assert np.abs(_array(same) - _array(coloured)).mean() < 2, "the way over hue and back rounds"
    changed = [augment_colours(coloured, OFFICIAL, rng=random.Random(seed)).tobytes() for seed in range(40)]
    assert len(set(changed)) > 30 and changed[7] == augment_colours(coloured, OFFICIAL, rng=random.Random(7)).tobytes()


def test_the_hue_turns_around_the_circle() -> None:
    red = Image.new("RGB", (2, 2), (255, 0, 0))
    third, back = _array(turn_hue(red, 1 / 3))[0, 0], _array(turn_hue(red, -1 / 3))[0, 0]
    assert third.argmax() == 1 and back.argmax() == 2 and third.min() == back.min() == 0


def test_a_crop_of_contrastive_training() -> None:
    image = photo(3, size=(60, 50))
    crops = [train_crop(image, size=24, config=OFFICIAL, seed=f"1/0/key/{view}") for view in range(2)]
    assert crops[0].shape == (24, 24, 3) and (crops[0] != crops[1]).any()


@pytest.mark.parametrize("jitter", [(-0.1, 0, 0, 0), (0.4, 0.4, 0.4, 0.6)])
def test_a_wrong_strength_is_refused(jitter: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="change of hue at most 0.5"):
        AugmentConfig(colour_jitter=jitter)
