"""Where in a picture a tag is: one seam, `RegionDetector`, with three ways behind it.

    attention        the tagger's own cross-attention from a tag's query to the image tokens; nothing to download,
                     and nearly free since the tagger is loaded anyway. Coarse: good enough for a crop.
    Grounding-DINO   by transformers; an image's own tags are packed into prompts up to the token limit.
    OWLv2, OWL-ViT   by transformers; an image's own tags are its text queries.

Only the tags that an image carries are asked for, so the cost grows with images and not with categories (the
paper asked for categories, and had to stop at 534). `attention`, `zero_shot`
hold them; `make` gives the one that is configured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Region:
    """Where one tag of an image is."""

    tag_id: int
    box: Box  # x0, y0, x1, y1 as shares of the picture's width and height
    score: float  # 0 to 1; what it measures depends on the detector


class RegionDetector(Protocol):
    """Finds the tags that an image carries; one that it cannot find has no region."""

    takes_tokens: bool  # also finds them in the tagger's image tokens, so that an image need not be encoded again

    def detect(
        self, images: Any, *, tags: Sequence[Sequence[str]], tag_ids: Sequence[Sequence[int]]
    ) -> list[list[Region]]:
        """Regions of every image, at most one a tag.

        Args:
            images: uint8 (B, S, S, 3), or B pictures of PIL of any size; where the detector `takes_tokens`, also the
                tagger's image tokens (B, 1 + L, C).
            tags: names of each image's tags.
            tag_ids: their ids, in the same order.
        """
        ...
