"""Settings of the data engine's rounds, generation and cleaning."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from ram_ray.settings.section import Section


class GenerateConfig(Section):
    """Missing tags and captions (paper, section 3.3, generation).

    How sure the model must be is said in one of two ways: `precision` finds a threshold for each tag
    (`ram_ray.data_engine.calibrate`), `threshold` is one probability for all. With neither, the precision is 0.8.
    """

    precision: float | None = Field(None, gt=0, lt=1)  # what the tags added should have
    threshold: float | None = Field(None, gt=0, lt=1)  # probability from which on the tagger's tag is added
    # With `threshold`: what the tagger must say, too, of a tag of a generated caption; 0, as in the paper: nothing.
    caption_threshold: float = Field(0.0, ge=0, lt=1)
    captions: int = Field(1, ge=0, le=16)  # written a picture; 0: none
    decoding: Literal["greedy", "beam", "nucleus"] = "greedy"
    num_beams: int = Field(3, ge=2, le=32)  # of beam
    top_p: float = Field(0.9, gt=0, le=1)  # of nucleus
    max_caption_tokens: int = 20
    batch_size: int = 64

    @model_validator(mode="before")
    @classmethod
    def _one_measure(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("precision") is None and values.get("threshold") is None:
            return {**values, "precision": 0.8}
        return values

    @model_validator(mode="after")
    def _agree(self) -> GenerateConfig:
        if self.precision is not None and self.threshold is not None:
            raise ValueError(
                f"precision {self.precision} and threshold {self.threshold} are both set, and one decides; "
                "set engine.generate.threshold=null to calibrate, or engine.generate.precision=null"
            )
        if self.threshold is None and self.caption_threshold:
            raise ValueError(
                f"caption_threshold {self.caption_threshold} goes with threshold, which is not set: with precision "
                "captions are calibrated witnesses; set engine.generate.caption_threshold=0"
            )
        if self.captions > 1 and self.decoding != "nucleus":
            raise ValueError(
                f"{self.captions} captions a picture need decoding nucleus: {self.decoding} always writes the same one"
            )
        return self


class CleanConfig(Section):
    """Wrong tags (paper, section 3.3, cleaning)."""

    detector: str = "attention"  # or a Grounding-DINO / OWLv2 id or path for transformers
    revision: str | None = None
    detector_precision: Literal["fp32", "fp16", "bf16"] | None = None  # None: fp16 on a GPU, else fp32
    min_images: int = Field(20, ge=2)  # categories with fewer images are left alone
    outliers: float = Field(
        0.1, ge=0, lt=1
    )  # share of a category that is expected to be wrong (the paper takes it out)
    wrong: float = Field(0.2, ge=0, le=1)  # probability to be wrong from which on a tag goes
    most: float = Field(0.2, ge=0, lt=1)  # share of a category that goes at most
    protected: list[str] = []  # tags that are never removed
    protect_labels: bool = True  # nor those that a human label of the image confirms
    absent: int = Field(50, ge=1)  # images without the tag that a category is compared with, about
    images_per_cluster: int = Field(50, ge=1)
    max_clusters: int = Field(32, ge=1)
    batch_size: int = 64


class EngineConfig(Section):
    """The data engine (paper, section 3.3)."""

    rounds: int = Field(1, ge=0)  # at most
    min_change: float = Field(0.01, ge=0, lt=1)  # share of the tags; a round that adds and removes fewer is the last
    folds: int = Field(1, ge=1, le=16)  # from 2: as many more models, each scoring the part that it did not see
    holdout: float = Field(0.02, ge=0, le=0.5)  # share kept from the model that scores, with one fold; to calibrate on
    generate: GenerateConfig = GenerateConfig()
    clean: CleanConfig = CleanConfig()

    @model_validator(mode="after")
    def _something_to_calibrate_on(self) -> EngineConfig:
        if self.rounds and self.generate.precision is not None and self.folds == 1 and not self.holdout:
            raise ValueError(
                "generate.precision is calibrated on pictures that the model did not see: set engine.holdout over 0, "
                "engine.folds from 2, or engine.generate.threshold with engine.generate.precision=null"
            )
        return self
