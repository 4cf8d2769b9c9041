"""Contract: which part an image belongs to follows from its key alone; parts are even, and together they are all."""

from collections import Counter

import pytest

from ram_ray.data.parts import Part, hash_of_part, part_index

KEYS = [f"shard-{index % 7}/{index}" for index in range(5000)]


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_every_key_is_in_one_part_and_parts_are_even(parts):
    numbers = [part_index(key, parts) for key in KEYS]
    for number in range(parts):
        part = Part.number(number, parts)
        assert part.mask(KEYS).to_pylist() == [part_number == number for part_number in numbers]
    sizes = Counter(numbers)
    assert set(sizes) == set(range(parts)) and max(sizes.values()) < 1.15 * len(KEYS) / parts


def test_borders_belong_to_one_part():
    for parts in (3, 7, 13):
        stretches = [Part.number(number, parts) for number in range(parts)]
        for number, part in enumerate(stretches):
            assert part.start * parts >> 64 == (part.end - 1) * parts >> 64 == number
        assert stretches[0].start == 0 and stretches[-1].end == 1 << 64
        for part, following in zip(stretches, stretches[1:], strict=False):
            assert part.end == following.start


def test_a_larger_share_contains_a_smaller_one():
    small, large = (set(filter(Part.share(share).holds, KEYS)) for share in (0.02, 0.1))
    assert small < large and len(small) == pytest.approx(100, abs=35) and len(large) == pytest.approx(500, abs=70)


def test_the_hash_is_the_same_on_every_machine():
    assert hash_of_part("photos/1") == 2307252775490694650
