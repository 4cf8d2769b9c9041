"""Contract: a tag that often co-occurs with the image's tags scores above a tag that does not, and an image does not
support itself."""

import numpy as np
import pyarrow as pa
import pytest

from ram_ray.data_engine.co_occurrence import SMOOTHING, TagCounts, co_occurrence

SURFBOARD, WAVE, OVEN = 0, 1, 2


def measure(others: list[list[int]], mentioned: list[bool], counts: TagCounts) -> np.ndarray:
    half = len(others) // 2
    chunked = pa.chunked_array([pa.array(part, pa.list_(pa.int32())) for part in (others[:half], others[half:])])
    hashes = np.arange(len(others)).astype(np.uint64)
    return co_occurrence(chunked, mentioned=np.array(mentioned), hashes=hashes, counts=counts)


def test_frequent_pairs_score_above_0_and_rare_ones_below():
    others = [[WAVE]] * 90 + [[OVEN]] * 2 + [[]] * 8 + [[WAVE], [OVEN], [WAVE, OVEN], []]
    mentioned = [True] * 100 + [False] * 4
    scores = measure(others, mentioned, TagCounts(1_000, {SURFBOARD: 100, WAVE: 120, OVEN: 300}))
    assert (scores[:90] > 1).all() and (scores[90:92] < -1).all() and (scores[92:100] == 0).all()
    assert scores[100] == pytest.approx(np.log((81 + SMOOTHING) / (90 * 120 / 1_000 + SMOOTHING)))
    assert scores[100] > 1 > -1 > scores[101] and scores[103] == 0


def test_an_image_does_not_support_itself():
    others = [[WAVE]] + [[]] * 49 + [[WAVE]]
    own, same_fold = measure(others, [True] * 50 + [False], TagCounts(500, {SURFBOARD: 50, WAVE: 1}))[[0, -1]]
    assert own == same_fold < 0


def test_independent_tags_score_alike_on_positives_and_negatives():
    rng = np.random.default_rng(0)
    others = [sorted({int(id) for id in rng.integers(1, 6, 2)}) for _ in range(4_000)]
    mentioned = rng.random(4_000) < 0.5
    counts = TagCounts(4_000, {tag: sum(tag in row for row in others) for tag in range(1, 6)})
    scores = measure(others, mentioned.tolist(), counts)
    positive, negative = scores[mentioned][:, None], scores[~mentioned][None]
    auc = (positive > negative).mean() + 0.5 * (positive == negative).mean()
    assert auc == pytest.approx(0.5, abs=0.03)


def test_images_with_a_single_tag():
    assert measure([[], [], []], [True, True, False], TagCounts(3, {})).tolist() == [0, 0, 0]
