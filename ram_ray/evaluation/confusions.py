"""What else is predicted where a class is wrong: counts over the images of score files, part by part.

Of a class c, the images are those where c is predicted and is known to be false. Another class d is a confusion of c
if it is predicted on more of them than chance says: lift = P(d predicted | c predicted and false) / P(d predicted).
"Right" counts those where d is true: both are predicted, and only d is true.

A part holds all classes of its images, so a process holds one part and two C x C counts of 4 bytes: 168 MB for 4,585
classes, whatever the number of images. At most `NUM_TASKS` tasks count at once.

Letters: N images, n images of a part, C classes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from ram_ray.evaluation.score_files import read_part
from ram_ray.label_system import is_present

NUM_TASKS = 4
IMAGES_AT_ONCE = 512  # of a part
MAX_CONFUSIONS = 8  # of a class
MAX_TRUE, MAX_PREDICTED = 12, 8  # tags of an image that are kept


@dataclass(frozen=True)
class ImageTags:
    """The tags of an image."""

    true: list[int]  # indices of classes
    predicted: list[tuple[int, float, bool | None]]  # index, score, and whether it is true; the highest score first


@dataclass
class Together:
    """Counts over images, and the tags of some images."""

    num_images: int
    predicted: np.ndarray  # (C,) int64, images where the class is predicted
    wrong: np.ndarray  # (C,) int64, and is false
    counts: np.ndarray  # (C, C) int32, images where the first is predicted and false, and the second is predicted
    right: np.ndarray  # (C, C) int32, and the second is true
    tags: dict[str, ImageTags] = field(default_factory=dict)  # by key

    @classmethod
    def of_classes(cls, num_classes: int) -> Together:
        """Counts of no image.

        Args:
            num_classes: C.

        Returns:
            Zeros.
        """

        def zeros(*shape: int) -> np.ndarray:
            return np.zeros(shape, np.int64 if len(shape) == 1 else np.int32)

        pairs = (num_classes, num_classes)
        return cls(0, zeros(num_classes), zeros(num_classes), zeros(*pairs), zeros(*pairs))

    def add(self, other: Together) -> None:
        """Add the counts of other images.

        Args:
            other: their counts, of the same classes.
        """
        self.num_images += other.num_images
        for name in ("predicted", "wrong", "counts", "right"):
            getattr(self, name).__iadd__(getattr(other, name))
        self.tags |= other.tags


@dataclass(frozen=True)
class Confusion:
    """Another class that is predicted where a class is wrong."""

    index: int
    count: int  # images where the class is wrong and this is predicted
    right: int  # of these, where this is true
    lift: float  # over chance


def count_together(paths: Sequence[str], *, thresholds: np.ndarray, keys: Collection[str]) -> Together:
    """Count which classes are predicted together.

    Args:
        paths: of parts of scores.
        thresholds: (C,) float32.
        keys: of images whose tags are asked.

    Returns:
        The counts.
    """
    together, wanted = Together.of_classes(len(thresholds)), frozenset(keys)
    for path in paths:
        part = read_part(path, num_classes=len(thresholds))
        for start in range(0, len(part.keys), IMAGES_AT_ONCE):
            rows = slice(start, start + IMAGES_AT_ONCE)
            scores, targets = part.scores[rows], part.targets[rows]
            predicted = is_present(scores, thresholds)
            wrong = predicted & (targets == 0)
            together.num_images += len(scores)
            together.predicted += predicted.sum(axis=0)
            together.wrong += wrong.sum(axis=0)
            _add_products(together.counts, wrong, predicted)
            _add_products(together.right, wrong, predicted & (targets == 1))
            for row, key in enumerate(part.keys[rows]):
                if key in wanted:
                    together.tags[key] = _tags_of(scores[row], targets[row], predicted[row])
    return together


def _add_products(counts: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
    """Add to counts (C, C) the images of each pair; only of classes that occur: a part has few of them."""
    rows, columns = (np.flatnonzero(mask.any(axis=0)) for mask in (first, second))
    if len(rows) and len(columns):
        # float32 holds the counts of a part exactly, and multiplies quickly
        product = first[:, rows].astype(np.float32).T @ second[:, columns].astype(np.float32)
        counts[np.ix_(rows, columns)] += product.astype(np.int32)


def _tags_of(scores: np.ndarray, targets: np.ndarray, predicted: np.ndarray) -> ImageTags:
    indices = np.flatnonzero(predicted)
    best = indices[np.argsort(-scores[indices], kind="stable")[:MAX_PREDICTED]]
    return ImageTags(
        np.flatnonzero(targets == 1)[:MAX_TRUE].tolist(),
        [(int(i), float(scores[i]), None if targets[i] < 0 else bool(targets[i])) for i in best],
    )


def find_confusions(together: Together, index: int, *, most: int = MAX_CONFUSIONS) -> list[Confusion]:
    """The classes that are predicted where a class is wrong, beyond chance.

    Args:
        together: counts over all images.
        index: of the class.
        most: the most that are returned.

    Returns:
        First those with the most images more than chance.
    """
    counts = together.counts[index]
    expected = together.wrong[index] * together.predicted / max(1, together.num_images)
    more = counts - expected
    more[index] = 0
    order = np.argsort(-more, kind="stable")[:most]
    return [
        Confusion(
            int(other), int(counts[other]), int(together.right[index, other]), float(counts[other] / expected[other])
        )
        for other in order
        if more[other] > 0
    ]
