"""Boxes of the tags that a tagger gave, from its own cross-attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ram_ray.detectors.attention import AttentionDetector

if TYPE_CHECKING:
    from torch import Tensor

    from ram_ray.detectors.regions import Box
    from ram_ray.inference.predictor import Predictor
    from ram_ray.inference.tag_score import TagScore


class TagBoxes:
    """Finds the box of each tag of encoded images.

    Args:
        predictor: the tagger.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._detector = AttentionDetector(predictor)

    def __call__(self, tokens: Tensor, scores: list[list[TagScore]]) -> list[list[Box | None]]:
        """Find boxes.

        Args:
            tokens: image tokens (B, 1 + L, C).
            scores: tags of each image; a user's own tags have no box.

        Returns:
            For each tag of each image x0, y0, x1, y1 as shares of width and height, or None.
        """
        ids = [[score.id for score in row if score.id is not None] for row in scores]
        names = [[score.tag for score in row if score.id is not None] for row in scores]
        regions = self._detector.detect(tokens, tags=names, tag_ids=ids)
        boxes = [{region.tag_id: region.box for region in row} for row in regions]
        return [
            [None if score.id is None else box_of.get(score.id) for score in row]
            for row, box_of in zip(scores, boxes, strict=True)
        ]
