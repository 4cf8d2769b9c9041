"""Whether a tag goes with the other tags of its image: evidence that needs no picture.

A caption speaks of one scene, so its tags keep company: "surfboard" stands with "wave" and hardly with "oven". A tag
that was read wrongly, or put to the wrong picture, stands among strangers. The measure is what naive Bayes makes of the
other tags: the sum over them of the logarithm of how much oftener than by chance they stand beside this one,

    company(image, t) = sum over j of log((n(t, j) + A) / (n(t) n(j) / n + A))

with n(t, j) the images whose captions say both. What the engine added is asked and not heard: it was added because of
the tags beside it, and would vouch for them in turn. A rare pair says little and A draws it towards chance. The rows
are in parts, by the hash of their keys, and each is measured by the images of the other parts: otherwise every pair
that occurs once would vouch for itself. (To leave out each image alone is not enough: it lowers the measure of what is
said a little, and of nothing else, which is enough to tell the two apart.) Where tags keep no company, as in scenes
drawn at random, the measure is noise and `data_engine.doubt` gives it little weight.

Letters: N rows, T tags.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SMOOTHING = 5.0  # A
PARTS = 10


@dataclass(frozen=True)
class TagCounts:
    """How often captions say tags, over all images."""

    images: int
    said: Mapping[int, int]  # tag: images

    def of(self, tags: np.ndarray) -> np.ndarray:
        """Images whose captions say each of these tags.

        Args:
            tags: (N,) int, ids of tags.

        Returns:
            (N,) float64; 0 for a tag that no caption says.
        """
        unique, places = np.unique(tags, return_inverse=True)
        return np.array([self.said.get(int(one), 0) for one in unique], np.float64)[places]


def company(others: pa.ChunkedArray, *, said: np.ndarray, hashes: np.ndarray, counts: TagCounts) -> np.ndarray:
    """The measure of one tag's rows: log of how much oftener than by chance their other tags are said with it, summed.

    Args:
        others: a list of int32 a row: the tags that the image's captions say besides.
        said: (N,) bool, whether they say this one.
        hashes: (N,) uint64, of the keys.
        counts: of all tags, over all images.

    Returns:
        (N,) float64, in nats.
    """
    lists = others.combine_chunks()
    rows = pc.list_parent_indices(lists).to_numpy()
    tags = lists.flatten().to_numpy()
    if not len(tags):
        return np.zeros(len(said))
    part = (hashes % PARTS).astype(np.int64)
    width = int(tags.max()) + 1
    cells = part[rows] * width + tags
    inside = np.bincount(cells[said[rows]], minlength=PARTS * width)  # said with the tag, in each part
    both = inside.reshape(PARTS, width).sum(axis=0)[tags] - inside[cells]
    own = said.sum() - np.bincount(part[said], minlength=PARTS)
    chance = own[part[rows]] * counts.of(tags) / max(counts.images, 1)
    lift = np.log((both + SMOOTHING) / (chance + SMOOTHING))
    return np.bincount(rows, weights=lift, minlength=len(said))
