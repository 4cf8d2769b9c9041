"""Transformer blocks shared by every text-side part of the tagger: post-LayerNorm, as in BERT.

One block has up to three steps: self-attention, cross-attention to a context, feed-forward. The recognition
decoder has no self-attention; the tag encoder and the caption decoder have all three.

The number of heads is an argument of the call, not of the weights: the recognition decoder and the lowest
layers of the tag encoder share their cross-attention and feed-forward weights but split them into different
numbers of heads (RAM, section 3.2 and its released configuration).

Letters: B batch, T queries, S context tokens, D width, C context width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-12  # BERT's, so that released checkpoints give their own numbers

Cache = dict[str, Tensor]  # keys and values of one layer, (B, heads, length, D / heads)


class Attention(nn.Module):
    """Multi-head attention with its output projection, residual and LayerNorm.

    Args:
        width: D, of queries and results.
        context_width: C, of keys and values.
        dropout: of the result, 0 to 1.
        norm_eps: of LayerNorm.
    """

    def __init__(self, width: int, context_width: int, *, dropout: float, norm_eps: float = NORM_EPS) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(context_width, width)
        self.value = nn.Linear(context_width, width)
        self.out = nn.Linear(width, width)
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
        keep: bool = False,
        projected: Tensor | None = None,
    ) -> Tensor:
        """Attend from `x` to `context`.

        Args:
            x: (B or 1, T, D); a batch of one stands for the same queries in every row and is projected once.
            context: (B, S, C); None with a cache that is kept, on later calls.
            heads: number of heads.
            mask: bool, broadcastable to (B, heads, T, S), True where attention is allowed.
            causal: each query sees only keys up to its own position.
            cache: keys and values: appended to, or with `keep` computed once and reused.
            keep: for a context that does not change.
            projected: `self.query(x)`, where that is known from before.

        Returns:
            (B, T, D).
        """
        q = _split(self.query(x) if projected is None else projected, heads)
        if cache is not None and keep and "k" in cache:
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
        y = self.out(y.transpose(1, 2).flatten(2))
        return self.norm(F.dropout(y, self.dropout, self.training) + x)

    def weights(self, x: Tensor, context: Tensor, *, heads: int) -> Tensor:
        """Attention probabilities, mean over heads.

        Args:
            x: (B or 1, T, D).
            context: (B, S, C).
            heads: number of heads.

        Returns:
            (B, T, S), each row summing to one.
        """
        q, k = _split(self.query(x), heads), _split(self.key(context), heads)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        return scores.softmax(-1).mean(1)


class FeedForward(nn.Module):
    """Two linear maps with GELU, residual and LayerNorm."""

    def __init__(self, width: int, hidden: int, *, dropout: float, norm_eps: float = NORM_EPS) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.activation = nn.GELU()  # a module, so that a faster first map may do it as well
        self.down = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        y = self.down(self.activation(self.up(x)))
        return self.norm(F.dropout(y, self.dropout, self.training) + x)


class Block(nn.Module):
    """Self-attention (optional), cross-attention (optional), feed-forward.

    Args:
        width: D.
        heads: number of heads of both attentions.
        ffn: width of the feed-forward's hidden layer.
        dropout: 0 to 1.
        self_attention: False leaves it out.
        context_width: C; None leaves cross-attention out.
        norm_eps: of LayerNorm.
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
        rest = {"dropout": dropout, "norm_eps": norm_eps}
        self.attention = Attention(width, width, **rest) if self_attention else None
        self.cross = Attention(width, context_width, **rest) if context_width else None
        self.ffn = FeedForward(width, ffn, **rest)

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
    ) -> Tensor:
        """Self-attention, cross-attention and feed-forward, of those that the block has.

        Args:
            x: (B or 1, T, D).
            context: (B, S, C) of cross-attention.
            mask: of self-attention, see `Attention.forward`.
            context_mask: of cross-attention.
            causal: of self-attention.
            cache: keys and values of both, for decoding a token at a time.
            projected: queries of cross-attention, where they are known from before.

        Returns:
            (B, T, D).
        """
        if self.attention is not None:
            past = cache.setdefault("self", {}) if cache is not None else None
            x = self.attention(x, x, heads=self.heads, mask=mask, causal=causal, cache=past)
        if self.cross is not None:
            past = cache.setdefault("cross", {}) if cache is not None else None
            x = self.cross(x, context, heads=self.heads, mask=context_mask, cache=past, keep=True, projected=projected)
        return self.ffn(x)


class TokenEmbedding(nn.Module):
    """Word and position embeddings, LayerNorm, dropout."""

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
    """Normal weights and zero biases for linear layers and embeddings. For `Module.apply`.

    0.02 is BERT's standard deviation, right for widths about 768. None: 1 / sqrt(inputs) for linear layers, which
    keeps a signal's size at any width; at a width of 100, 0.02 shrinks it fivefold a layer, and a tagger with
    LayerNorm behind its residuals then hardly sees the image for its first thousands of steps.

    Args:
        module: one layer; others than linear maps and embeddings are left alone.
        std: standard deviation of weights.
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


def _split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
