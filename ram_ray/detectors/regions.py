"""The interface of region detectors, which find the box of a tag in an image (paper, section 3.3, cleaning).

    attention        the tagger's own cross-attention from a tag's query to the image tokens; no download, and little
                     cost since the tagger is loaded anyway. Coarse, but enough for a crop.
    whole_image      no regions: a tag's crop is the whole image, encoded once for all its tags. The cheapest.
    Grounding-DINO   by transformers; the tags of an image are packed into prompts up to the token limit.
    OWLv2, OWL-ViT   by transformers; the tags of an image are its text queries.

A detector searches only for the tags of the image, so the cost grows with images and not with labels (the paper
searches for categories, 534 of them; `engine.clean.labels` and `max_labels` select as few). A transformers detector
gets the image in its own proportions, and its processor brings it to the detector's own size. `attention` and
`zero_shot` implement detectors; `registry` selects one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

    Images: TypeAlias = np.ndarray | Sequence[Image] | Tensor

Box = tuple[float, float, float, float]
WHOLE_IMAGE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Region:
    """The box of one tag in an image."""

    tag_id: int
    box: Box  # x0, y0, x1, y1 as shares of the image's width and height
    score: float  # 0 to 1; what it measures depends on the detector


class RegionDetector(Protocol):
    """Finds the regions of an image's tags; a tag that is not found has no region."""

    takes_tokens: bool  # `images` may be the tagger's image tokens, so that an image is encoded once

    def detect(
        self, images: Images, *, tags: Sequence[Sequence[str]], tag_ids: Sequence[Sequence[int]]
    ) -> list[list[Region]]:
        """Find at most one region for each tag of each image.

        Args:
            images: uint8 (B, S, S, 3), or B PIL images of any size; with `takes_tokens` also the tagger's image tokens
                (B, 1 + L, C).
            tags: names of each image's tags.
            tag_ids: ids of these tags, in the same order.

        Returns:
            The regions of each image, in the order of its tags.
        """
        ...


class WholeImageDetector:
    """Finds no region, so that every tag's crop is the whole image."""

    takes_tokens = True

    def detect(
        self, images: Images, *, tags: Sequence[Sequence[str]], tag_ids: Sequence[Sequence[int]]
    ) -> list[list[Region]]:
        """Find nothing; see `RegionDetector.detect`.

        Args:
            images: not used.
            tags: not used.
            tag_ids: ids of each image's tags.

        Returns:
            No region for any image.
        """
        return [[] for _ in tag_ids]
