"""Folds of the images, by a hash of `key`: a model leaves a fold out of its training, and scores it afterwards.

A model that was trained on an image's caption repeats it: a tag that the caption does not mention was a negative. So
images are scored by models that were not trained on them. Which images these are follows from the key alone, on every
machine and in every stage. The hash is a number from 0 to 2^64 - 1, and a fold is a range of it. (The order of training
comes from a hash with another salt, so a fold is spread evenly over its buckets.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from ram_ray.runtime.key_hash import hash_key

_END = 1 << 64


@dataclass(frozen=True)
class Fold:
    """The images whose hash is in the range from `start` to `end`, without `end`."""

    start: int
    end: int

    @classmethod
    def of_index(cls, index: int, num_folds: int) -> Fold:
        """The fold with this index, of `num_folds` equal folds: the images whose `fold_index` is `index`.

        Args:
            index: 0 to `num_folds` - 1.
            num_folds: number of folds.

        Returns:
            The fold.
        """
        assert 0 <= index < num_folds, (index, num_folds)
        return cls(-(-index * _END // num_folds), -(-(index + 1) * _END // num_folds))

    @classmethod
    def of_share(cls, share: float) -> Fold:
        """A fold with a share of all images.

        Args:
            share: 0 to 1; the fold has about this share of the images.

        Returns:
            The fold; that of a larger share contains that of a smaller share.
        """
        return cls(0, int(share * _END))

    @property
    def share(self) -> float:
        """The share of all images that the fold has, about."""
        return (self.end - self.start) / _END

    def contains(self, key: str) -> bool:
        """Whether an image belongs to the fold.

        Args:
            key: key of the image.

        Returns:
            True if it does, the same on every machine.
        """
        return self.start <= fold_hash(key) < self.end

    def mask(self, keys: Sequence[str]) -> pa.Array:
        """Which images belong to the fold.

        Args:
            keys: keys of N images.

        Returns:
            (N,) bools.
        """
        return pa.array([self.contains(key) for key in keys], pa.bool_())


def fold_hash(key: str) -> int:
    """The hash that decides to which fold an image belongs.

    Args:
        key: key of the image.

    Returns:
        0 to 2^64 - 1, evenly spread.
    """
    return hash_key(key, purpose="part")


def fold_index(key: str, num_folds: int) -> int:
    """The index of the fold that a key belongs to.

    Args:
        key: key of an image.
        num_folds: number of folds.

    Returns:
        0 to `num_folds` - 1, the same on every machine.
    """
    return fold_hash(key) * num_folds >> 64
