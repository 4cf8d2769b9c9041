"""Settings of the stage `represent`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ram_ray.settings.models import TransformerConfig
from ram_ray.settings.section import Section
from ram_ray.settings.training import TrainConfig


class RepresentConfig(Section):
    """The dual encoder: text side for the label queries, image side for distillation.

    With `clip` set to a Hugging Face id (and `revision`) or a local path nothing is trained. Otherwise a
    small one is trained with StableRep's multi-positive loss (arXiv 2306.00984, section 3.2) plus the
    image-text loss of StableRep+.
    """

    clip: str | None = None
    revision: str | None = None
    images: Literal["synthetic", "real", "both"] = "both"
    generator: str = "drawn"  # "drawn", or a Stable Diffusion id or path for diffusers
    generator_revision: str | None = None
    num_captions: int = Field(2000, ge=1)  # about how many captions synthetic pictures are made of
    pictures_made: int = Field(10, ge=1)  # a caption, beforehand
    pictures_per_caption: int = Field(2, ge=2)  # m of StableRep: positives of one caption in a batch
    text: TransformerConfig = TransformerConfig(width=512, layers=6, heads=8, ffn=2048, dropout=0.0)
    embed_dim: int = Field(512, ge=1)
    head: tuple[int, int] = (4096, 256)  # hidden and output width of the contrastive head
    temperature: float = Field(0.1, gt=0)
    image_text_weight: float = Field(0.5, ge=0)
    train: TrainConfig = TrainConfig(epochs=10, batch_size=512, lr=1e-3, weight_decay=0.1, schedule="cosine")
