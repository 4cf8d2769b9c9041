"""Settings of the data engine's rounds, generation and cleaning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from ram_ray.settings.section import RUNTIME_ONLY, Section

OWN_DETECTORS = ("attention", "whole_image")  # values of `engine.clean.detector` that name no model


class GenerateConfig(Section):
    """Missing tags and captions (paper, section 3.3, generation).

    The probability from which a tag is added is set in one of two ways: `precision` calibrates a threshold for each tag
    (`ram_ray.data_engine.calibrate`), `threshold` is one probability for all tags. With neither, the precision is 0.8.
    """

    precision: float | None = Field(
        None,
        gt=0,
        lt=1,
        description=(
            "Precision that the added tags should have; it sets a threshold for each tag. 0.8 if `threshold` is "
            "not set either."
        ),
    )
    threshold: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Probability, the same for all tags, from which a tag is added. In place of `precision`.",
    )
    caption_threshold: float = Field(
        0.0,
        ge=0,
        lt=1,
        description=(
            "With `threshold`: least probability, by the tagger, of a tag of a generated caption. 0: none, as in"
            " the paper."
        ),
    )
    captions: int = Field(1, ge=0, le=16, description="Captions written for an image. 0: none.")
    decoding: Literal["greedy", "beam", "nucleus"] = Field(
        "greedy", description="How a caption is written; several captions need `nucleus`."
    )
    num_beams: int = Field(3, ge=2, le=32, description="Beams of the decoding `beam`.")
    top_p: float = Field(
        0.9, gt=0, le=1, description="Share of the probability that the decoding `nucleus` draws from."
    )
    max_caption_tokens: int = Field(20, ge=1, description="Most tokens of a written caption.")
    batch_size: int = Field(64, ge=1, description="Images of one batch.")

    @model_validator(mode="before")
    @classmethod
    def _default_precision(cls, values: object) -> object:
        if isinstance(values, dict) and values.get("precision") is None and values.get("threshold") is None:
            return {**values, "precision": 0.8}
        return values

    @model_validator(mode="after")
    def _check_thresholds(self) -> GenerateConfig:
        if self.precision is not None and self.threshold is not None:
            raise ValueError(
                f"precision {self.precision} and threshold {self.threshold} are both set, but only one can hold; "
                "set engine.generate.threshold=null to calibrate, or engine.generate.precision=null"
            )
        if self.threshold is None and self.caption_threshold:
            raise ValueError(
                f"caption_threshold {self.caption_threshold} goes with threshold, which is not set: with precision "
                "tags of captions are calibrated too; set engine.generate.caption_threshold=0"
            )
        if self.captions > 1 and self.decoding != "nucleus":
            raise ValueError(
                f"{self.captions} captions an image need decoding nucleus: {self.decoding} always writes the same one"
            )
        return self


class CleanConfig(Section):
    """Wrong tags (paper, section 3.3, cleaning)."""

    detector: str = Field(
        "attention",
        description=(
            "Finds a tag's region: `attention` (the model's own), `whole_image` (none), or id or path of a "
            "Grounding-DINO or OWLv2."
        ),
    )
    revision: str | None = Field(None, description="Commit of the detector on the hub.")
    detector_precision: Literal["fp32", "fp16", "bf16"] | None = Field(
        None, description="Number format of the detector. `null`: fp16 on a GPU, else fp32."
    )
    image_bounds: tuple[int, int] = Field(
        (800, 1333),
        description=(
            "Most pixels of the shorter and of the longer side of the image that the detector sees and crops are cut "
            "from; a larger one is shrunk. The default is Grounding-DINO's."
        ),
    )
    doubt_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description=(
            "Share of a label's mentions that are in doubt, those of the lowest scores: the detector sees only images "
            "with one. Of others `attention` finds the regions; beside it, none. `null`: it sees all."
        ),
    )
    labels: str | None = Field(
        None,
        json_schema_extra=RUNTIME_ONLY,  # what it names is in the digest
        description=(
            "Only these labels are cleaned: path or URI of a list, a name on each line, or a shipped list such as "
            "`coco80`. `null`: all. The paper cleans 534."
        ),
    )
    max_labels: int | None = Field(
        None, ge=1, description="Only so many labels are cleaned, those that most captions mention. `null`: all."
    )
    rule: Literal["probability", "paper"] = Field(
        "probability",
        description=(
            "Which tags are removed. `probability`: those that all signals together call wrong. `paper`: of each label "
            "the `outlier_share`, and what the model does not predict on the region."
        ),
    )
    outlier_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="With the rule `paper`: share of a label's crops, the farthest from their cluster's centre.",
    )
    min_images: int = Field(20, ge=2, description="Tags with fewer images are not cleaned.")
    expected_wrong_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of a tag's images that is expected to be wrong.",
    )
    min_wrong_probability: float = Field(
        0.2, ge=0, le=1, description="Probability of being wrong from which a tag is removed."
    )
    max_removed_share: float = Field(
        0.2, ge=0, lt=1, description="Largest share of a tag's images from which it is removed."
    )
    protected: list[str] = Field([], description="Names of tags that are never removed.")
    protect_labels: bool = Field(
        True,
        description="Whether a tag is kept if a human label for scoring confirms it. One that is trained on always is.",
    )
    negatives_per_tag: int = Field(
        50, ge=1, description="Approximate number of images without the tag that its images are compared with."
    )
    images_per_cluster: int = Field(50, ge=1, description="Images for each cluster of a tag.")
    max_clusters: int = Field(32, ge=1, description="Most clusters of a tag.")
    batch_size: int = Field(64, ge=1, description="Images of one batch.")

    @field_validator("image_bounds")
    @classmethod
    def _check_bounds(cls, bounds: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= bounds[0] <= bounds[1]:
            raise ValueError("write the shorter side first, then the longer one, such as [800, 1333]")
        return bounds

    @model_validator(mode="after")
    def _check_doubt_share(self) -> CleanConfig:
        if self.doubt_share is not None and self.detector == "whole_image":
            raise ValueError(
                "doubt_share says which images the detector sees, and whole_image is none: set engine.clean.detector, "
                "or engine.clean.doubt_share=null"
            )
        return self


class EngineConfig(Section):
    """The data engine (paper, section 3.3)."""

    model: str | None = Field(
        None,
        min_length=1,
        description=(
            "Path, URI or Hugging Face id of a bundle in place of the model of `pretrain`, which is not trained then. "
            "`null`: `pretrain` trains it."
        ),
    )
    revision: str | None = Field(None, description="Commit of the bundle `model` on the hub.")
    rounds: int = Field(1, ge=0, description="Most rounds of generate, clean and retrain.")
    min_change: float = Field(
        0.01, ge=0, lt=1, description="A round that adds and removes a smaller share of the tags is the last."
    )
    folds: int = Field(
        1,
        ge=1,
        le=16,
        description=("From 2 on: number of further models, each of which scores the fold that it was not trained on."),
    )
    holdout: float = Field(
        0.02,
        ge=0,
        le=0.5,
        description=(
            "With one fold: share of the images that the scoring model is not trained on; its scores are "
            "calibrated on them."
        ),
    )
    generate: GenerateConfig = Field(GenerateConfig(), description="Adding tags and captions.")
    clean: CleanConfig = Field(CleanConfig(), description="Removing tags.")

    @model_validator(mode="after")
    def _check_calibration(self) -> EngineConfig:
        if self.rounds and self.generate.precision is not None and self.folds == 1 and not self.holdout:
            raise ValueError(
                "generate.precision is calibrated on images that the model did not see: set engine.holdout over 0, "
                "engine.folds from 2, or engine.generate.threshold with engine.generate.precision=null"
            )
        return self
