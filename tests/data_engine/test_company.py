"""Contract: a tag among its usual company stands above one among strangers, and no image vouches for itself."""

import numpy as np
import pyarrow as pa
import pytest

from ram_ray.data_engine.company import SMOOTHING, TagCounts, company

SURFBOARD, WAVE, OVEN = 0, 1, 2


def measure(others: list[list[int]], said: list[bool], counts: TagCounts) -> np.ndarray:
    half = len(others) // 2
    chunked = pa.chunked_array([pa.array(part, pa.list_(pa.int32())) for part in (others[:half], others[half:])])
    hashes = np.arange(len(others)).astype(np.uint64)
    return company(chunked, said=np.array(said), hashes=hashes, counts=counts)


def test_usual_company_counts_for_a_tag_and_strangers_against_it():
    others = [[WAVE]] * 90 + [[OVEN]] * 2 + [[]] * 8 + [[WAVE], [OVEN], [WAVE, OVEN], []]
    said = [True] * 100 + [False] * 4
    found = measure(others, said, TagCounts(1_000, {SURFBOARD: 100, WAVE: 120, OVEN: 300}))
    assert (found[:90] > 1).all() and (found[90:92] < -1).all() and (found[92:100] == 0).all()
    assert found[100] == pytest.approx(np.log((81 + SMOOTHING) / (90 * 120 / 1_000 + SMOOTHING)))
    assert found[100] > 1 > -1 > found[101] and found[103] == 0


def test_no_image_vouches_for_itself():
    others = [[WAVE]] + [[]] * 49 + [[WAVE]]
    own, same_part = measure(others, [True] * 50 + [False], TagCounts(500, {SURFBOARD: 50, WAVE: 1}))[[0, -1]]
    assert own == same_part < 0


def test_tags_that_keep_no_company_measure_alike_whether_the_image_has_the_tag_or_not():
    rng = np.random.default_rng(0)
    others = [sorted({int(one) for one in rng.integers(1, 6, 2)}) for _ in range(4_000)]
    said = rng.random(4_000) < 0.5
    counts = TagCounts(4_000, {tag: sum(tag in one for one in others) for tag in range(1, 6)})
    found = measure(others, said.tolist(), counts)
    above = (found[said][:, None] > found[~said][None]).mean() + 0.5 * (found[said][:, None] == found[~said]).mean()
    assert above == pytest.approx(0.5, abs=0.03)


def test_images_with_one_tag_alone():
    assert measure([[], [], []], [True, True, False], TagCounts(3, {})).tolist() == [0, 0, 0]
