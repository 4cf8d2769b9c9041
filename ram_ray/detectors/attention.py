"""Regions from the tagger's own cross-attention, from a tag's query to the image tokens.

Letters: h, w height and width of an attention map, in image tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ram_ray.detectors.regions import Box, Region

if TYPE_CHECKING:
    from ram_ray.detectors.regions import Images
    from ram_ray.inference.predictor import Predictor


class AttentionDetector:
    """Box around the part of a tag's cross-attention map that holds its peak.

    The map is enlarged four times (bilinear) and thresholded at `share` of its maximum. The box encloses the
    connected component of the peak, with `margin` added on each side, and each side is at least `min_side` long. The
    score is the share of the attention inside the box.

    Args:
        predictor: the tagger that computes the attention.
        share: threshold as a share of the maximum, 0 to 1.
        margin: as a share of the image's side.
        min_side: as a share of the image's side.
    """

    takes_tokens = True

    def __init__(self, predictor: Predictor, *, share: float = 0.5, margin: float = 0.05, min_side: float = 0.25):
        self.predictor = predictor
        self.share, self.margin, self.min_side = share, margin, min_side

    def detect(
        self, images: Images, *, tags: Sequence[Sequence[str]], tag_ids: Sequence[Sequence[int]]
    ) -> list[list[Region]]:
        """Find a region for every tag; see `RegionDetector.detect`.

        Args:
            images: uint8 (B, S, S, 3), B PIL images, or the tagger's image tokens (B, 1 + L, C).
            tags: names of each image's tags; not used.
            tag_ids: ids of each image's tags.

        Returns:
            For each image a region for each tag, in the order of `tag_ids`.
        """
        maps = self.predictor.attention(images, [list(ids) for ids in tag_ids])
        return [
            [Region(int(id), *self.box(attention)) for id, attention in zip(ids, image_maps, strict=True)]
            for ids, image_maps in zip(tag_ids, maps, strict=True)
        ]

    def box(self, attention: np.ndarray) -> tuple[Box, float]:
        """Box and score of one attention map.

        Args:
            attention: (h, w) float, 0 or more.

        Returns:
            x0, y0, x1, y1 as shares of the image's sides, 0 to 1, and the share of the attention inside the box.
        """
        fine = _enlarge(np.asarray(attention, np.float64), times=4)
        peak = np.unravel_index(int(fine.argmax()), fine.shape)
        component = _connected_component(fine >= self.share * fine[peak], peak)
        rows, columns = np.flatnonzero(component.any(axis=1)), np.flatnonzero(component.any(axis=0))
        height, width = fine.shape
        y0, y1 = self._extend(rows[0] / height, (rows[-1] + 1) / height)
        x0, x1 = self._extend(columns[0] / width, (columns[-1] + 1) / width)
        inside = fine[int(y0 * height) : max(1, round(y1 * height)), int(x0 * width) : max(1, round(x1 * width))]
        return (x0, y0, x1, y1), float(inside.sum() / max(fine.sum(), 1e-12))

    def _extend(self, start: float, end: float) -> tuple[float, float]:
        """Start and end of a box's side with margin and least length, inside the image."""
        length = min(1.0, max(end - start + 2 * self.margin, self.min_side))
        begin = min(max((start + end - length) / 2, 0.0), 1.0 - length)
        return float(begin), float(begin + length)


def _enlarge(values: np.ndarray, *, times: int) -> np.ndarray:
    """Bilinear enlargement (h, w) -> (h * times, w * times) about cell centres."""
    for axis in (0, 1):
        length = values.shape[axis]
        positions = np.clip((np.arange(length * times) + 0.5) / times - 0.5, 0, length - 1)
        low = np.floor(positions).astype(int)
        high = np.minimum(low + 1, length - 1)
        weight = np.expand_dims(positions - low, 1 - axis)
        values = values.take(low, axis) * (1 - weight) + values.take(high, axis) * weight
    return values


def _connected_component(mask: np.ndarray, start: tuple[np.intp, ...]) -> np.ndarray:
    """The 4-connected component of a bool map (h, w) that holds `start`."""
    component = np.zeros_like(mask)
    component[start] = True
    while True:
        grown = component.copy()
        grown[1:] |= component[:-1]
        grown[:-1] |= component[1:]
        grown[:, 1:] |= component[:, :-1]
        grown[:, :-1] |= component[:, 1:]
        grown &= mask
        if (grown == component).all():
            return component
        component = grown
