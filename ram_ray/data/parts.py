"""Parts of the images, by a hash of `key`: a model leaves a part out of its training, and scores it afterwards.

A model that was trained on an image's caption repeats it: a tag that the caption does not mention was a negative. So
images are scored by models that were not trained on them. Which images these are follows from the key alone, on every
machine and in every stage. The hash is a number from 0 to 2^64 - 1, and a part is a range of it. (The order of training
comes from a hash with another salt, so a part is spread evenly over its buckets.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from ram_ray.runtime.key_hash import hash_key

_END = 1 << 64


@dataclass(frozen=True)
class Part:
    """The images whose hash is in the range from `start` to `end`, without `end`."""

    start: int
    end: int

    @classmethod
    def number(cls, number: int, parts: int) -> Part:
        """The part with this number, of `parts` equal parts: the images whose `part_index` is `number`.

        Args:
            number: number of the part, 0 to `parts` - 1.
            parts: number of parts.

        Returns:
            The part.
        """
        assert 0 <= number < parts, (number, parts)
        return cls(-(-number * _END // parts), -(-(number + 1) * _END // parts))

    @classmethod
    def share(cls, share: float) -> Part:
        """A part with a share of all images.

        Args:
            share: 0 to 1; the part has about this share of the images.

        Returns:
            The part; that of a larger share contains that of a smaller share.
        """
        return cls(0, int(share * _END))

    def holds(self, key: str) -> bool:
        """Whether an image belongs to the part.

        Args:
            key: key of the image.

        Returns:
            True if it does, the same on every machine.
        """
        return self.start <= hash_of_part(key) < self.end

    def mask(self, keys: Sequence[str]) -> pa.Array:
        """Which images belong to the part.

        Args:
            keys: keys of N images.

        Returns:
            (N,) bools.
        """
        return pa.array([self.holds(key) for key in keys], pa.bool_())


def hash_of_part(key: str) -> int:
    """The hash that decides to which part an image belongs.

    Args:
        key: key of the image.

    Returns:
        0 to 2^64 - 1, evenly spread.
    """
    return hash_key(key, purpose="part")


def part_index(key: str, parts: int) -> int:
    """The number of the part that a key belongs to.

    Args:
        key: key of an image.
        parts: number of parts.

    Returns:
        0 to `parts` - 1, the same on every machine.
    """
    return hash_of_part(key) * parts >> 64
