"""Contract: hashes of keys never change: parts, training order, samples of crops and captions follow from them.

The expected numbers come from the version in which each of these had a hash of its own.
"""

from __future__ import annotations

import pytest

from ram_ray.data.folds import fold_hash
from ram_ray.data_engine.crops import seeded_hash
from ram_ray.reporting.engine_images import sample_order
from ram_ray.runtime.key_hash import hash_key
from ram_ray.training.rows import to_training_table

KEY = "coco/00000/000000001"


def test_parts_orders_and_samples_are_those_of_earlier_versions() -> None:
    assert fold_hash(KEY) == 1280668025245170583
    assert seeded_hash(KEY, 7) == 10050619339882227954
    assert sample_order(KEY, 7) == 8751668917132115269
    assert (hash_key("a dog"), hash_key("a dog", seed=3) >> 1) == (18303445162860370631, 444690484866318784)
    row = {"key": KEY, "shard": "s", "images": [], "tags": [], "captions": []}
    assert to_training_table([row], seed=7, num_buckets=4)["order"].to_pylist() == [464532506060889958 >> 1]


def test_seeds_purposes_and_byte_orders_are_independent() -> None:
    ways = ({}, {"seed": 1}, {"seed": 2}, {"purpose": "part"}, {"byteorder": "little"})
    values = [hash_key(KEY, **options) for options in ways]  # type: ignore[arg-type]
    assert len(set(values)) == len(ways) and all(0 <= value < 1 << 64 for value in values)
    assert hash_key(KEY) == hash_key(KEY, seed=0, purpose="") == 3324748062879342210


def test_a_seed_under_0_is_no_seed() -> None:
    with pytest.raises(OverflowError):
        hash_key(KEY, seed=-1)
