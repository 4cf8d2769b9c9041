"""The captioner: a tag encoder (tags as text, cross-attention to the image) and a causal caption decoder.

Letters: B batch, L image tokens, C their width, T text tokens, T' tokens of the tags, D width, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ram_ray.models.blocks import Block, TokenEmbedding, run_layer
from ram_ray.settings.models import ModelConfig, TransformerConfig


class TagEncoder(nn.Module):
    """Image-tag interaction encoder (RAM, arXiv 2306.03514, section 3.2).

    Its lowest layers share cross-attention and feed-forward weights with the recognition decoder.

    Args:
        config: config of the whole model.
        shared: layers of the recognition decoder, which share their weights; empty: another head scores the tags.
        context_width: width of the image tokens.
    """

    def __init__(self, config: ModelConfig, shared: nn.ModuleList, *, context_width: int) -> None:
        super().__init__()
        size = config.tag_encoder
        self.recompute = False
        self.embedding = _embedding(config, size)
        self.layers = _layers(size, context_width=context_width)
        for layer, shared_layer in zip(self.layers, shared, strict=False):
            layer.cross, layer.ffn = shared_layer.cross, shared_layer.ffn

    def forward(self, ids: Tensor, image_tokens: Tensor) -> Tensor:
        """Encode tags as text, with cross-attention to the image.

        Args:
            ids: (B, T') int, 0 is padding.
            image_tokens: (B, 1 + L, C).

        Returns:
            (B, T', D).
        """
        mask = (ids != 0)[:, None, None, :]
        x = self.embedding(ids)
        for layer in self.layers:
            x = run_layer(layer, x, image_tokens, mask=mask, recompute=self.recompute)
        return x


class CaptionDecoder(nn.Module):
    """Image-tag-text decoder: causal, with cross-attention to the tag encoder's output.

    The output layer shares the weight of the token embedding.

    Args:
        config: config of the whole model.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = config.caption_decoder
        self.recompute = False
        self.embedding = _embedding(config, size)
        self.layers = _layers(size, context_width=config.tag_encoder.width)
        self.transform = nn.Linear(size.width, size.width)
        self.norm = nn.LayerNorm(size.width, eps=size.norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(
        self,
        ids: Tensor,
        context: Tensor | None,
        context_mask: Tensor | None,
        *,
        caches: list[dict] | None = None,
        start: int = 0,
    ) -> Tensor:
        """Predict the next token at each position.

        Without `caches`, padding (id 0) is masked for all other tokens.

        Args:
            ids: (B, T) int.
            context: (B, T', D'), the tag encoder's output; with `caches` None after the first call.
            context_mask: (B, T') bool, True where attention is allowed; None: everywhere.
            caches: keys and values of each layer, for token-by-token decoding.
            start: position of the first token.

        Returns:
            Logits (B, T, V).
        """
        x = self.embedding(ids, start=start)
        causal, mask = ids.shape[1] > 1, None
        if caches is None:
            length = ids.shape[1]
            mask = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril() & (ids != 0)[:, None, None, :]
            causal = False
        for index, layer in enumerate(self.layers):
            x = run_layer(
                layer,
                x,
                context,
                recompute=self.recompute,
                mask=mask,
                context_mask=None if context_mask is None else context_mask[:, None, None, :],
                causal=causal,
                cache=caches[index] if caches is not None else None,
            )
        x = self.norm(F.gelu(self.transform(x)))
        return F.linear(x, self.embedding.word.weight, self.bias)


def _embedding(config: ModelConfig, size: TransformerConfig) -> TokenEmbedding:
    return TokenEmbedding(
        config.vocab_size,
        size.width,
        max_positions=config.max_positions,
        dropout=size.dropout,
        norm_eps=size.norm_eps,
    )


def _layers(size: TransformerConfig, *, context_width: int) -> nn.ModuleList:
    return nn.ModuleList(
        Block(
            size.width,
            heads=size.heads,
            ffn=size.ffn,
            dropout=size.dropout,
            context_width=context_width,
            norm_eps=size.norm_eps,
        )
        for _ in range(size.layers)
    )
