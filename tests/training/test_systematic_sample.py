"""Contract: a row is drawn as often as its weight says, and the same rows for the same seed."""

from __future__ import annotations

import numpy as np

from ram_ray.training.systematic_sample import systematic_sample


def test_rows_are_drawn_in_proportion_to_their_weight() -> None:
    weights = [0.25] * 8 + [1.0] * 2
    seen = np.zeros(10)
    for epoch in range(200):
        indices = systematic_sample(weights, seed=f"0/{epoch}")
        counts = np.bincount(indices, minlength=10)
        assert len(indices) == 10 and counts[8:].min() >= 2 and counts[:8].max() <= 1
        seen += counts / 200
    np.testing.assert_allclose(seen, np.array(weights) * 10 / 4, atol=0.12)
    assert systematic_sample(weights, seed="a") == systematic_sample(weights, seed="a")
    assert systematic_sample([1.0], seed="a") == [0]
    assert systematic_sample([0.5] * 7, seed="b") == list(range(7)), "equal weights: each row once"
