"""RAM, RAM++ and Tag2Text: an image encoder, a recognition decoder that scores tags, a captioner guided by tags.

    pixels -> encoder -> image tokens (mean first) -> Linear ---+--> recognition decoder <- label queries -> logits
                                                                |
                          tags "a | b" -> tag encoder (cross) --+--> caption decoder -> caption

Label queries are frozen text embeddings of tags, so a model can score tags that it was not trained on. The two lowest
layers of the tag encoder share cross-attention and feed-forward weights with the recognition decoder (arXiv 2306.03514,
section 3.2; sizes in `settings/models.py`). RAM++ (arXiv 2310.15200) has several descriptions of each tag and weights
them for each image; Tag2Text learns its queries. They are the same class with another `config.architecture`.

Letters: B batch, S pixels, L image tokens, C their width, N tags, K descriptions of a tag, E width of text embeddings,
D width, P prompt tokens, T text tokens, T' tokens of the tags.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from ram_ray.models.blocks import initialise
from ram_ray.models.captioner import CaptionDecoder, TagEncoder
from ram_ray.models.generation import Generators, generate
from ram_ray.models.head import TagHead
from ram_ray.models.image_encoder import ImageEncoder, token_width
from ram_ray.models.losses import (
    UNKNOWN,
    asymmetric_loss,
    caption_loss,
    caption_targets,
    distillation_loss,
    kept_loss,
    ranking_loss,
)
from ram_ray.models.mkt import MKTHead
from ram_ray.models.ml_decoder import MLDecoder
from ram_ray.models.recognition import RecognitionDecoder
from ram_ray.settings.models import Decoding, ModelConfig
from ram_ray.settings.training import TagLossConfig

__all__ = ["RAM", "RecognitionDecoder"]


class RAM(nn.Module):
    """The tagger.

    Args:
        config: sizes and parts of the model.
        label_embed: (N, E) for RAM and (N, K, E) for RAM++, frozen; (N, D) for Tag2Text, whose queries are learned.

    Raises:
        ValueError: if the shape of the label embeddings does not fit the config.
    """

    label_embed: Tensor
    recognition: TagHead
    tag_encoder: TagEncoder
    caption_decoder: CaptionDecoder

    def __init__(self, config: ModelConfig, label_embed: Tensor) -> None:
        super().__init__()
        self.config = config
        shape = (config.descriptions, config.label_width) if self.reweighs else (config.label_width,)
        if tuple(label_embed.shape[1:]) != shape:
            expected = ", ".join(map(str, ("tags", *shape)))
            raise ValueError(f"label_embed has shape {tuple(label_embed.shape)}, the model needs ({expected})")
        learned_queries = config.architecture == "tag2text"
        width = token_width(config.encoder)
        projected = None if learned_queries else config.image_proj
        self.context_width = projected or width  # C, of the tokens that decoders see
        self.image_proj = nn.Linear(width, projected) if projected else nn.Identity()
        self.recognition = make_head(config, num_labels=len(label_embed), context_width=self.context_width)
        if config.captions:
            shared = self.recognition.layers if config.head == "recognition" else nn.ModuleList()
            self.tag_encoder = TagEncoder(config, shared, context_width=self.context_width)
            self.caption_decoder = CaptionDecoder(config)
        self.apply(partial(initialise, std=config.init_std))
        # After `apply`, because timm initialises the image encoder.
        self.image_encoder = ImageEncoder(config.encoder, image_size=config.image_size)
        if learned_queries:
            self.label_embed = nn.Parameter(label_embed.float())
        else:
            self.register_buffer("label_embed", label_embed.float())
        if self.reweighs:
            self.reweight_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        if isinstance(self.recognition, MKTHead):
            self.recognition.start_as_identity()
        if isinstance(self.recognition, RecognitionDecoder):
            is_loaded = self.label_embed.is_meta  # weights are assigned afterwards
            if config.init_std is None and config.architecture == "ram" and config.label_proj and not is_loaded:
                self.recognition.spread_queries(self.label_embed)
            if self.recognition.pooled is not None:
                self.recognition.pooled.start_at_zero()

    @property
    def reweighs(self) -> bool:
        """Whether the queries depend on the image (RAM++)."""
        return self.config.architecture == "ram_plus"

    def drop_captioner(self) -> None:
        """Remove the captioner."""
        if self.config.captions:
            self.config = self.config.model_copy(update={"captions": False})
            del self.tag_encoder, self.caption_decoder

    def set_recompute(self, enabled: bool) -> None:
        """Set whether the backward pass computes the layers again: less memory, the same gradients, more time.

        Args:
            enabled: True: activations of the layers are not kept.
        """
        self.image_encoder.set_recompute(enabled)
        self.recognition.recompute = enabled
        if self.config.captions:
            self.tag_encoder.recompute = self.caption_decoder.recompute = enabled

    def encode(self, pixel_values: Tensor) -> Tensor:
        """Encode images.

        Args:
            pixel_values: (B, 3, S, S) float, normalised.

        Returns:
            Projected tokens (B, 1 + L, C).
        """
        return self.image_proj(self.image_encoder(pixel_values))

    def queries(self, label_embed: Tensor, image_tokens: Tensor) -> Tensor:
        """Compute label queries.

        Args:
            label_embed: (N, E) text embeddings; RAM++: (N, K, E) of descriptions.
            image_tokens: (B, 1 + L, C); RAM++ weights descriptions by them.

        Returns:
            (1, N, D); RAM++: (B, N, D).
        """
        if not self.reweighs:
            return self.recognition.queries(label_embed)
        return self.recognition.queries(self.reweigh(label_embed, image_tokens[:, 0]))

    def reweigh(self, descriptions: Tensor, image: Tensor) -> Tensor:
        """Weight the descriptions of each tag for each image (RAM++, arXiv 2310.15200, section 3.3).

        The weights are a softmax over the products of the descriptions with the image's unit vector.

        Args:
            descriptions: (N, K, E).
            image: (B, E), the mean token.

        Returns:
            (B, N, E).
        """
        num_tags, num_descriptions, width = descriptions.shape
        unit = image / image.norm(dim=-1, keepdim=True)
        scores = (self.reweight_scale.exp() * unit) @ descriptions.flatten(0, 1).T
        weights = scores.view(-1, num_tags, num_descriptions).softmax(-1)
        return torch.bmm(weights.transpose(0, 1), descriptions.to(weights.dtype)).transpose(0, 1)

    def logits(self, image_tokens: Tensor, label_embed: Tensor | None = None) -> Tensor:
        """Score labels on encoded images.

        Args:
            image_tokens: (B, 1 + L, C).
            label_embed: embeddings of other tags, (N', E), RAM++: (N', K', E); None: the model's.

        Returns:
            Logits (B, N).

        Raises:
            ValueError: if it gets other embeddings and can score only its own tags.
        """
        if label_embed is not None:
            require_any_label(self.config)
        queries = self.queries(self.label_embed if label_embed is None else label_embed, image_tokens)
        return self.recognition(queries, image_tokens)

    def alignment_logits(self, image_tokens: Tensor, text_embed: Tensor) -> Tensor:
        """Score texts as tags, for the alignment loss (RAM++, arXiv 2310.15200).

        Args:
            image_tokens: (B, 1 + L, C).
            text_embed: (B', E) text embeddings.

        Returns:
            Logits (B, B').
        """
        return self.recognition(self.recognition.queries(text_embed), image_tokens)

    def forward(self, batch: dict[str, Tensor], *, tag_loss: TagLossConfig | None = None) -> dict[str, Tensor]:
        """Compute the training losses.

        Args:
            batch: tensors by name:
                pixel_values (B, 3, S, S) float, normalised; or tokens (B, 1 + L, C'), of the image encoder
                targets (B, N), 1 for a positive, 0 for a negative, `losses.UNKNOWN` for a target that is ignored
                caption_ids (B, T) and tag_ids (B, T'), optional: the caption and its tags as text
                caption_start: number of prompt tokens, which are not learned
                teacher (B, C), optional: the teacher's image feature of the same crop
                kept_ids (K,) and kept_logits (B, K), optional: labels, and their logits by another model
                text_embed (B, E), optional (RAM++): text embedding of each image's caption
                text_weight (B,), optional: 0 for a caption to be ignored, else 1; without it that of the image
                weight (B,), optional: 0 for an image to be ignored, else 1
            tag_loss: settings of the loss of tags; None: the paper's.

        Returns:
            Scalars by name: tag, and text, distill, kept and alignment if the batch has their inputs.
        """
        weight = batch.get("weight")
        tokens = self.image_proj(batch["tokens"]) if "tokens" in batch else self.encode(batch["pixel_values"])
        logits = self.logits(tokens)
        losses = {"tag": _tag_loss(logits, batch["targets"], tag_loss or TagLossConfig(), weight)}
        if "kept_logits" in batch:
            losses["kept"] = kept_loss(logits[:, batch["kept_ids"]], batch["kept_logits"], weight=weight)
        if "caption_ids" in batch:
            ids, tag_ids = batch["caption_ids"], batch["tag_ids"]
            predicted = self.caption_decoder(ids, self.tag_encoder(tag_ids, tokens), self._context_mask(tag_ids))
            targets = caption_targets(ids, start=int(batch["caption_start"]), weight=weight)
            losses["text"] = caption_loss(predicted, targets)
        if "teacher" in batch:
            losses["distill"] = distillation_loss(tokens[:, 0], batch["teacher"], weight=weight)
        if "text_embed" in batch:
            text_logits = self.alignment_logits(tokens, batch["text_embed"])
            pairs = torch.eye(len(text_logits), device=text_logits.device)
            text_weight = batch.get("text_weight", weight)
            if text_weight is not None:
                pairs = pairs.masked_fill(text_weight[None, :] == 0, UNKNOWN)
            losses["alignment"] = asymmetric_loss(text_logits, pairs, gamma_neg=4.0, weight=weight)
        return losses

    @torch.inference_mode()
    def generate(
        self,
        image_tokens: Tensor,
        tag_ids: Tensor,
        prompt_ids: Tensor,
        *,
        end: int,
        max_tokens: int | None = None,
        decoding: Decoding | None = None,
        generator: Generators = None,
    ) -> Tensor:
        """Generate captions.

        Args:
            image_tokens: (B, 1 + L, C).
            tag_ids: (B, T') ids of the tags as text.
            prompt_ids: (P,) ids of the prompt, with [DEC].
            end: id of the end token.
            max_tokens: maximum tokens after the prompt; None: the maximum of `decoding`.
            decoding: beams, lengths, repetition penalty or sampling; None: the config's.
            generator: generator of the draws, or a list with a generator for each image.

        Returns:
            int64 (B, T): ids after the prompt, zero from the end token on.
        """
        decoding = decoding or self.config.decoding
        length = decoding.max_length or self.config.max_caption_tokens
        ids = generate(
            self.caption_decoder,
            self.tag_encoder(tag_ids, image_tokens),
            self._context_mask(tag_ids),
            prompt_ids,
            decoding=decoding,
            max_length=length if max_tokens is None else len(prompt_ids) + max_tokens,
            end=end,
            tag_ids=tag_ids,
            generator=generator,
        )[:, len(prompt_ids) :]
        return ids.masked_fill(ids == end, 0)

    def _context_mask(self, tag_ids: Tensor) -> Tensor | None:
        return tag_ids != 0 if self.config.mask_tag_padding else None


def make_head(config: ModelConfig, *, num_labels: int, context_width: int) -> TagHead:
    """Make the head that a config names.

    Args:
        config: of the model.
        num_labels: N, of the training.
        context_width: C.

    Returns:
        The head, with new weights.
    """
    if config.head == "ml_decoder":
        return MLDecoder(
            config.ml_decoder, num_labels=num_labels, label_width=config.label_width, context_width=context_width
        )
    if config.head == "mkt":
        return MKTHead(config.mkt, label_width=config.label_width, context_width=context_width)
    learned_queries = config.architecture == "tag2text"
    return RecognitionDecoder(
        config.recognition,
        label_width=None if learned_queries else config.label_width,
        context_width=context_width,
        label_proj=config.label_proj,
        per_tag=num_labels if learned_queries else None,
        similarity=config.similarity,
        pooled=config.pooled,
    )


def require_any_label(config: ModelConfig) -> None:
    """Check that a model can score other labels than those of its training.

    Args:
        config: of the model.

    Raises:
        ValueError: if it cannot, with what can.
    """
    if config.scores_any_label:
        return
    name, other = "Tag2Text", "a RAM or RAM++ model"
    if config.architecture != "tag2text":
        name, other = "An ML-Decoder with group queries", "a model with model.ml_decoder.text_queries or another head"
    raise ValueError(f"{name} answers for its own tags alone; use {other} for other tags")


def _tag_loss(logits: Tensor, targets: Tensor, config: TagLossConfig, weight: Tensor | None) -> Tensor:
    """The loss of logits (B, N) of tags, summed over images."""
    if config.kind == "ranking":
        return ranking_loss(logits, targets, margin=config.margin, weight=weight)
    exponents = {"gamma_neg": config.gamma_neg, "gamma_pos": config.gamma_pos}
    return asymmetric_loss(logits, targets, **exponents, clip=config.clip, weight=weight)
