"""Make the region detector that `engine.clean.detector` names."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from ram_ray.detectors.attention import AttentionDetector
from ram_ray.detectors.regions import RegionDetector
from ram_ray.detectors.zero_shot import GroundingDinoDetector, Owlv2Detector, ZeroShotDetector
from ram_ray.runtime.storage import local_copy
from ram_ray.settings.data_engine import CleanConfig

if TYPE_CHECKING:
    from ram_ray.inference.predictor import Predictor


def make_detector(config: CleanConfig, *, predictor: Predictor, device: str | None = None) -> RegionDetector:
    """The detector that `config.detector` names: "attention", or a model by path, URI or Hugging Face id.

    Args:
        config: section `engine.clean`.
        predictor: the tagger, for "attention".
        device: torch device of another model; None: the GPU if there is one.

    Returns:
        The loaded detector.

    Raises:
        ValueError: if the type of the model is not supported.
    """
    if config.detector == "attention":
        return AttentionDetector(predictor)
    return _zero_shot(config.detector, config.revision, device, config.detector_precision)


def detector_classes() -> dict[str, type[ZeroShotDetector]]:
    """The detector class of each supported `model_type` of a transformers config."""
    return {
        "grounding-dino": GroundingDinoDetector,
        "mm-grounding-dino": GroundingDinoDetector,
        "owlv2": Owlv2Detector,
        "owlvit": Owlv2Detector,
    }


@functools.lru_cache(maxsize=1)
def _zero_shot(path: str, revision: str | None, device: str | None, precision: str | None) -> RegionDetector:
    """Load the detector once a process: the scoring models of all parts share it (`data_engine.model_by_part`)."""
    from transformers import AutoConfig

    folder = str(local_copy(path, revision=revision))
    kind, classes = AutoConfig.from_pretrained(folder).model_type, detector_classes()
    if kind not in classes:
        raise ValueError(
            f"engine.clean.detector {path!r} is a {kind!r} model; use 'attention' or a model of "
            f"{', '.join(sorted(classes))}"
        )
    return classes[kind](folder, device=device, precision=precision)
