"""Settings of the stage `represent`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ram_ray.settings.models import TimmConfig, TransformerConfig
from ram_ray.settings.section import RUNTIME_ONLY, Section
from ram_ray.settings.training import TrainConfig

# StableRep's official training code, as far as it gives a value; beta2 is 0.98 in its README.
OFFICIAL_TRAINING: dict[str, Any] = {
    **{"epochs": 10, "batch_size": 512, "lr": 1e-3, "schedule": "cosine", "weight_decay": 0.1, "beta2": 0.95},
    "augment": {
        **{"crop_scale": (0.08, 1.0), "flip": True, "randaugment": None},
        **{"colour_jitter": (0.4, 0.4, 0.4, 0.1), "greyscale": 0.2, "blur": 0.5},
    },
}


class GeneratorConfig(Section):
    """How a diffusers pipeline makes images; the defaults are StableRep's (arXiv 2306.00984, section 3.1)."""

    guidance: float = Field(2.5, ge=0, description="Scale of the classifier-free guidance. StableRep: 2 to 3.")
    steps: int = Field(50, ge=1, description="Denoising steps.")
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = Field(
        "auto", description="Type of the weights. `auto`: `float16` on a GPU, `float32` on a CPU."
    )
    native_size: int | None = Field(
        None,
        ge=8,
        multiple_of=8,
        description="Pixels a side that the pipeline makes, before the images are resized. `null`: its model's size.",
    )
    batch_size: int = Field(8, ge=1, description="Images that are made at once.", json_schema_extra=RUNTIME_ONLY)


class RepresentConfig(Section):
    """The encoders of texts and images: one gives the label queries, the other embeds crops and can be distilled.

    With `clip` or `text_encoder` nothing is trained. Otherwise a small dual encoder is trained by `method`: by default
    with StableRep's multi-positive loss (arXiv 2306.00984, section 3.2) plus the image-text loss of StableRep+. The
    defaults are those of its official code. Only the image feature of a dual encoder is distilled.
    """

    clip: str | None = Field(
        None,
        description=(
            "Hugging Face id or path of a CLIP or SigLIP, with which nothing is trained. `null`: a small dual encoder "
            "is trained, unless `text_encoder` is set."
        ),
    )
    revision: str | None = Field(None, description="Commit of the CLIP or SigLIP on the hub.")
    text_encoder: str | None = Field(
        None,
        description=(
            "Hugging Face id or path of a sentence-embedding model in the layout of sentence-transformers, which "
            "embeds labels and own tags in place of a dual encoder."
        ),
    )
    text_revision: str | None = Field(None, description="Commit of the text encoder on the hub.")
    image_encoder: TimmConfig = Field(
        TimmConfig(),
        description="With `text_encoder`: a timm model that embeds crops. Without a name: `model.image_encoder`.",
    )
    image_size: int | None = Field(
        None,
        ge=1,
        description="With `text_encoder`: side of the crops that the image encoder embeds. `null`: what timm names.",
    )
    method: Literal["stablerep_plus", "stablerep", "clip", "simclr"] = Field(
        "stablerep_plus",
        description=(
            "Losses of the dual encoder: `stablerep` is between images of a caption, `stablerep_plus` adds image-text, "
            "`clip` is image-text alone, `simclr` is between crops of an image."
        ),
    )
    images: Literal["synthetic", "real", "both"] = Field("both", description="Images to train the dual encoder on.")
    generator: str = Field("drawn", description="`drawn`, or id or path of a Stable Diffusion for diffusers.")
    generator_revision: str | None = Field(None, description="Commit of the generator on the hub.")
    generation: GeneratorConfig = Field(
        GeneratorConfig(), description="How a diffusers pipeline makes images; `drawn` has no such settings."
    )
    num_captions: int = Field(2000, ge=1, description="Approximate number of captions with synthetic images.")
    images_per_caption: int = Field(10, ge=1, description="Synthetic images that are made for each caption.")
    real_pairs: Literal["all", "selected"] = Field(
        "all",
        description=(
            "Real images that are trained on: all, each with all its captions; or those that `num_captions` selects, "
            "each with the first caption, of which its synthetic images are made."
        ),
    )
    views_per_caption: int = Field(
        2, ge=2, description="Images of one caption in a batch: the m positives of StableRep."
    )
    text: TransformerConfig = Field(
        TransformerConfig(width=512, layers=12, heads=8, ffn=2048, dropout=0.0), description="The text encoder."
    )
    embed_dim: int = Field(512, ge=1, description="Width of the joint embedding.")
    head: tuple[int, int] = Field((4096, 256), description="Hidden and output width of the contrastive head.")
    head_last_norm: bool = Field(
        False,
        description=(
            "Whether a BatchNorm without scale and shift follows the last of the head's three linear maps, as it "
            "follows the others."
        ),
    )
    temperature: float = Field(0.1, gt=0, description="Temperature of the loss between images.")
    image_text_weight: float = Field(
        1.0, ge=0, description="Weight of the image-text loss beside the multi-positive loss."
    )
    train: TrainConfig = Field(
        TrainConfig.model_validate(OFFICIAL_TRAINING), description="How the dual encoder is trained."
    )

    @property
    def is_trained(self) -> bool:
        """Whether the stage trains a dual encoder."""
        return not self.clip and not self.text_encoder

    @property
    def trains_text(self) -> bool:
        """Whether a dual encoder that is trained here has a trained text encoder."""
        return self.method in ("stablerep_plus", "clip")

    @property
    def num_views(self) -> int:
        """V, crops of a caption or image in a batch."""
        return 1 if self.method == "clip" else self.views_per_caption

    @field_validator("train", mode="before")
    @classmethod
    def _fill_in_defaults(cls, train: object) -> object:
        """Fields that a preset does not name have the defaults of this section, not those of `TrainConfig`."""
        if not isinstance(train, dict):
            return train
        augment = train.get("augment", {})
        if isinstance(augment, dict):
            augment = {**OFFICIAL_TRAINING["augment"], **augment}
        return {**OFFICIAL_TRAINING, **train, "augment": augment}

    @model_validator(mode="after")
    def _check_encoders(self) -> RepresentConfig:
        if self.clip and self.text_encoder:
            raise ValueError("clip has a text encoder of its own: set clip or text_encoder, not both")
        if self.image_encoder.name and not self.text_encoder:
            raise ValueError("image_encoder goes with text_encoder, which is not set")
        if self.image_encoder.name and not self.image_encoder.weights:
            raise ValueError("image_encoder without weights embeds nothing: set image_encoder.weights")
        return self
