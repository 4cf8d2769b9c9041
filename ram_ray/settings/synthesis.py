"""Settings of the stage `represent`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ram_ray.settings.models import TimmConfig, TransformerConfig
from ram_ray.settings.section import Section
from ram_ray.settings.training import TrainConfig


class RepresentConfig(Section):
    """The encoders of texts and images: one gives the label queries, the other embeds crops and can be distilled.

    With `clip` or `text_encoder` nothing is trained. Otherwise a small dual encoder is trained with StableRep's
    multi-positive loss (arXiv 2306.00984, section 3.2) plus the image-text loss of StableRep+. Only the image feature
    of a dual encoder is distilled.
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
    images: Literal["synthetic", "real", "both"] = Field("both", description="Images to train the dual encoder on.")
    generator: str = Field("drawn", description="`drawn`, or id or path of a Stable Diffusion for diffusers.")
    generator_revision: str | None = Field(None, description="Commit of the generator on the hub.")
    num_captions: int = Field(2000, ge=1, description="Approximate number of captions with synthetic images.")
    images_per_caption: int = Field(10, ge=1, description="Synthetic images that are made for each caption.")
    views_per_caption: int = Field(
        2, ge=2, description="Images of one caption in a batch: the m positives of StableRep."
    )
    text: TransformerConfig = Field(
        TransformerConfig(width=512, layers=6, heads=8, ffn=2048, dropout=0.0), description="The text encoder."
    )
    embed_dim: int = Field(512, ge=1, description="Width of the joint embedding.")
    head: tuple[int, int] = Field((4096, 256), description="Hidden and output width of the contrastive head.")
    temperature: float = Field(0.1, gt=0, description="Temperature of both contrastive losses.")
    image_text_weight: float = Field(
        0.5, ge=0, description="Weight of the image-text loss beside the multi-positive loss."
    )
    train: TrainConfig = Field(
        TrainConfig(epochs=10, batch_size=512, lr=1e-3, weight_decay=0.1, schedule="cosine"),
        description="How the dual encoder is trained.",
    )

    @property
    def is_trained(self) -> bool:
        """Whether the stage trains a dual encoder."""
        return not self.clip and not self.text_encoder

    @model_validator(mode="after")
    def _check_encoders(self) -> RepresentConfig:
        if self.clip and self.text_encoder:
            raise ValueError("clip has a text encoder of its own: set clip or text_encoder, not both")
        if self.image_encoder.name and not self.text_encoder:
            raise ValueError("image_encoder goes with text_encoder, which is not set")
        if self.image_encoder.name and not self.image_encoder.weights:
            raise ValueError("image_encoder without weights embeds nothing: set image_encoder.weights")
        return self
