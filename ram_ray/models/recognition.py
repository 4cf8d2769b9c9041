"""The recognition decoder: label queries ask the image tokens, and each gives one logit.

What does not depend on the image, the queries and their first projection, is computed once a label set
(`queries`, `first_side`) and may be handed in again and again.

Letters: B batch, L image tokens, N tags, E width of text embeddings, D width, C context width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ram_ray.models.blocks import Block
from ram_ray.settings.models import TransformerConfig


class PerTagLinear(nn.Module):
    """A classifier of its own for every tag (Tag2Text, after Query2Label, arXiv 2107.10834)."""

    def __init__(self, num_tags: int, width: int) -> None:
        super().__init__()
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(num_tags, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(num_tags).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, N, 1)."""
        # A product for each tag. Written as a sum of products, OpenVINO 2026.4 compiles it to other numbers.
        return (x.unsqueeze(-2) @ self.weight.unsqueeze(-1)).squeeze(-1) + self.bias.unsqueeze(-1)


class RecognitionDecoder(nn.Module):
    """Cross-attention of label queries to image tokens; no self-attention, so tags do not see one another.

    Args:
        config: sizes of the layers.
        label_width: width of text embeddings; None: queries are given as they are, without projection and ReLU.
        context_width: C, of image tokens.
        label_proj: whether text embeddings are projected to the decoder's width.
        per_tag: the number of tags, where every tag has its own classifier.
        similarity: whether a logit also gets the product of the tag's query with the mean image token.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        label_width: int | None,
        context_width: int,
        label_proj: bool = True,
        per_tag: int | None = None,
        similarity: bool = False,
    ) -> None:
        super().__init__()
        self.text_queries = label_width is not None
        self.label_proj = nn.Linear(label_width, config.width) if label_width is not None and label_proj else None
        self.layers = nn.ModuleList(
            Block(
                config.width,
                heads=config.heads,
                ffn=config.ffn,
                dropout=config.dropout,
                self_attention=False,
                context_width=context_width,
                norm_eps=config.norm_eps,
            )
            for _ in range(config.layers)
        )
        self.fc = nn.Linear(config.width, 1) if per_tag is None else PerTagLinear(per_tag, config.width)
        self.similarity = nn.Linear(config.width, context_width, bias=False) if similarity else None

    def queries(self, label_embed: Tensor) -> Tensor:
        """Queries of labels.

        Args:
            label_embed: text embeddings (N, E), the same for every image, or (B, N, E).

        Returns:
            (1, N, D) or (B, N, D).
        """
        x = label_embed if label_embed.ndim == 3 else label_embed.unsqueeze(0)
        if not self.text_queries:
            return x
        return F.relu(x if self.label_proj is None else self.label_proj(x))

    def first_side(self, queries: Tensor) -> Tensor:
        """The first layer's projection of queries: the last step that no image changes.

        Args:
            queries: (1, N, D).

        Returns:
            (1, N, D).
        """
        first = self.layers[0]
        assert isinstance(first, Block) and first.cross is not None
        return first.cross.query(queries)

    @torch.no_grad()
    def spread_queries(self, label_embed: Tensor) -> None:
        """Start `label_proj` so that before the ReLU the queries of these labels (N, E) are random and unlike.

        Text embeddings of names lie close together, in a small text encoder at a mean cosine of 0.9, and queries
        that are all alike make a slow start. Here they are centred and whitened first, then projected at random to
        a standard deviation of 2. It is a start only: the layer learns on, and takes any other label.

        Args:
            label_embed: (N, E) float.
        """
        assert self.label_proj is not None
        mean = label_embed.mean(0)
        _, strengths, axes = torch.linalg.svd(label_embed - mean, full_matrices=False)
        kept = strengths > 0.02 * strengths[0]
        if not kept.any():
            return
        axes, strengths = axes[kept], strengths[kept]
        whiten = axes.T @ (axes / strengths[:, None]) * (len(label_embed) / len(axes)) ** 0.5
        self.label_proj.weight.copy_(2 * torch.randn_like(self.label_proj.weight) @ whiten)
        self.label_proj.bias.copy_(-self.label_proj.weight @ mean)

    def forward(self, queries: Tensor, image_tokens: Tensor, *, first_side: Tensor | None = None) -> Tensor:
        """Score labels on encoded images.

        Args:
            queries: (1 or B, N, D).
            image_tokens: (B, 1 + L, C).
            first_side: of `first_side`, where it is known from before.

        Returns:
            Logits (B, N).
        """
        x = queries
        for layer in self.layers:
            x = layer(x, image_tokens, projected=first_side)
            first_side = None
        logits = self.fc(x).squeeze(-1)
        if self.similarity is None:
            return logits
        mean = image_tokens[:, 0] / image_tokens.shape[-1] ** 0.5
        return logits + (self.similarity(queries) @ mean.unsqueeze(-1)).squeeze(-1)

    def attention(self, queries: Tensor, image_tokens: Tensor) -> Tensor:
        """Where the last layer's queries look.

        Args:
            queries: (1 or B, N, D).
            image_tokens: (B, 1 + L, C).

        Returns:
            (B, N, L), the mean token left out, each row summing to one.
        """
        x = queries
        *lower, last = self.layers
        for layer in lower:
            x = layer(x, image_tokens)
        assert isinstance(last, Block) and last.cross is not None
        weights = last.cross.weights(x, image_tokens, heads=last.heads)[..., 1:]
        return weights / weights.sum(-1, keepdim=True)
