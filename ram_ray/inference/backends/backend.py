"""The interface of the backends that compute a tagger's forward pass: PyTorch and OpenVINO.

A backend has two steps: images to image tokens, and tokens with a set of labels to logits. The part that does not
depend on the image is computed once a label set (`LabelSet`). Both backends are exact in fp32 (the tests hold them to
the plain model within 1e-4) and rounded in bf16.

Letters: B images, S pixels a side, L image tokens, C their width, N tags, K descriptions, E text embedding, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ram_ray.models.ram import RAM


@dataclass(frozen=True)
class LabelSet:
    """Tags to score: queries (1, N, D) and their first projection, or for RAM++ descriptions (N, K, E)."""

    queries: Tensor | None = None
    projected_queries: Tensor | None = None
    descriptions: Tensor | None = None

    def select(self, ids: Sequence[int]) -> LabelSet:
        """Select tags.

        Args:
            ids: their indices.

        Returns:
            A set of these tags, in this order.
        """
        queries, projected, descriptions = self.queries, self.projected_queries, self.descriptions
        index = list(ids)
        return LabelSet(
            None if queries is None else queries[:, index],
            None if projected is None else projected[:, index],
            None if descriptions is None else descriptions[index],
        )


class Backend(Protocol):
    """The forward pass of one model on one device. Safe to call from several threads."""

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
            labels: the tags to score.

        Returns:
            (B, N) float32.
        """
        ...


@torch.inference_mode()
def make_label_set(model: RAM, embed: Tensor) -> LabelSet:
    """Compute the part of the forward pass that depends only on the labels.

    Args:
        model: scores the labels.
        embed: text embeddings of the labels, (N, E) float; RAM++: (N, K, E).

    Returns:
        The label set, on the model's device.
    """
    embed = embed.to(model.label_embed.device).float()
    if model.reweighs:
        return LabelSet(descriptions=embed)
    queries = model.recognition.queries(embed)
    return LabelSet(queries, model.recognition.project_queries(queries))


class MicroBatcher:
    """Splits a batch into micro-batches, so that activations stay small.

    On a CPU a large batch is no faster per image than a few images, and a batch of 32 with a Swin-L and 4,585 tags
    would take gigabytes.

    Args:
        model: its sizes give the size of a micro-batch.
        split: False: run each batch as it is, as on a GPU.
    """

    _MAX_PATCHES, _MAX_HIDDEN = 1 << 15, 1 << 26  # of the first stage; values of a feed-forward's hidden layer

    def __init__(self, model: RAM, *, split: bool = True) -> None:
        config = model.config
        self._split, self._hidden_width = split, model.recognition.hidden_width
        self._num_images = max(1, self._MAX_PATCHES // (config.image_size // model.image_encoder.first_stride) ** 2)

    def encode(self, forward: Callable[[Tensor], Tensor], pixel_values: Tensor) -> Tensor:
        """Encode images in micro-batches.

        Args:
            forward: pixels (b, 3, S, S) to tokens (b, 1 + L, C).
            pixel_values: (B, 3, S, S) float32.

        Returns:
            Image tokens (B, 1 + L, C).
        """
        return self._run(forward, pixel_values, self._num_images)

    def logits(self, forward: Callable[[Tensor], Tensor], tokens: Tensor, labels: LabelSet) -> Tensor:
        """Score labels in micro-batches.

        Args:
            forward: tokens (b, 1 + L, C) to logits (b, N).
            tokens: (B, 1 + L, C).
            labels: the tags to score; the more tags, the smaller a micro-batch.

        Returns:
            Logits (B, N).
        """
        label_inputs = labels.descriptions if labels.queries is None else labels.queries[0]
        assert label_inputs is not None
        return self._run(forward, tokens, max(1, self._MAX_HIDDEN // (len(label_inputs) * self._hidden_width)))

    def _run(self, forward: Callable[[Tensor], Tensor], batch: Tensor, size: int) -> Tensor:
        if not self._split or len(batch) <= size:
            return forward(batch)
        return torch.cat([forward(micro_batch) for micro_batch in batch.split(size)])
