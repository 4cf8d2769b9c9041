"""What each stage of the data engine reads out of the configuration: all that its rows depend on, and its digest.

scores -> score_weights, thresholds -> generate
    ScoreSettings, ScoreWeightSettings, ThresholdSettings, GenerateSettings
doubts -> regions -> removals -> clean
    DoubtSettings, RegionSettings, CleanSettings
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from ram_ray.config import RunConfig
from ram_ray.data.folds import Fold
from ram_ray.label_system import LabelSystem
from ram_ray.labels.lists import read_list
from ram_ray.settings.data_engine import CleanConfig
from ram_ray.settings.section import RUNTIME_ONLY, StageSettings

MAX_NEGATIVES = 4  # negatives an image, at most
Bounds = tuple[int, int]  # start and end of a `Fold`


def is_given(config: RunConfig, *, round: int) -> bool:
    """Whether a given model scores, which has not seen the images of the run.

    Args:
        config: of the run.
        round: number of the round.

    Returns:
        Whether it is the first round of a run with `engine.model`.
    """
    return round == 1 and config.engine.model is not None


def calibration_fold(config: RunConfig, num_models: int, *, round: int) -> Fold | None:
    """The images that scores are calibrated on: those that the model did not learn from.

    Args:
        config: of the run.
        num_models: number of scoring models; with several, each scores images that it did not learn from.
        round: number of the round.

    Returns:
        The fold; None: all images.
    """
    calibrated = config.engine.generate.precision is not None
    learnt = num_models == 1 and not is_given(config, round=round)
    return Fold.of_share(config.engine.holdout) if learnt and calibrated else None


def trusts_labels(config: RunConfig) -> bool:
    """Whether human labels protect their tags: not if they are the truth that the engine is evaluated on.

    Args:
        config: of the run.

    Returns:
        Whether tags that a human label confirms stay.
    """
    drawn, measured = not config.data.train, config.data.measure.is_enabled
    return config.engine.clean.protect_labels and not (drawn or measured)


class ScoreSettings(StageSettings):
    """Captions and scores of a round."""

    captions: int
    decoding: Literal["greedy", "beam", "nucleus"]
    num_beams: int
    top_p: float
    max_caption_tokens: int
    threshold: float | None  # of the tags that guide a caption
    seed: int | None  # of drawn captions; None: nothing is drawn
    parser: str
    max_caption_chars: int
    match: bool
    batch_size: int = Field(json_schema_extra=RUNTIME_ONLY)

    @classmethod
    def from_config(cls, config: RunConfig, *, round: int) -> ScoreSettings:
        """Take the settings out of the configuration of the run.

        Args:
            config: of the run.
            round: number of the round, added to the seed.

        Returns:
            The settings.
        """
        generate, labels = config.engine.generate, config.labels
        return cls(
            captions=generate.captions,
            decoding=generate.decoding,
            num_beams=generate.num_beams,
            top_p=generate.top_p,
            max_caption_tokens=generate.max_caption_tokens,
            threshold=generate.threshold,
            seed=config.seed + round if generate.decoding == "nucleus" else None,
            parser=labels.parser,
            max_caption_chars=labels.max_caption_chars,
            match=labels.match,
            batch_size=generate.batch_size,
        )


class CalibrationSettings(StageSettings):
    """The fold that the model did not learn from, whose scores are calibrated."""

    bounds: Bounds | None  # None: all

    @property
    def fold(self) -> Fold | None:
        """The fold; None: all images."""
        return Fold(*self.bounds) if self.bounds else None


class ScoreWeightSettings(CalibrationSettings):
    """The weights of the tagger's score and of co-occurrence."""

    @classmethod
    def from_config(cls, config: RunConfig, *, num_models: int, round: int) -> ScoreWeightSettings:
        """Take the settings out of the configuration of the run.

        Args:
            config: of the run.
            num_models: number of scoring models.
            round: number of the round.

        Returns:
            The settings.
        """
        return cls(bounds=_bounds(calibration_fold(config, num_models, round=round)))


class ThresholdSettings(CalibrationSettings):
    """The threshold of each tag."""

    precision: float | None
    captions: int  # generated for an image, each a vote for its tags
    num_models: int
    given: bool  # see `is_given`

    @classmethod
    def from_config(cls, config: RunConfig, *, num_models: int, round: int) -> ThresholdSettings:
        """Take the settings out of the configuration of the run.

        Args:
            config: of the run.
            num_models: number of scoring models.
            round: number of the round.

        Returns:
            The settings.
        """
        generate = config.engine.generate
        return cls(
            bounds=_bounds(calibration_fold(config, num_models, round=round)),
            precision=generate.precision,
            captions=generate.captions,
            num_models=num_models,
            given=is_given(config, round=round),
        )

    @property
    def is_held_out(self) -> bool:
        """Whether scores are counted on images that the model did not learn from."""
        return self.fold is not None or self.num_models > 1 or self.given


class GenerateSettings(StageSettings):
    """Which tags are added."""

    precision: float | None
    threshold: float | None
    caption_threshold: float

    @classmethod
    def from_config(cls, config: RunConfig) -> GenerateSettings:
        """Take the settings out of the configuration of the run."""
        generate = config.engine.generate
        return cls(
            precision=generate.precision,
            threshold=generate.threshold,
            caption_threshold=generate.caption_threshold,
        )


def select_labels(settings: CleanConfig, labels: LabelSystem) -> tuple[int, ...] | None:
    """The labels to clean, by `engine.clean.labels` and `max_labels`.

    Args:
        settings: section `engine.clean`.
        labels: the label system.

    Returns:
        Ids in ascending order; None: all.

    Raises:
        ValueError: if the list cannot be read, or names no label of the system.
    """
    if settings.labels is None and settings.max_labels is None:
        return None
    selected = set(range(len(labels)))
    if settings.labels:
        entries = read_list(settings.labels)
        ids = [[labels.find(name, entry.kind) for name in (entry.name, *entry.synonyms)] for entry in entries]
        matches = [next((id for id in entry_ids if id is not None), None) for entry_ids in ids]
        selected = {id for id in matches if id is not None}
        if not selected:
            raise ValueError(f"engine.clean.labels: no name of {settings.labels} is a label of the label system")
    frequent = sorted(selected, key=lambda id: (-labels[id].count, id))
    return tuple(sorted(frequent[: settings.max_labels]))


class DoubtSettings(StageSettings):
    """Which mentions are in doubt."""

    share: float | None  # of a label's mentions; None: all

    @classmethod
    def from_config(cls, config: RunConfig) -> DoubtSettings:
        """Take the settings out of the configuration of the run."""
        return cls(share=config.engine.clean.doubt_share)


class RegionSettings(StageSettings):
    """The regions of tags, and of some tags that the image does not have."""

    detector: str
    revision: str | None
    detector_precision: Literal["fp32", "fp16", "bf16"] | None
    image_bounds: tuple[int, int]  # most pixels of the shorter and the longer side
    doubt_share: float | None  # the detector sees only images with a tag in doubt (`DoubtSettings`); None: all
    labels: tuple[int, ...] | None  # that are cleaned; None: all
    num_negatives: int  # tags of an image that it does not have
    seed: int
    batch_size: int = Field(json_schema_extra=RUNTIME_ONLY)

    @classmethod
    def from_config(cls, config: RunConfig, *, labels: LabelSystem, num_images: int) -> RegionSettings:
        """Take the settings out of the configuration of the run.

        Args:
            config: of the run.
            labels: the label system.
            num_images: number of images that are annotated.

        Returns:
            The settings.
        """
        clean = config.engine.clean
        selected = select_labels(clean, labels)
        num_labels = len(labels) if selected is None else len(selected)
        return cls(
            detector=clean.detector,
            revision=clean.revision,
            detector_precision=clean.detector_precision,
            image_bounds=clean.image_bounds,
            doubt_share=clean.doubt_share,
            labels=selected,
            num_negatives=min(MAX_NEGATIVES, math.ceil(clean.negatives_per_tag * num_labels / max(1, num_images))),
            seed=config.seed,
            batch_size=clean.batch_size,
        )


class CleanSettings(StageSettings):
    """Which tags are removed; of the stages `removals` and `clean`."""

    clean: CleanConfig
    labels: tuple[int, ...] | None  # that are cleaned; None: all
    trusts_labels: bool  # see `trusts_labels`
    seed: int

    @classmethod
    def from_config(cls, config: RunConfig, *, labels: LabelSystem) -> CleanSettings:
        """Take the settings out of the configuration of the run.

        Args:
            config: of the run.
            labels: the label system.

        Returns:
            The settings.
        """
        clean = config.engine.clean
        return cls(
            clean=clean, labels=select_labels(clean, labels), trusts_labels=trusts_labels(config), seed=config.seed
        )


def _bounds(fold: Fold | None) -> Bounds | None:
    return (fold.start, fold.end) if fold else None
