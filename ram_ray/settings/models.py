"""Sizes of the tagger: everything a checkpoint needs to be built again, kept in the bundle's config.json."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ram_ray.settings.section import Section


class SwinConfig(Section):
    """The image encoder, a timm Swin. Defaults: Swin-B as in the paper (section 3.2)."""

    stem: Literal["patch", "convolutions"] = "patch"  # convolutions: learns faster from few pictures
    patch_size: int = 4
    window_size: int = 7
    embed_dim: int = 128
    depths: tuple[int, ...] = (2, 2, 18, 2)
    num_heads: tuple[int, ...] = (4, 8, 16, 32)
    drop_path: float = 0.1

    @model_validator(mode="after")
    def _stem_halves(self) -> SwinConfig:
        halvings = self.patch_size.bit_length() - 1
        if self.stem == "convolutions" and (self.patch_size != 2**halvings or self.embed_dim % 2 ** (halvings - 1)):
            raise ValueError(
                f"stem convolutions halves the picture and doubles the width: patch_size {self.patch_size} must be a "
                f"power of two, embed_dim {self.embed_dim} a multiple of its half"
            )
        return self

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
    norm_eps: float = 1e-12  # BERT's

    @model_validator(mode="after")
    def _heads_divide(self) -> TransformerConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class Decoding(Section):
    """How captions are written. Lengths count tokens with the prompt; defaults: greedy, to `max_caption_tokens`."""

    num_beams: int = Field(1, ge=1, le=32)
    max_length: int | None = Field(None, ge=1)  # None: max_caption_tokens
    min_length: int = Field(0, ge=0)  # no end before so many tokens
    repetition_penalty: float = Field(1.0, gt=0)  # over 1: words already there are less likely (arXiv 1909.05858)
    sample: bool = False  # draw words in place of searching; beams are then of no use
    top_k: int = Field(50, ge=1)  # words a draw is made from
    top_p: float = Field(0.9, gt=0, le=1)  # ... and their share of the probability

    @model_validator(mode="after")
    def _one_way(self) -> Decoding:
        if self.sample and self.num_beams > 1:
            raise ValueError("sample draws one caption: leave num_beams at 1")
        return self


class ModelConfig(Section):
    """The whole tagger. Defaults: RAM with Swin-B (arXiv 2306.03514, section 3.2 and appendix).

    `ram_plus` (RAM++, arXiv 2310.15200) has several text embeddings a tag, weighed anew for each image, and no
    captions. `tag2text` (arXiv 2303.05657) has learnt label queries and a classifier of its own for each tag; its
    decoders look at the Swin's tokens directly.
    """

    architecture: Literal["ram", "ram_plus", "tag2text"] = "ram"
    image_size: int = 224
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)  # of RGB in 0..1; CLIP's, as in training
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    swin: SwinConfig = SwinConfig()
    image_proj: int = 512  # width of the projected image tokens and of the CLIP image feature; not for tag2text
    label_width: int = 512  # width of the text embeddings that are the label queries; tag2text: of the queries
    label_proj: bool = True  # a linear map from label_width to the decoder's width; without it the two are equal
    descriptions: int = Field(1, ge=1)  # text embeddings a tag: 51 in RAM++
    captions: bool = True  # tag encoder and caption decoder are there
    recognition: TransformerConfig = TransformerConfig(layers=2, heads=4)
    similarity: bool = False  # adds query x mean token to each logit, as CLIP scores: small models learn sooner
    tag_encoder: TransformerConfig = TransformerConfig(layers=2, heads=12)
    caption_decoder: TransformerConfig = TransformerConfig(layers=12, heads=12)
    vocab_size: int = 30524
    max_positions: int = 512
    max_tag_tokens: int = 40
    max_caption_tokens: int = 40
    mask_tag_padding: bool = True  # the caption decoder does not see padding of the tags; in released models it does
    decoding: Decoding = Decoding()
    prompt: str = "a picture of "
    templates: tuple[str, ...] = ("a photo of a {}.", "{}")  # prompts whose mean embedding is a label query
    init_std: float | None = 0.02  # of new weights; None: by the layer's width, for small models (`initialise`)
    threshold: float = 0.68  # probability from which on a tag without its own threshold is there
    own_threshold: float | None = None  # the same for tags that a user brings; None: threshold
    muted: tuple[int, ...] = ()  # ids of tags that are never given (Tag2Text's number words, which disturb captions)

    @property
    def context_width(self) -> int:
        """Width of the image tokens that the decoders look at."""
        return self.swin.num_features if self.architecture == "tag2text" else self.image_proj

    @model_validator(mode="after")
    def _parts_fit(self) -> ModelConfig:
        width = self.recognition.width
        if (self.architecture == "tag2text" or not self.label_proj) and self.label_width != width:
            raise ValueError(f"without label_proj label_width {self.label_width} must be the decoder's width {width}")
        if self.architecture == "ram_plus" and self.captions:
            raise ValueError("ram_plus has no captions: set captions to false")
        if self.architecture != "ram_plus" and self.descriptions != 1:
            raise ValueError(f"descriptions is {self.descriptions}; only ram_plus has more than one a tag")
        if self.captions:
            own, lent = self.tag_encoder, self.recognition
            for name in ("width", "ffn", "norm_eps"):
                if getattr(own, name) != getattr(lent, name):
                    raise ValueError(f"tag_encoder and recognition share weights, so their {name} must be equal")
        return self


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
