"""What computes a tagger's forward, as the rest of the package sees it: PyTorch and OpenVINO answer to this.

A backend knows two steps: pictures to image tokens, and tokens with a set of labels to logits. What does not depend on
a picture is computed once a label set (`LabelSet`). Both backends are exact in fp32 (the tests hold them to the plain
model within 1e-4) and rounded in bf16.

Letters: B images, S pixels a side, L image tokens, C their width, N tags, K descriptions, E text embedding, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ram_ray.models.ram import RAM


@dataclass(frozen=True)
class LabelSet:
    """Tags to ask for: queries (1, N, D) and their first projection, or for RAM++ descriptions (N, K, E)."""

    queries: Tensor | None = None
    first_side: Tensor | None = None
    descriptions: Tensor | None = None


class Backend(Protocol):
    """The forward of one model on one device. Safe to call from several threads."""

    def encode(self, pixel_values: Tensor) -> Tensor:
        """Encode images.

        Args:
            pixel_values: (B, 3, S, S) float32, normalised.

        Returns:
            Image tokens (B, 1 + L, C) float32.
        """
        ...

    def logits(self, tokens: Tensor, labels: LabelSet) -> Tensor:
        """Score labels on encoded images.

        Args:
            tokens: (B, 1 + L, C) float32, from `encode`.
            labels: what is asked for.

        Returns:
            (B, N) float32.
        """
        ...


@torch.inference_mode()
def label_set(model: RAM, embed: Tensor) -> LabelSet:
    """A label set of embeddings.

    Args:
        model: whose labels they are.
        embed: (N, E) float; RAM++: (N, K, E).

    Returns:
        What of the forward depends on the labels alone, on the model's device.
    """
    embed = embed.to(model.label_embed.device).float()
    if model.reweighs:
        return LabelSet(descriptions=embed)
    queries = model.recognition.queries(embed)
    return LabelSet(queries, model.recognition.first_side(queries))


class Pieces:
    """A batch cut so that what lies between two layers stays small.

    On a CPU a large batch is no quicker an image than a few pictures, and of a Swin-L with 4,585 tags a batch of 32
    would take gigabytes.

    Args:
        model: whose sizes say how many pictures fit.
        whole: do not cut, as on a GPU.
    """

    _PATCHES, _HIDDEN = 1 << 15, 1 << 26  # of the first stage; values of a feed-forward's hidden layer

    def __init__(self, model: RAM, *, whole: bool = False) -> None:
        config = model.config
        self._whole, self._ffn = whole, config.recognition.ffn
        self._images = max(1, self._PATCHES // (config.image_size // config.swin.patch_size) ** 2)

    def encode(self, run: Callable[[Tensor], Tensor], pixel_values: Tensor) -> Tensor:
        """`run` over pictures, a few at a time.

        Args:
            run: pixels (b, 3, S, S) to tokens.
            pixel_values: (B, 3, S, S) float32.

        Returns:
            Image tokens (B, 1 + L, C).
        """
        return self._over(run, pixel_values, self._images)

    def logits(self, run: Callable[[Tensor], Tensor], tokens: Tensor, labels: LabelSet) -> Tensor:
        """`run` over image tokens, a few pictures at a time.

        Args:
            run: tokens (b, 1 + L, C) to logits.
            tokens: (B, 1 + L, C).
            labels: what is asked for; the more, the fewer pictures at a time.

        Returns:
            Logits (B, N).
        """
        known = labels.descriptions if labels.queries is None else labels.queries[0]
        assert known is not None
        return self._over(run, tokens, max(1, self._HIDDEN // (len(known) * self._ffn)))

    def _over(self, run: Callable[[Tensor], Tensor], batch: Tensor, size: int) -> Tensor:
        if self._whole or len(batch) <= size:
            return run(batch)
        return torch.cat([run(part) for part in batch.split(size)])
