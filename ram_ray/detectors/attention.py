"""Regions from the tagger's own cross-attention, from a tag's query to the image tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ram_ray.detectors.regions import Box, Region

if TYPE_CHECKING:
    from ram_ray.inference.predictor import Predictor


class AttentionDetector:
    """Box around the part of a tag's cross-attention map that holds its peak.

    The map is made four times finer (bilinear), cut at `share` of its maximum, and the connected part with the
    peak is boxed, with `margin` of the picture's side around it and at least `min_side` of it long. The score is
    the share of the attention inside the box.

    Args:
        predictor: whose attention it is.
        share: of the maximum, 0 to 1.
        margin: in shares of the picture's side.
        min_side: in shares of the picture's side.
    """

    takes_tokens = True

    def __init__(self, predictor: Predictor, *, share: float = 0.5, margin: float = 0.05, min_side: float = 0.25):
        self.predictor = predictor
        self.share, self.margin, self.min_side = share, margin, min_side

    def detect(
        self, images: Any, *, tags: Sequence[Sequence[str]], tag_ids: Sequence[Sequence[int]]
    ) -> list[list[Region]]:
        """See `RegionDetector.detect`; the names are not used."""
        maps = self.predictor.attention(images, [list(ids) for ids in tag_ids])
        return [
            [Region(int(id), *self.box(one)) for id, one in zip(ids, of_image, strict=True)]
            for ids, of_image in zip(tag_ids, maps, strict=True)
        ]

    def box(self, attention: np.ndarray) -> tuple[Box, float]:
        """Box and score of one attention map.

        Args:
            attention: (h, w) float, 0 or more.

        Returns:
            x0, y0, x1, y1 in shares of the picture, 0 to 1, and the share of the attention inside the box.
        """
        fine = _finer(np.asarray(attention, np.float64), times=4)
        peak = np.unravel_index(int(fine.argmax()), fine.shape)
        part = _connected(fine >= self.share * fine[peak], peak)
        rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
        height, width = fine.shape
        y0, y1 = self._side(rows[0] / height, (rows[-1] + 1) / height)
        x0, x1 = self._side(columns[0] / width, (columns[-1] + 1) / width)
        inside = fine[int(y0 * height) : max(1, round(y1 * height)), int(x0 * width) : max(1, round(x1 * width))]
        return (x0, y0, x1, y1), float(inside.sum() / max(fine.sum(), 1e-12))

    def _side(self, start: float, end: float) -> tuple[float, float]:
        length = min(1.0, max(end - start + 2 * self.margin, self.min_side))
        begin = min(max((start + end - length) / 2, 0.0), 1.0 - length)
        return float(begin), float(begin + length)


def _finer(values: np.ndarray, *, times: int) -> np.ndarray:
    """Bilinear enlargement (h, w) -> (h * times, w * times) about cell centres."""
    for axis in (0, 1):
        length = values.shape[axis]
        places = np.clip((np.arange(length * times) + 0.5) / times - 0.5, 0, length - 1)
        low = np.floor(places).astype(int)
        high = np.minimum(low + 1, length - 1)
        weight = np.expand_dims(places - low, 1 - axis)
        values = values.take(low, axis) * (1 - weight) + values.take(high, axis) * weight
    return values


def _connected(mask: np.ndarray, start: tuple[Any, ...]) -> np.ndarray:
    """The part of a bool map (h, w) that is joined to `start` by steps up, down, left and right."""
    part = np.zeros_like(mask)
    part[start] = True
    while True:
        grown = part.copy()
        grown[1:] |= part[:-1]
        grown[:-1] |= part[1:]
        grown[:, 1:] |= part[:, :-1]
        grown[:, :-1] |= part[:, 1:]
        grown &= mask
        if (grown == part).all():
            return part
        part = grown
