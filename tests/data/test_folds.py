"""Contract: which fold an image belongs to follows from its key alone; folds are even, and together they are all."""

from collections import Counter

import pytest

from ram_ray.data.folds import Fold, fold_hash, fold_index

KEYS = [f"shard-{index % 7}/{index}" for index in range(5000)]


@pytest.mark.parametrize("num_folds", [1, 2, 3, 7])
def test_every_key_is_in_one_fold_and_folds_are_even(num_folds):
    numbers = [fold_index(key, num_folds) for key in KEYS]
    for number in range(num_folds):
        fold = Fold.of_index(number, num_folds)
        assert fold.mask(KEYS).to_pylist() == [key_fold == number for key_fold in numbers]
    sizes = Counter(numbers)
    assert set(sizes) == set(range(num_folds)) and max(sizes.values()) < 1.15 * len(KEYS) / num_folds


def test_borders_belong_to_one_part():
    for num_folds in (3, 7, 13):
        folds = [Fold.of_index(number, num_folds) for number in range(num_folds)]
        for number, fold in enumerate(folds):
            assert fold.start * num_folds >> 64 == (fold.end - 1) * num_folds >> 64 == number
        assert folds[0].start == 0 and folds[-1].end == 1 << 64
        for fold, following in zip(folds, folds[1:], strict=False):
            assert fold.end == following.start


def test_a_larger_share_contains_a_smaller_one():
    small, large = (set(filter(Fold.of_share(share).contains, KEYS)) for share in (0.02, 0.1))
    assert small < large and len(small) == pytest.approx(100, abs=35) and len(large) == pytest.approx(500, abs=70)


def test_the_hash_is_the_same_on_every_machine():
    assert fold_hash("photos/1") == 2307252775490694650
