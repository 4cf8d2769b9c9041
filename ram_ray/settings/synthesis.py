"""Settings of the stage `represent`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ram_ray.settings.models import TransformerConfig
from ram_ray.settings.section import Section
from ram_ray.settings.training import TrainConfig


class RepresentConfig(Section):
    """The dual encoder: its text encoder gives the label queries, its image encoder is the teacher of distillation.

    With `clip` set to a Hugging Face id (and `revision`) or a local path nothing is trained. Otherwise a small dual
    encoder is trained with StableRep's multi-positive loss (arXiv 2306.00984, section 3.2) plus the image-text loss of
    StableRep+.
    """

    clip: str | None = Field(
        None,
        description=(
            "Hugging Face id or path of a CLIP, with which nothing is trained. `null`: a small dual encoder is trained."
        ),
    )
    revision: str | None = Field(None, description="Commit of the CLIP on the hub.")
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
