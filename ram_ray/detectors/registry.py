"""Make the region detector that `engine.clean.detector` names."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from ram_ray.detectors.attention import AttentionDetector
from ram_ray.detectors.regions import RegionDetector, WholeImageDetector
from ram_ray.detectors.zero_shot import GroundingDinoDetector, Owlv2Detector, ZeroShotDetector
from ram_ray.runtime.storage import local_copy
from ram_ray.settings.data_engine import OWN_DETECTORS

if TYPE_CHECKING:
    from ram_ray.inference.predictor import Predictor


def make_detector(
    name: str,
    *,
    predictor: Predictor,
    revision: str | None = None,
    precision: str | None = None,
    device: str | None = None,
) -> RegionDetector:
    """The detector of a name: "attention", "whole_image", or a model by path, URI or Hugging Face id.

    Args:
        name: as in `engine.clean.detector`.
        predictor: the tagger, for "attention".
        revision: commit of a Hugging Face id.
        precision: number format of another model; None: fp16 on a GPU, else fp32.
        device: torch device of another model; None: the GPU if there is one.

    Returns:
        The loaded detector.

    Raises:
        ValueError: if the type of the model is not supported.
    """
    if name == "attention":
        return AttentionDetector(predictor)
    if name == "whole_image":
        return WholeImageDetector()
    return _zero_shot(name, revision, device, precision)


def make_cheap_detector(name: str, *, predictor: Predictor) -> RegionDetector:
    """The detector of the images that `engine.clean.detector` need not see (`engine.clean.doubt_share`).

    Args:
        name: as in `engine.clean.detector`.
        predictor: the tagger.

    Returns:
        "attention" beside another model, if the tagger attends to positions; else "whole_image".
    """
    return (
        WholeImageDetector()
        if name in OWN_DETECTORS or not predictor.model.config.attends
        else AttentionDetector(predictor)
    )


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
    """Load the detector once a process: the scoring models of all folds share it (`data_engine.model_by_fold`)."""
    from transformers import AutoConfig

    folder = str(local_copy(path, revision=revision))
    kind, classes = AutoConfig.from_pretrained(folder).model_type, detector_classes()
    if kind not in classes:
        raise ValueError(
            f"engine.clean.detector {path!r} is a {kind!r} model; use 'attention' or a model of "
            f"{', '.join(sorted(classes))}"
        )
    return classes[kind](folder, device=device, precision=precision)
