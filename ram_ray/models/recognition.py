"""The recognition decoder: cross-attention of label queries to image tokens gives a logit for each tag.

The queries and their first projection (`queries`, `project_queries`) do not depend on the image, so they can be
computed once for a label set and passed to each call.

Letters: B batch, L image tokens, N tags, E width of text embeddings, D width, C context width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ram_ray.models.active_rows import EXACT, ActiveRows
from ram_ray.models.blocks import Block, run_layer
from ram_ray.models.head import TagHead
from ram_ray.settings.models import PooledConfig, TransformerConfig


class PerTagLinear(nn.Module):
    """A separate linear classifier for each tag (Tag2Text, after Query2Label, arXiv 2107.10834).

    Args:
        num_tags: N.
        width: D.
    """

    def __init__(self, num_tags: int, width: int) -> None:
        super().__init__()
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(num_tags, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(num_tags).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the classifiers.

        Args:
            x: (B, N, D).

        Returns:
            Logits (B, N, 1).
        """
        # A matrix product for each tag, because OpenVINO 2026.4 compiles a sum of products to wrong results.
        return (x.unsqueeze(-2) @ self.weight.unsqueeze(-1)).squeeze(-1) + self.bias.unsqueeze(-1)


class PooledScores(nn.Module):
    """Products of queries with a hidden layer over the mean and the maximum of the image tokens, all normalised.

    `start_at_zero` is for a new model: its first steps then do not depend on random products.

    Args:
        hidden_width: of the layer.
        dropout: probability, of the layer's input and output in training.
        width: D.
        context_width: C.
    """

    def __init__(self, hidden_width: int, *, dropout: float, width: int, context_width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * context_width, hidden_width)
        self.query = nn.Linear(width, hidden_width)
        self.dropout = dropout

    def start_at_zero(self) -> None:
        """Set the weights so that all scores are 0."""
        nn.init.zeros_(self.query.weight)
        nn.init.zeros_(self.query.bias)

    def forward(self, queries: Tensor, image_tokens: Tensor) -> Tensor:
        """Score labels.

        Args:
            queries: (1 or B, N, D).
            image_tokens: (B, 1 + L, C).

        Returns:
            Logits (B, N).
        """
        parts = (image_tokens[:, 0], image_tokens[:, 1:].amax(1))
        pooled = torch.cat([F.layer_norm(part, part.shape[-1:]) for part in parts], dim=-1)
        hidden = F.relu(self.hidden(F.dropout(pooled, self.dropout, self.training)))
        hidden = F.dropout(hidden, self.dropout, self.training)
        return (self.query(F.normalize(queries, dim=-1)) @ hidden.unsqueeze(-1)).squeeze(-1)


class RecognitionDecoder(TagHead):
    """Cross-attention of label queries to image tokens. There is no self-attention, so tags do not affect each other.

    Args:
        config: sizes of the layers.
        label_width: E; None: embeddings are used as queries, without projection and ReLU.
        context_width: C, width of image tokens.
        label_proj: whether text embeddings are projected to the decoder's width.
        per_tag: number of tags with separate classifiers; None: a shared classifier.
        similarity: whether a logit also gets the product of the tag's query with the mean image token.
        pooled: whether a logit also gets a score from pooled tokens.
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
        pooled: PooledConfig | None = None,
    ) -> None:
        super().__init__(width=config.width, hidden_width=config.ffn)
        self.skipped_gradient = EXACT  # of the backward pass, see `ActiveRows`
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
        self.pooled: PooledScores | None = None
        if pooled and pooled.width:
            self.pooled = PooledScores(
                pooled.width, dropout=pooled.dropout, width=config.width, context_width=context_width
            )

    def queries(self, label_embed: Tensor) -> Tensor:
        """Compute the queries of labels.

        Args:
            label_embed: text embeddings (N, E), the same for every image, or (B, N, E).

        Returns:
            (1, N, D) or (B, N, D); after a ReLU if layers attend with them.
        """
        x = label_embed if label_embed.ndim == 3 else label_embed.unsqueeze(0)
        if not self.text_queries:
            return x
        queries = x if self.label_proj is None else self.label_proj(x)
        return F.relu(queries) if self.layers else queries

    def project_queries(self, queries: Tensor) -> Tensor:
        """Project queries in the first layer's attention, if there is one; this does not depend on the image.

        Args:
            queries: (1, N, D).

        Returns:
            (1, N, D).
        """
        if not self.layers:
            return queries
        first = self.layers[0]
        assert isinstance(first, Block) and first.cross is not None
        return first.cross.query(queries)

    @torch.no_grad()
    def spread_queries(self, label_embed: Tensor) -> None:
        """Initialise `label_proj` so that the queries of these labels are dissimilar before the ReLU.

        Text embeddings of names are similar to each other (in a small text encoder, their mean cosine is 0.9), and
        similar queries slow down the start of training. The projection centres and whitens the embeddings; for layers,
        it then projects them at random to a standard deviation of 2. Training changes it, and any other label can be
        used.

        Args:
            label_embed: (N, E) float.
        """
        assert self.label_proj is not None
        mean = label_embed.mean(0)
        _, singular_values, axes = torch.linalg.svd(label_embed - mean, full_matrices=False)
        selected = singular_values > 0.02 * singular_values[0]
        if not selected.any():
            return
        axes, singular_values = axes[selected], singular_values[selected]
        whiten = axes / singular_values[:, None] * (len(label_embed) / len(axes)) ** 0.5
        weight = self.label_proj.weight
        spread = 2 * torch.randn_like(weight) @ axes.T if self.layers else torch.eye(len(weight), len(axes)).to(weight)
        weight.copy_(spread @ whiten)
        self.label_proj.bias.copy_(-weight @ mean)

    def forward(self, queries: Tensor, image_tokens: Tensor, *, projected_queries: Tensor | None = None) -> Tensor:
        """Score labels on encoded images.

        Args:
            queries: (1 or B, N, D).
            image_tokens: (B, 1 + L, C).
            projected_queries: result of `project_queries` for these queries, if already computed.

        Returns:
            Logits (B, N).
        """
        x = queries
        rows = ActiveRows(self.skipped_gradient) if self.training and self.layers and torch.is_grad_enabled() else None
        for layer in self.layers:
            x = run_layer(layer, x, image_tokens, projected=projected_queries, rows=rows, recompute=self.recompute)
            projected_queries = None
        logits = self.fc(x).squeeze(-1)
        if rows is not None and logits.requires_grad:
            rows.watch(logits)
        if self.similarity is not None:
            mean = image_tokens[:, 0] / image_tokens.shape[-1] ** 0.5
            logits = logits + (self.similarity(queries) @ mean.unsqueeze(-1)).squeeze(-1)
        return logits if self.pooled is None else logits + self.pooled(queries, image_tokens)

    def attention(self, queries: Tensor, image_tokens: Tensor) -> Tensor:
        """Compute the attention probabilities of the last layer.

        Args:
            queries: (1 or B, N, D).
            image_tokens: (B, 1 + L, C).

        Returns:
            (B, N, L), without the mean token; each row sums to 1.

        Raises:
            ValueError: if the decoder has no layers.
        """
        if not self.layers:
            raise ValueError("a model with model.recognition.layers 0 has no attention to image tokens")
        x = queries
        *lower, last = self.layers
        for layer in lower:
            x = layer(x, image_tokens)
        assert isinstance(last, Block) and last.cross is not None
        weights = last.cross.weights(x, image_tokens, heads=last.heads)[..., 1:]
        return weights / weights.sum(-1, keepdim=True)
