"""Sizes of the tagger: everything a checkpoint needs to be built again, kept in the bundle's config.json."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """A part of a configuration: unknown fields and wrong types are errors when it is made."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, frozen=True, validate_default=True)


class SwinConfig(Section):
    """The image encoder, a timm Swin. Defaults: Swin-B as in the paper (section 3.2)."""

    patch_size: int = 4
    window_size: int = 7
    embed_dim: int = 128
    depths: tuple[int, ...] = (2, 2, 18, 2)
    num_heads: tuple[int, ...] = (4, 8, 16, 32)
    drop_path: float = 0.1

    @property
    def num_features(self) -> int:
        """Width of the last stage's tokens."""
        return self.embed_dim * 2 ** (len(self.depths) - 1)


class TransformerConfig(Section):
    """One BERT-shaped stack: width, depth and heads."""

    width: int = 768
    layers: int = 2
    heads: int = 12
    ffn: int = 3072
    dropout: float = 0.1

    @model_validator(mode="after")
    def _heads_divide(self) -> TransformerConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class ModelConfig(Section):
    """The whole tagger. Defaults: RAM with Swin-B (arXiv 2306.03514, section 3.2 and appendix)."""

    architecture: Literal["ram"] = "ram"
    image_size: int = 224
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)  # of RGB in 0..1; CLIP's, as in training
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    swin: SwinConfig = SwinConfig()
    image_proj: int = 512  # width of the projected image tokens and of the CLIP image feature
    label_width: int = 512  # width of the text embeddings that are the label queries
    recognition: TransformerConfig = TransformerConfig(layers=2, heads=4)
    tag_encoder: TransformerConfig = TransformerConfig(layers=2, heads=12)
    caption_decoder: TransformerConfig = TransformerConfig(layers=12, heads=12)
    vocab_size: int = 30524
    max_positions: int = 512
    max_tag_tokens: int = 40
    max_caption_tokens: int = 40
    prompt: str = "a picture of "
    templates: tuple[str, ...] = ("a photo of a {}.", "{}")  # prompts whose mean embedding is a label query
    init_std: float | None = 0.02  # of new weights; None: by the layer's width, for small models (`initialise`)
    threshold: float = 0.68  # probability over which a tag without its own threshold is given


class DualEncoderConfig(Section):
    """The dual encoder that `represent` trains where no CLIP is at hand."""

    image_size: int = 224
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    swin: SwinConfig = SwinConfig()
    text: TransformerConfig = TransformerConfig(width=512, layers=6, heads=8, ffn=2048, dropout=0.0)
    embed_dim: int = 512
    vocab_size: int = 30524
    max_text_tokens: int = 40
    init_std: float | None = 0.02
