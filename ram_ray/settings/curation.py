"""Settings of what is taken out of the data before training: duplicates, copies of held-out images, and filters."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ram_ray.settings.models import TimmConfig
from ram_ray.settings.section import RUNTIME_ONLY, Section

Sameness = Literal["url", "sha256", "bytes", "pixels"]


class DuplicatesConfig(Section):
    """When rows show the same image, and which of them stays (`docs/duplicates.md`)."""

    same: list[Sameness] = Field(
        ["url", "sha256", "bytes", "pixels"],
        description=(
            "Rows that agree in one of these are one image: the url or sha256 that the data states, or the bytes or "
            "decoded pixels, which are read. Empty: no rows are united."
        ),
    )
    near: int | None = Field(
        8,
        ge=0,
        le=12,
        description="Most bits, of 63, in which the perceptual hashes of near duplicates differ. `null`: none.",
    )
    embedding: float | None = Field(
        None,
        ge=0.5,
        le=1,
        description=(
            "Least cosine of the embeddings of near duplicates, by `data.encoder`; beside the perceptual hashes. "
            "`null`: no embeddings."
        ),
    )
    mirrored: bool = Field(True, description="Whether a mirrored image is a near duplicate.")
    in_training: Literal["leave_out", "keep"] = Field(
        "leave_out",
        description="What becomes of a near duplicate inside the training data, and of a copy in another source.",
    )
    of_eval: Literal["leave_out", "keep"] = Field(
        "leave_out", description="What becomes of a training image that is a duplicate of a held-out image."
    )
    prefer: list[str] = Field(
        [],
        max_length=6,
        description=(
            "Globs of shards: of copies, the one in a shard of an earlier glob stays. Empty: `finetune.shards`."
        ),
    )
    max_rows: int = Field(
        500,
        ge=2,
        description="A training image of more rows is a placeholder, such as a site's error image: all are left out.",
    )

    @property
    def is_enabled(self) -> bool:
        """Whether rows are compared at all."""
        return bool(self.same) or self.near is not None or self.embedding is not None

    @property
    def reads_images(self) -> bool:
        """Whether images are read to compare them."""
        return self.near is not None or not {"bytes", "pixels"}.isdisjoint(self.same)


class CurationEncoderConfig(Section):
    """The model that embeds images, and captions, for filters and duplicates.

    None: that of `represent`, where it is a published one.
    """

    clip: str | None = Field(None, description="Hugging Face id, path or URI of a CLIP or SigLIP.")
    revision: str | None = Field(None, description="Commit of the CLIP or SigLIP on the hub.")
    image_encoder: TimmConfig = Field(
        TimmConfig(), description="A timm model with weights, in place of `clip`: embeds images, but no captions."
    )
    image_size: int | None = Field(
        None, ge=1, description="With `image_encoder`: side of its images. `null`: what timm names."
    )
    side: int = Field(
        256, ge=32, description="Side of the squares to which images are decoded, before each model resizes them."
    )
    batch_size: int = Field(32, ge=1, description="Images that a model takes at once.", json_schema_extra=RUNTIME_ONLY)

    @property
    def is_set(self) -> bool:
        """Whether a model is named."""
        return bool(self.clip or self.image_encoder.name)

    @model_validator(mode="after")
    def _check_encoder(self) -> CurationEncoderConfig:
        if self.clip and self.image_encoder.name:
            raise ValueError("set clip or image_encoder, not both")
        if self.image_encoder.name and not self.image_encoder.weights:
            raise ValueError("image_encoder without weights embeds nothing: set image_encoder.weights")
        return self


class FiltersConfig(Section):
    """Which images and captions are not trained on; a filter that is not set is off. Held-out data is not filtered."""

    max_aspect: float | None = Field(None, ge=1, description="Most of longer side / shorter side (`aspect_ratio`).")
    min_sharpness: float | None = Field(
        None, gt=0, lt=1, description="Least sharpness, 0 to 1, as CleanVision scores it: 0.29 there (`blurred`)."
    )
    min_brightness: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Least brightness of the brightest hundredth, as CleanVision scores it: 0.32 there (`dark`).",
    )
    min_similarity: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="Least cosine of an image and the nearest of its captions, by `data.encoder` (`dissimilar`).",
    )
    similarity_quantile: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of the images, those with the least such cosine, that is left out (`dissimilar`).",
    )
    unsafe_model: str | None = Field(
        None,
        description="Hugging Face id, path or URI of a transformers image classifier of unsafe images (`unsafe`).",
    )
    unsafe_revision: str | None = Field(None, description="Commit of the classifier on the hub.")
    unsafe_labels: list[str] = Field(
        [], description="Its classes that are unsafe. Empty: those of usual names, such as `nsfw`."
    )
    max_unsafe: float = Field(0.5, gt=0, lt=1, description="Most probability of the unsafe classes together.")
    opt_out: str | None = Field(
        None,
        description="File of urls, sha256 sums and hosts whose images are not used, one a line (`opted_out`).",
    )
    min_caption_words: int | None = Field(None, ge=1, description="Least words of a caption (`caption_length`).")
    max_caption_words: int | None = Field(None, ge=1, description="Most words of a caption (`caption_length`).")
    english: bool = Field(False, description="Whether captions in other languages are left out (`language`).")
    watermark: list[str] = Field(
        [], description="Words or phrases; a caption with one of them is left out (`watermark`)."
    )

    @property
    def reads_images(self) -> bool:
        """Whether images are decoded to filter them."""
        return self.min_sharpness is not None or self.min_brightness is not None

    @property
    def of_images(self) -> bool:
        """Whether a filter of images is set."""
        return self.reads_images or self.needs_model or any((self.max_aspect, self.opt_out))

    @property
    def of_similarity(self) -> bool:
        """Whether images are compared with their captions."""
        return self.min_similarity is not None or self.similarity_quantile is not None

    @property
    def needs_model(self) -> bool:
        """Whether a filter that is set needs a model."""
        return self.of_similarity or self.unsafe_model is not None

    @property
    def of_captions(self) -> bool:
        """Whether a filter of captions is set."""
        return bool(self.min_caption_words or self.max_caption_words or self.english or self.watermark)

    @model_validator(mode="after")
    def _check_similarity(self) -> FiltersConfig:
        if self.min_similarity is not None and self.similarity_quantile is not None:
            raise ValueError("set min_similarity or similarity_quantile, not both")
        return self
