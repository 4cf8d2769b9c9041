"""Where in a picture a tag is: one seam, `RegionDetector`, with three ways behind it.

    attention        the tagger's own cross-attention from a tag's query to the image tokens; nothing to download,
                     and nearly free since the tagger is loaded anyway. Coarse: good enough for a crop.
    Grounding-DINO   by transformers; an image's own tags are packed into prompts up to the token limit.
    OWLv2, OWL-ViT   by transformers; an image's own tags are its text queries.

Only the tags that an image carries are asked for, so the cost grows with images and not with categories (the
paper asked for categories, and had to stop at 534). The last two are in `ram_ray.detectors.zero_shot`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ram_ray.runtime.storage import local_copy
from ram_ray.settings.data_engine import CleanConfig

if TYPE_CHECKING:
    from ram_ray.detectors.zero_shot import ZeroShotDetector
    from ram_ray.inference.predictor import Predictor

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

    def detect(
        self, images: Any, *, tags: Sequence[Sequence[str]], tag_ids: Sequence[Sequence[int]]
    ) -> list[list[Region]]:
        """Regions of every image, at most one a tag.

        Args:
            images: uint8 (B, S, S, 3), or B pictures of PIL of any size.
            tags: names of each image's tags.
            tag_ids: their ids, in the same order.
        """
        ...


def make_detector(config: CleanConfig, *, predictor: Predictor, device: str | None = None) -> RegionDetector:
    """The detector that `config.detector` names: "attention", or a model by path, URI or Hugging Face id.

    Raises:
        ValueError: if the model is of a kind that is not supported.
    """
    if config.detector == "attention":
        return AttentionDetector(predictor)
    return _zero_shot(config.detector, config.revision, device, config.detector_precision)


def detector_classes() -> dict[str, type[ZeroShotDetector]]:
    """The transformers detectors by the `model_type` of their config."""
    from ram_ray.detectors.zero_shot import GroundingDinoDetector, Owlv2Detector

    return {
        "grounding-dino": GroundingDinoDetector,
        "mm-grounding-dino": GroundingDinoDetector,
        "owlv2": Owlv2Detector,
        "owlvit": Owlv2Detector,
    }


@functools.lru_cache(maxsize=1)
def _zero_shot(path: str, revision: str | None, device: str | None, precision: str | None) -> RegionDetector:
    """One a process: the models of all parts of the images (`ram_ray.data_engine.folds`) share it."""
    from transformers import AutoConfig

    folder = str(local_copy(path, revision=revision))
    kind, classes = AutoConfig.from_pretrained(folder).model_type, detector_classes()
    if kind not in classes:
        raise ValueError(
            f"engine.clean.detector {path!r} is a {kind!r} model; use 'attention' or a model of "
            f"{', '.join(sorted(classes))}"
        )
    return classes[kind](folder, device=device, precision=precision)


class AttentionDetector:
    """Box around the part of a tag's cross-attention map that holds its peak.

    The map is made four times finer (bilinear), cut at `share` of its maximum, and the connected part with the
    peak is boxed, with `margin` of the picture's side around it and at least `min_side` of it long. The score is
    the share of the attention inside the box.
    """

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
        """Box and score of one map (h, w) of non-negative floats."""
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
