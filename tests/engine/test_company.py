"""Contract: a tag among its usual company stands above one among strangers, and no image vouches for itself."""

import numpy as np
import pyarrow as pa
import pytest

from ram_ray.engine.company import SMOOTHING, TagCounts, company

SURFBOARD, WAVE, OVEN = 0, 1, 2


def measure(others: list[list[int]], carried: list[bool], counts: TagCounts) -> np.ndarray:
    half = len(others) // 2
    chunked = pa.chunked_array([pa.array(part, pa.list_(pa.int32())) for part in (others[:half], others[half:])])
    return company(chunked, carried=np.array(carried), counts=counts)


def test_usual_company_counts_for_a_tag_and_strangers_against_it():
    others = [[WAVE]] * 90 + [[OVEN]] * 2 + [[]] * 8 + [[WAVE], [OVEN], [WAVE, OVEN], []]
    carried = [True] * 100 + [False] * 4
    counts = TagCounts(1_000, {SURFBOARD: 100, WAVE: 120, OVEN: 300})
    found = measure(others, carried, counts)
    assert (found[:90] > 1).all() and (found[90:92] < -1).all() and (found[92:100] == 0).all()
    assert found[100] == pytest.approx(np.log((90 + SMOOTHING) / (100 * 120 / 999 + SMOOTHING)))
    assert found[102] == pytest.approx(found[100] + found[101]) and found[103] == 0


def test_an_image_is_left_out_of_its_own_counts():
    others = [[WAVE]] + [[]] * 49 + [[WAVE]]
    counts = TagCounts(500, {SURFBOARD: 50, WAVE: 1, OVEN: 0})
    own, stranger = measure(others, [True] * 50 + [False], counts)[[0, -1]]
    assert own == 0 and stranger > 0


def test_images_with_one_tag_alone():
    assert measure([[], [], []], [True, True, False], TagCounts(3, {})).tolist() == [0, 0, 0]
