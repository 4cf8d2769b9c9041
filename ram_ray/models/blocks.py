"""Transformer blocks of the recognition decoder, tag encoder and caption decoder: post-LayerNorm, as in BERT.

A block has up to three steps: self-attention, cross-attention to a context, feed-forward. The recognition decoder has
no self-attention; the tag encoder and the caption decoder have all three.

The number of heads is an argument of the call. The recognition decoder and the lowest layers of the tag encoder share
the weights of cross-attention and feed-forward, but with different numbers of heads (RAM, arXiv 2306.03514, section 3.2
and its released configuration).

Letters: B batch, T queries, S context tokens, D width, C context width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ram_ray.models.active_rows import ActiveRows, RowLinear

NORM_EPS = 1e-12  # BERT's value, as in released checkpoints

Cache = dict[str, Tensor]  # keys and values of a layer, (B, heads, length, D / heads)


class Attention(nn.Module):
    """Multi-head attention with its output projection, residual and LayerNorm.

    Args:
        width: D, width of queries and results.
        context_width: C, width of keys and values.
        dropout: dropout of attention and result, 0 to 1.
        norm_eps: epsilon of LayerNorm.
    """

    def __init__(self, width: int, context_width: int, *, dropout: float, norm_eps: float = NORM_EPS) -> None:
        super().__init__()
        self.query = RowLinear(width, width)
        self.key = nn.Linear(context_width, width)
        self.value = nn.Linear(context_width, width)
        self.out = RowLinear(width, width)
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.dropout = dropout

    def forward(
        self,
        x: Tensor,
        context: Tensor | None,
        *,
        heads: int,
        mask: Tensor | None = None,
        causal: bool = False,
        cache: Cache | None = None,
        static_context: bool = False,
        projected: Tensor | None = None,
        rows: ActiveRows | None = None,
    ) -> Tensor:
        """Attend from `x` to `context`.

        Args:
            x: (B or 1, T, D); a batch of 1 holds the same queries for every row and is projected once.
            context: (B, S, C); None on later calls with a cache of a static context.
            heads: number of heads.
            mask: bool, broadcastable to (B, heads, T, S), True where attention is allowed.
            causal: each query attends only to keys up to its own position.
            cache: keys and values of earlier calls; extended, or with `static_context` computed once and reused.
            static_context: the context is the same in all calls with this cache.
            projected: `self.query(x)`, if already computed.
            rows: rows that the backward pass computes; None: all.

        Returns:
            (B, T, D).
        """
        q = _split(_apply(self.query, x, rows) if projected is None else projected, heads)
        if cache is not None and static_context and "k" in cache:
            k, v = cache["k"], cache["v"]
        else:
            assert context is not None
            k, v = _split(self.key(context), heads), _split(self.value(context), heads)
            if cache is not None:
                if "k" in cache:
                    k, v = torch.cat([cache["k"], k], dim=2), torch.cat([cache["v"], v], dim=2)
                cache["k"], cache["v"] = k, v
        if q.shape[0] != k.shape[0]:
            q = q.expand(k.shape[0], -1, -1, -1)
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, dropout_p=self.dropout if self.training else 0.0
        )
        y = _apply(self.out, y.transpose(1, 2).flatten(2), rows)
        return self.norm(F.dropout(y, self.dropout, self.training) + x)

    def weights(self, x: Tensor, context: Tensor, *, heads: int) -> Tensor:
        """Compute the attention probabilities, averaged over heads.

        Args:
            x: (B or 1, T, D).
            context: (B, S, C).
            heads: number of heads.

        Returns:
            (B, T, S); each row sums to 1.
        """
        q, k = _split(self.query(x), heads), _split(self.key(context), heads)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        return scores.softmax(-1).mean(1)


class FeedForward(nn.Module):
    """Two linear layers with GELU, residual and LayerNorm.

    Args:
        width: D.
        hidden: width of the hidden layer.
        dropout: dropout of the result, 0 to 1.
        norm_eps: epsilon of LayerNorm.
    """

    def __init__(self, width: int, hidden: int, *, dropout: float, norm_eps: float = NORM_EPS) -> None:
        super().__init__()
        self.up = RowLinear(width, hidden)
        self.activation = nn.GELU()  # a module, so that `fast.pack_linears` can fuse it into `up`
        self.down = RowLinear(hidden, width)
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.dropout = dropout

    def forward(self, x: Tensor, rows: ActiveRows | None = None) -> Tensor:
        """Apply the layers.

        Args:
            x: (B, T, D).
            rows: rows that the backward pass computes; None: all.

        Returns:
            (B, T, D).
        """
        y = _apply(self.down, self.activation(_apply(self.up, x, rows)), rows)
        return self.norm(F.dropout(y, self.dropout, self.training) + x)


class Block(nn.Module):
    """Self-attention (optional), cross-attention (optional), feed-forward.

    Args:
        width: D.
        heads: number of heads of both attentions.
        ffn: hidden width of the feed-forward.
        dropout: 0 to 1.
        self_attention: whether the block has self-attention.
        context_width: C; None: no cross-attention.
        norm_eps: epsilon of LayerNorm.
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        ffn: int,
        dropout: float,
        self_attention: bool = True,
        context_width: int | None = None,
        norm_eps: float = NORM_EPS,
    ) -> None:
        super().__init__()
        self.heads = heads
        options = {"dropout": dropout, "norm_eps": norm_eps}
        self.attention = Attention(width, width, **options) if self_attention else None
        self.cross = Attention(width, context_width, **options) if context_width else None
        self.ffn = FeedForward(width, ffn, **options)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        context_mask: Tensor | None = None,
        causal: bool = False,
        cache: dict[str, Cache] | None = None,
        projected: Tensor | None = None,
        rows: ActiveRows | None = None,
    ) -> Tensor:
        """Apply the block's self-attention, cross-attention and feed-forward.

        Args:
            x: (B or 1, T, D).
            context: (B, S, C), for cross-attention.
            mask: mask of self-attention, see `Attention.forward`.
            context_mask: mask of cross-attention.
            causal: whether self-attention is causal.
            cache: keys and values of both attentions, for token-by-token decoding.
            projected: projected queries of cross-attention, if already computed.
            rows: rows that the backward pass computes, in a block without self-attention; None: all.

        Returns:
            (B, T, D).
        """
        if self.attention is not None:
            past = cache.setdefault("self", {}) if cache is not None else None
            x = self.attention(x, x, heads=self.heads, mask=mask, causal=causal, cache=past)
        if self.cross is not None:
            past = cache.setdefault("cross", {}) if cache is not None else None
            x = self.cross(
                x,
                context,
                heads=self.heads,
                mask=context_mask,
                cache=past,
                static_context=True,
                projected=projected,
                rows=rows,
            )
        return self.ffn(x, rows)


def run_layer(layer: Callable[..., Tensor], *inputs: Any, recompute: bool, **options: Any) -> Tensor:
    """Call a layer; with `recompute` its activations are not kept, and the backward pass computes them again.

    The second computation draws the same dropout, so the gradients are the same, bit for bit on a CPU.

    Args:
        layer: called with the inputs and options.
        inputs: positional arguments.
        recompute: whether activations are computed again; without gradients it has no effect.
        options: named arguments.

    Returns:
        What the layer returns.
    """
    if recompute and torch.is_grad_enabled():
        return checkpoint(layer, *inputs, use_reentrant=False, **options)
    return layer(*inputs, **options)


class TokenEmbedding(nn.Module):
    """Token and position embeddings, LayerNorm, dropout.

    Args:
        vocab_size: number of tokens; token 0 is padding.
        width: D.
        max_positions: largest number of tokens.
        dropout: 0 to 1.
        norm_eps: epsilon of LayerNorm.
    """

    def __init__(
        self, vocab_size: int, width: int, *, max_positions: int, dropout: float, norm_eps: float = NORM_EPS
    ) -> None:
        super().__init__()
        self.word = nn.Embedding(vocab_size, width, padding_idx=0)
        self.position = nn.Embedding(max_positions, width)
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.dropout = dropout

    def forward(self, ids: Tensor, *, start: int = 0) -> Tensor:
        """Embed tokens and their positions.

        Args:
            ids: (B, T) int.
            start: position of the first token.

        Returns:
            (B, T, D).
        """
        positions = torch.arange(start, start + ids.shape[1], device=ids.device)
        x = self.norm(self.word(ids) + self.position(positions))
        return F.dropout(x, self.dropout, self.training)


def initialise(module: nn.Module, *, std: float | None = 0.02) -> None:
    """Initialise a linear layer or an embedding with normal weights and zero biases. For `Module.apply`.

    BERT's standard deviation 0.02 suits widths of about 768. At width 100 it shrinks the signal fivefold in each layer,
    and a tagger with post-LayerNorm then learns slowly. 1 / sqrt(inputs) keeps the scale of the signal at any width.

    Args:
        module: a layer; layers of other types are not changed.
        std: standard deviation; None: 1 / sqrt(inputs) for linear layers and 0.02 for embeddings.
    """
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=std if std is not None else module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02 if std is None else std)
        if module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx].zero_()


def _apply(layer: nn.Module, x: Tensor, rows: ActiveRows | None) -> Tensor:
    """Apply a `RowLinear`, or what stands for it in inference (`cpu_inference`) and knows no rows."""
    return layer(x) if rows is None else layer(x, rows)


def _split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
