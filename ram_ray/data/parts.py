"""Parts of the pictures, by a hash of `key`: what one model leaves out of its training, so that it can judge it.

A model that learnt from a picture's caption gives back what the caption said: what it left unsaid was taught as
absent. So pictures are scored by models that did not see them, and which pictures these are must follow from the key
alone, on every machine and in every stage. The hash is read as a place on a line from 0 to 2^64, and a part is a
stretch of it. (The order of training comes from another, salted hash: a part is spread evenly over its buckets.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from ram_ray.runtime.key_hash import hash_key

_END = 1 << 64


@dataclass(frozen=True)
class Part:
    """The pictures whose place is in `start` .. `end`."""

    start: int
    end: int

    @classmethod
    def number(cls, number: int, parts: int) -> Part:
        """One of `parts` equal parts: the pictures of which `part_of(key, parts)` is `number`.

        Args:
            number: of the part, 0 to `parts` - 1.
            parts: how many there are.
        """
        assert 0 <= number < parts, (number, parts)
        return cls(-(-number * _END // parts), -(-(number + 1) * _END // parts))

    @classmethod
    def share(cls, share: float) -> Part:
        """About this share of all pictures, 0 to 1."""
        return cls(0, int(share * _END))

    def holds(self, key: str) -> bool:
        """Whether a picture belongs to it."""
        return self.start <= place_of(key) < self.end

    def mask(self, keys: Sequence[str]) -> pa.Array:
        """Which keys belong to it, (N,) bools."""
        return pa.array([self.holds(one) for one in keys], pa.bool_())


def place_of(key: str) -> int:
    """Where a key lies, 0 to 2^64 - 1, evenly spread."""
    return hash_key(key, purpose="part")


def part_of(key: str, parts: int) -> int:
    """The number of the part, of so many, that a key belongs to.

    Args:
        key: of an image.
        parts: number of parts.

    Returns:
        0 to `parts` - 1, the same on every machine.
    """
    return place_of(key) * parts >> 64
