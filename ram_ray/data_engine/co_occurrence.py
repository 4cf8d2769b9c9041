"""Co-occurrence of a tag with the other tags of its image, as a signal for cleaning that needs no pixels.

Captions describe a single scene: "surfboard" occurs with "wave" and hardly with "oven". The score is smoothed pointwise
mutual information, summed over the other tags j that the image's captions mention (naive Bayes):

    score(image, t) = sum over j of log((n(t, j) + A) / (n(t) n(j) / n + A))

with n(.) the images whose captions mention the tags. Tags that the engine added are scored and do not count, since they
were added because of the others. A rare pair is drawn towards 0 by A. The rows are in folds by the hash of their keys,
and n(t, j) and n(t) leave out the row's fold: otherwise a pair that occurs once would support itself.

Letters: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SMOOTHING = 5.0  # A
FOLDS = 10


@dataclass(frozen=True)
class TagCounts:
    """Number of images whose captions mention each tag, over all images."""

    images: int
    mentioned: Mapping[int, int]  # tag: images

    def of(self, tags: np.ndarray) -> np.ndarray:
        """Number of images whose captions mention each of these tags.

        Args:
            tags: (N,) int, ids of tags.

        Returns:
            (N,) float64; 0 for a tag that no caption mentions.
        """
        unique, inverse = np.unique(tags, return_inverse=True)
        return np.array([self.mentioned.get(int(tag), 0) for tag in unique], np.float64)[inverse]


def co_occurrence(
    others: pa.ChunkedArray, *, mentioned: np.ndarray, hashes: np.ndarray, counts: TagCounts
) -> np.ndarray:
    """Score a tag's rows by the formula of the module.

    Args:
        others: for each row a list of int32, the other tags that the image's captions mention.
        mentioned: (N,) bool, whether the captions mention this tag.
        hashes: (N,) uint64, of the keys.
        counts: images of all tags.

    Returns:
        (N,) float64, in nats.
    """
    lists = others.combine_chunks()
    rows = pc.list_parent_indices(lists).to_numpy()
    tags = lists.flatten().to_numpy()
    if not len(tags):
        return np.zeros(len(mentioned))
    fold = (hashes % FOLDS).astype(np.int64)
    width = int(tags.max()) + 1
    cells = fold[rows] * width + tags
    fold_counts = np.bincount(cells[mentioned[rows]], minlength=FOLDS * width)  # mentioned with the tag, in each fold
    both = fold_counts.reshape(FOLDS, width).sum(axis=0)[tags] - fold_counts[cells]
    own = mentioned.sum() - np.bincount(fold[mentioned], minlength=FOLDS)
    expected = own[fold[rows]] * counts.of(tags) / max(counts.images, 1)
    pmi = np.log((both + SMOOTHING) / (expected + SMOOTHING))
    return np.bincount(rows, weights=pmi, minlength=len(mentioned))
