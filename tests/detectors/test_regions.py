"""Contract: a tag's box is where its attention peaks, and every tag of an image gets its own region."""

import numpy as np
import pytest

from ram_ray.detectors.attention import AttentionDetector
from ram_ray.detectors.registry import make_detector
from ram_ray.inference.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(tiny_bundle) -> Predictor:
    return Predictor.from_pretrained(tiny_bundle, device="cpu")


def bump(height: int, width: int, row: float, column: float, spread: float = 1.0) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * spread**2))


def test_the_box_is_around_the_peak_and_not_around_a_second_bump(predictor):
    attention = bump(12, 12, 2, 9) + 0.8 * bump(12, 12, 9, 2)
    (x0, y0, x1, y1), score = AttentionDetector(predictor).box(attention)
    assert x0 < 9.5 / 12 < x1 and y0 < 2.5 / 12 < y1
    assert x0 > 0.4 and y1 < 0.6
    assert 0.3 < score < 0.7


def test_a_box_has_its_least_side_and_stays_inside_the_image(predictor):
    for row, column in ((0, 0), (11, 0), (5, 11)):
        (x0, y0, x1, y1), _ = AttentionDetector(predictor, min_side=0.25).box(bump(12, 12, row, column, 0.3))
        assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
        assert min(x1 - x0, y1 - y0) >= 0.25 - 1e-9


def test_even_attention_is_the_whole_image(predictor):
    box, score = AttentionDetector(predictor).box(np.ones((4, 4)))
    assert box == (0, 0, 1, 1) and score == pytest.approx(1)


def test_a_map_that_is_not_square(predictor):
    (x0, y0, x1, y1), _ = AttentionDetector(predictor).box(bump(4, 16, 1, 13))
    assert x0 > 0.6 and y0 < 0.4


def test_every_tag_of_every_image_gets_a_region_from_a_real_model(predictor):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    ids = [[0, 4], [], [5, 1, 2]]
    detector = make_detector("attention", predictor=predictor)
    detected = detector.detect(images, tags=[["x"] * len(image_ids) for image_ids in ids], tag_ids=ids)
    assert [[region.tag_id for region in regions] for regions in detected] == ids
    assert all(0 < region.score <= 1 for regions in detected for region in regions)


def test_whole_image_finds_no_region(predictor):
    detector = make_detector("whole_image", predictor=predictor)
    assert detector.detect(None, tags=[["dog", "red"], []], tag_ids=[[0, 2], []]) == [[], []]
