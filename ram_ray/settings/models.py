"""Sizes of the models: all that is needed to build a model again; stored in the bundle's config.json."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from ram_ray.settings.prompts import ENSEMBLE, ensemble
from ram_ray.settings.section import Section


class SwinConfig(Section):
    """A Swin by its sizes. Defaults: Swin-B as in the paper (section 3.2)."""

    stem: Literal["patch", "convolutions"] = Field(
        "patch",
        description="First layers: `patch` as in the paper, or `convolutions`, which learn faster from few images.",
    )
    patch_size: int = Field(4, ge=1, description="Side of a patch in pixels.")
    window_size: int = Field(7, ge=1, description="Side of an attention window in patches.")
    embed_dim: int = Field(128, ge=1, description="Width of the first stage; it doubles from stage to stage.")
    depths: tuple[int, ...] = Field((2, 2, 18, 2), description="Blocks of each stage.")
    num_heads: tuple[int, ...] = Field((4, 8, 16, 32), description="Attention heads of each stage.")
    drop_path: float = Field(0.1, ge=0, lt=1, description="Largest probability that a block is skipped in training.")

    @model_validator(mode="after")
    def _check_stem(self) -> SwinConfig:
        halvings = self.patch_size.bit_length() - 1
        if self.stem == "convolutions" and (self.patch_size != 2**halvings or self.embed_dim % 2 ** (halvings - 1)):
            raise ValueError(
                f"stem convolutions halves the image and doubles the width: patch_size {self.patch_size} must be a "
                f"power of two, embed_dim {self.embed_dim} a multiple of its half"
            )
        return self

    @property
    def num_features(self) -> int:
        """Width of the last stage's tokens."""
        return self.embed_dim * 2 ** (len(self.depths) - 1)


class TimmConfig(Section):
    """An image encoder by its name in timm, in place of the Swin of `model.swin`."""

    name: str | None = Field(
        None,
        description=(
            "Name of a timm model, such as `convnext_tiny`, with or without a tag (`.fb_in22k`). `null`: the Swin of "
            "`model.swin`."
        ),
    )
    weights: str | None = Field(
        None,
        description=(
            "Weights that it starts from: a Hugging Face id, or path or URI of a folder, a `.safetensors` or a `.pth` "
            "file. `package://NAME/FILE` is a file of an installed package. `null`: new weights."
        ),
    )
    revision: str | None = Field(None, description="Commit of the weights on the hub.")
    own_normalisation: bool = Field(
        True,
        description="Whether a training takes the encoder's own mean and standard deviation, not `mean` and `std`.",
    )
    drop_path: float = Field(0.0, ge=0, lt=1, description="Largest probability that a block is skipped in training.")
    window_size: int | None = Field(
        None,
        ge=1,
        description="Side of a Swin's attention window in patches. A training stage sets its own. `null`: the name's.",
    )

    @model_validator(mode="after")
    def _check_name(self) -> TimmConfig:
        if self.weights and not self.name:
            raise ValueError("weights need the name of the timm model that they are of: set image_encoder.name")
        return self


class TransformerConfig(Section):
    """A transformer as in BERT: width, depth and heads."""

    width: int = Field(768, description="Width of the tokens.")
    layers: int = Field(2, ge=0, description="Number of layers.")
    heads: int = Field(12, description="Attention heads; they divide the width.")
    ffn: int = Field(3072, ge=1, description="Width of the hidden layer of the feed-forward network.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout probability in training.")
    norm_eps: float = Field(1e-12, gt=0, description="Epsilon of the layer norms; the default is BERT's.")

    @model_validator(mode="after")
    def _check_heads(self) -> TransformerConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class PooledConfig(Section):
    """Products of queries with a hidden layer over the mean and the maximum of the image tokens, added to the scores.

    For a pretrained encoder that is not trained, or little.
    """

    width: int | None = Field(None, ge=1, description="Width of the hidden layer. `null`: no such scores.")
    dropout: float = Field(0.3, ge=0, lt=1, description="Dropout probability of the layer's input and output.")


class MLDecoderConfig(TransformerConfig):
    """The head ML-Decoder (arXiv 2111.12933), with the authors' sizes: group queries that see the image tokens."""

    width: int = Field(768, description="Width of the queries.")
    layers: int = Field(1, ge=1, description="Number of layers; they have no self-attention.")
    heads: int = Field(8, description="Attention heads; they divide the width.")
    ffn: int = Field(2048, ge=1, description="Width of the hidden layer of the feed-forward network.")
    norm_eps: float = Field(1e-5, gt=0, description="Epsilon of the layer norms.")
    groups: int = Field(
        100, ge=1, description="Group queries; each scores labels / groups labels, rounded up, and no group is empty."
    )
    learned_queries: bool = Field(False, description="Whether group queries are trained; else they stay random.")
    text_queries: bool = Field(
        False,
        description=(
            "Whether the queries are the projected text embeddings of the labels, one a label, with one classifier: "
            "the form that scores other labels too. `groups` is then not used."
        ),
    )


class MKTConfig(Section):
    """The head MKT (arXiv 2207.01887): products of label embeddings with the mean token and the best positions."""

    top_k: int = Field(16, ge=1, description="Positions with the highest scores of a label, whose mean is its score.")
    hidden: int | None = Field(
        None, ge=1, description="Width of the hidden layer of the local head. `null`: that of the label embeddings."
    )
    tune_labels: bool = Field(
        False,
        description=(
            "Whether a linear map of the label embeddings is trained, in place of the paper's prompt tuning. It starts "
            "as the identity."
        ),
    )


class Decoding(Section):
    """How captions are written. Lengths count tokens with the prompt; defaults: greedy, to `max_caption_tokens`."""

    num_beams: int = Field(1, ge=1, le=32, description="Beams of the search. 1: greedy.")
    max_length: int | None = Field(
        None, ge=1, description="Most tokens of a caption, with the prompt. `null`: `max_caption_tokens`."
    )
    min_length: int = Field(0, ge=0, description="A caption does not end before so many tokens, with the prompt.")
    repetition_penalty: float = Field(
        1.0, gt=0, description="Above 1: words that are already there are less likely (arXiv 1909.05858)."
    )
    repeat_tags: bool = Field(
        True, description="Whether the words of a tag that guides the caption may come more than once in it."
    )
    sample: bool = Field(False, description="Whether words are sampled, not searched; needs `num_beams` 1.")
    top_k: int = Field(50, ge=1, description="Most probable words that are sampled from.")
    top_p: float = Field(0.9, gt=0, le=1, description="Share of the probability that is sampled from.")

    @model_validator(mode="after")
    def _check_sampling(self) -> Decoding:
        if self.sample and self.num_beams > 1:
            raise ValueError("sample draws one caption: leave num_beams at 1")
        return self


class ModelConfig(Section):
    """The whole tagger. Defaults: RAM with Swin-B (arXiv 2306.03514, section 3.2 and appendix).

    `ram_plus` (RAM++, arXiv 2310.15200) has several text embeddings a label, weighted for each image, and no captions.
    `tag2text` (arXiv 2303.05657) has trained label queries and a classifier for each label; its decoders attend to the
    image encoder's tokens directly.
    """

    architecture: Literal["ram", "ram_plus", "tag2text"] = Field("ram", description="The model.")
    image_size: int = Field(
        224, ge=1, description="Side of the model's input in pixels. A training stage sets its own."
    )
    mean: tuple[float, float, float] = Field(
        (0.48145466, 0.4578275, 0.40821073),
        description="Mean of R, G and B in 0..1, which is subtracted; the default is CLIP's.",
    )
    std: tuple[float, float, float] = Field(
        (0.26862954, 0.26130258, 0.27577711),
        description="Standard deviation of R, G and B in 0..1, which is divided by; the default is CLIP's.",
    )
    image_encoder: TimmConfig = Field(TimmConfig(), description="A timm model by its name as the image encoder.")
    swin: SwinConfig = Field(SwinConfig(), description="The image encoder where `image_encoder.name` is `null`.")
    image_proj: int | None = Field(
        512,
        ge=1,
        description="Width of the projected image tokens and of the CLIP image feature. `null`: the encoder's own "
        "tokens, not projected. Not for `tag2text`.",
    )
    label_width: int = Field(
        512,
        ge=1,
        description="Width of the text embeddings that are the label queries; with `tag2text`, of the trained queries.",
    )
    label_proj: bool = Field(
        True, description="A linear map from `label_width` to the decoder's width; without it the two must be equal."
    )
    descriptions: int = Field(1, ge=1, description="Text embeddings of each label; 51 in RAM++.")
    captions: bool = Field(True, description="Whether the model has the tag encoder and the caption decoder.")
    head: Literal["recognition", "ml_decoder", "mkt"] = Field(
        "recognition",
        description=(
            "What scores the tags, with the section of its name: RAM's decoder, or a head that it is compared with. "
            "`similarity`, `pooled` and `label_proj` are of `recognition` alone."
        ),
    )
    recognition: TransformerConfig = Field(
        TransformerConfig(layers=2, heads=4),
        description="The recognition decoder, which scores the tags. With 0 layers `pooled` alone does.",
    )
    ml_decoder: MLDecoderConfig = Field(MLDecoderConfig(), description="Used if `head` is `ml_decoder`.")
    mkt: MKTConfig = Field(MKTConfig(), description="Used if `head` is `mkt`.")
    similarity: bool = Field(
        False, description="Adds query x mean image token to each logit, as CLIP scores: small models learn faster."
    )
    pooled: PooledConfig = Field(
        PooledConfig(), description="Scores from pooled tokens, which are added to those of `recognition`."
    )
    tag_encoder: TransformerConfig = Field(
        TransformerConfig(layers=12, heads=12),
        description=(
            "The encoder of the tags that guide a caption; its lowest layers share weights with those of `recognition`."
        ),
    )
    caption_decoder: TransformerConfig = Field(
        TransformerConfig(layers=12, heads=12), description="The decoder that writes captions."
    )
    vocab_size: int = Field(
        30524, ge=1, description="Size of the vocabulary; the most that a run's own tokenizer learns."
    )
    max_positions: int = Field(
        512, ge=1, description="Most tokens that the tag encoder and the caption decoder have positions for."
    )
    max_tag_tokens: int = Field(40, ge=1, description="Most tokens of the tags that guide a caption.")
    max_caption_tokens: int = Field(40, ge=1, description="Most tokens of a caption.")
    mask_tag_padding: bool = Field(
        True,
        description="Whether the caption decoder does not see the padding of the tags; in released models it sees it.",
    )
    decoding: Decoding = Field(Decoding(), description="How captions are written by default.")
    prompt: str = Field("a picture of ", description="First words of every caption.")
    templates: tuple[str, ...] = Field(
        ("a photo of a {}.", "{}"),
        min_length=1,
        description=(
            "Prompts whose mean text embedding is a label query; `{article}` is `a` or `an`. The word `ensemble` in "
            "place of the list: CLIP's 63 prompts."
        ),
    )
    init_std: float | None = Field(
        0.02, gt=0, description="Standard deviation of new weights. `null`: by the layer's width, for small models."
    )
    threshold: float = Field(
        0.68, ge=0, le=1, description="Probability from which a tag without its own threshold is predicted."
    )
    own_threshold: float | None = Field(
        None, ge=0, le=1, description="The same for tags that a user adds. `null`: the best are given."
    )
    muted: tuple[int, ...] = Field(
        (), description="Ids of tags that are never predicted, such as Tag2Text's number words, which harm captions."
    )

    @field_validator("templates", mode="before")
    @classmethod
    def _expand_ensemble(cls, templates: object) -> object:
        return ensemble() if templates == ENSEMBLE else templates

    @property
    def attends(self) -> bool:
        """Whether the head attends to image tokens, so that regions of tags can be found by its attention."""
        return self.head != "recognition" or self.recognition.layers > 0

    @property
    def encoder(self) -> SwinConfig | TimmConfig:
        """The section that describes the image encoder."""
        return self.image_encoder if self.image_encoder.name else self.swin

    @property
    def scores_any_label(self) -> bool:
        """Whether other labels than those of the training can be scored, by their text embeddings."""
        is_grouped = self.head == "ml_decoder" and not self.ml_decoder.text_queries
        return self.architecture != "tag2text" and not is_grouped

    @model_validator(mode="after")
    def _check_parts(self) -> ModelConfig:
        has_decoder, width = self.head == "recognition", self.recognition.width
        if not has_decoder and self.architecture != "ram":
            raise ValueError(f"head {self.head} is for architecture ram; {self.architecture} has a decoder of its own")
        if has_decoder and (self.architecture == "tag2text" or not self.label_proj) and self.label_width != width:
            raise ValueError(f"without label_proj label_width {self.label_width} must be the decoder's width {width}")
        if has_decoder and not self.recognition.layers and not self.pooled.width:
            raise ValueError("with recognition.layers 0 nothing sees the image: set pooled.width, or one layer")
        if self.architecture == "ram_plus" and self.image_proj is None:
            raise ValueError("ram_plus compares images with descriptions: image_proj is the width of both, not null")
        if self.architecture == "ram_plus" and self.captions:
            raise ValueError("ram_plus has no captions: set captions to false")
        if self.architecture != "ram_plus" and self.descriptions != 1:
            raise ValueError(f"descriptions is {self.descriptions}; only ram_plus has more than one a label")
        if self.captions and has_decoder:
            own, shared = self.tag_encoder, self.recognition
            for name in ("width", "ffn", "norm_eps"):
                if getattr(own, name) != getattr(shared, name):
                    raise ValueError(f"tag_encoder and recognition share weights, so their {name} must be equal")
        return self


class DualEncoderConfig(Section):
    """The dual encoder that `represent` trains if no CLIP is named."""

    image_size: int = Field(224, ge=1, description="Side of the input in pixels.")
    mean: tuple[float, float, float] = Field(
        (0.48145466, 0.4578275, 0.40821073), description="Mean of R, G and B in 0..1, which is subtracted."
    )
    std: tuple[float, float, float] = Field(
        (0.26862954, 0.26130258, 0.27577711),
        description="Standard deviation of R, G and B in 0..1, which is divided by.",
    )
    image_encoder: TimmConfig = Field(TimmConfig(), description="A timm model by its name as the image encoder.")
    swin: SwinConfig = Field(SwinConfig(), description="The image encoder where `image_encoder.name` is `null`.")
    text: TransformerConfig = Field(
        TransformerConfig(width=512, layers=6, heads=8, ffn=2048, dropout=0.0), description="The text encoder."
    )
    embed_dim: int = Field(512, ge=1, description="Width of the joint embedding.")
    vocab_size: int = Field(30524, ge=1, description="Size of the vocabulary.")
    max_text_tokens: int = Field(40, ge=1, description="Most tokens of a text.")
    init_std: float | None = Field(
        0.02, gt=0, description="Standard deviation of new weights. `null`: by the layer's width."
    )

    @property
    def encoder(self) -> SwinConfig | TimmConfig:
        """The section that describes the image encoder."""
        return self.image_encoder if self.image_encoder.name else self.swin
