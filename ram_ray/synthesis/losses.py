"""StableRep's losses (arXiv 2306.00984): images of one caption are positives of each other.

Letters: N anchors of this worker, M candidates of all workers, D features. Plain torch for one device. What
lies on other workers comes in through `gather`, which keeps gradients, as `Everywhere`; one process needs neither.
A worker's loss is its part: the parts of all workers add up to the loss of one process with the whole batch. A row of
weight 0 is no anchor, no positive and no negative of any other. The mask of positives is made anew in every call, for
batches differ. All is computed in fp32, also under autocast: at temperature 0.1 bf16 logits lose the differences that
matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Everywhere:
    """The rows of all workers, as `gather` returns them."""

    features: Tensor  # (M, D)
    ids: Tensor  # (M,) their captions
    offset: int  # where this worker's rows begin


def multi_positive_loss(
    features: Tensor,
    caption_ids: Tensor,
    *,
    temperature: float = 0.1,
    weight: Tensor | None = None,
    everywhere: Everywhere | None = None,
    all_weight: Tensor | None = None,
) -> Tensor:
    """Cross-entropy between the softmax over all other images and the uniform share of those of one's caption.

    Args:
        features: (N, D) float, of any length; cosines are taken.
        caption_ids: (N,) int; equal ids are positives of each other.
        temperature: cosines are divided by it.
        weight: (N,), 0 for a row that does not count; None: all count.
        everywhere: candidates of all workers, with `features` among them; None: `features` themselves.
        all_weight: (M,) the weights of the candidates.

    Returns:
        A scalar: the sum over anchors that have a positive, divided by how many of all workers' have one; 0, with
        zero gradients, where none has.

    Raises:
        ValueError: if shapes do not fit, or the temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; use a positive number such as 0.1")
    _check_ids(features, caption_ids, "features", "caption_ids")
    everywhere, all_weight = _everywhere(features, caption_ids, weight, everywhere, all_weight)
    own = slice(everywhere.offset, everywhere.offset + len(features))
    with torch.autocast(features.device.type, enabled=False):
        logits = _unit(features) @ _unit(everywhere.features).T / temperature  # (N, M)
        ids, counts = everywhere.ids, all_weight > 0
        itself = torch.eye(len(ids), dtype=torch.bool, device=ids.device)
        positive = (ids[:, None] == ids[None, :]) & ~itself & counts[:, None] & counts[None, :]  # (M, M)
        # A finite stand-in for minus infinity: an anchor with no other candidate must not turn into NaN.
        logits = logits.masked_fill(itself[own] | ~counts[None, :], torch.finfo(logits.dtype).min)
        losses = _uniform_cross_entropy(logits, positive[own])
        return losses.sum() / positive.any(1).sum().clamp(min=1)


def image_text_loss(
    image: Tensor,
    text: Tensor,
    caption_ids: Tensor,
    *,
    logit_scale: Tensor | float,
    weight: Tensor | None = None,
    images: Everywhere | None = None,
    texts: Everywhere | None = None,
    all_weight: Tensor | None = None,
) -> Tensor:
    """CLIP's symmetric loss, in which pairs of one caption are never negatives of each other.

    Where a caption has several pictures in the batch, the target is uniform over all of its pairs.

    Args:
        image: (N, D) float, of any length.
        text: (N, D) float; row i is the caption of picture i.
        caption_ids: (N,) int.
        logit_scale: what cosines are multiplied by (the factor itself, not its logarithm).
        weight: (N,), 0 for a pair that does not count; None: all count.
        images: image features of all workers; None: `image` itself.
        texts: text features of all workers; None: `text` itself.
        all_weight: (M,), as `weight`, of all workers' pairs; None: `weight` if `images` is None, else all count.

    Returns:
        A scalar: 0.5 x (image to text + text to image), each the sum over pairs divided by the pairs of all workers.

    Raises:
        ValueError: if shapes do not fit.
    """
    if image.shape != text.shape:
        raise ValueError(f"image {tuple(image.shape)} and text {tuple(text.shape)} must have one shape")
    _check_ids(image, caption_ids, "image", "caption_ids")
    images, counts = _everywhere(image, caption_ids, weight, images, all_weight)
    texts, _ = _everywhere(text, caption_ids, weight, texts, all_weight)
    own = slice(images.offset, images.offset + len(image))
    scale = logit_scale
    with torch.autocast(image.device.type, enabled=False):
        positive = (caption_ids[:, None] == images.ids[None, :]) & (counts[own, None] > 0) & (counts[None, :] > 0)
        loss = image.new_zeros((), dtype=torch.promote_types(image.dtype, torch.float32))
        for side, others in ((image, texts), (text, images)):
            logits = _unit(side) @ _unit(others.features).T  # (N, M)
            logits = logits * (scale.to(logits.dtype) if isinstance(scale, Tensor) else scale)
            logits = logits.masked_fill(counts[None, :] == 0, torch.finfo(logits.dtype).min)
            loss = loss + 0.5 * _uniform_cross_entropy(logits, positive).sum()
        return loss / (counts > 0).sum().clamp(min=1)


def gather(features: Tensor, caption_ids: Tensor) -> tuple[Tensor, Tensor, int]:
    """Features and ids of all workers, in the order of ranks, and where this worker's own begin.

    Gradients flow back to the worker that a row came from, summed over all workers. Workers may bring unequal numbers
    of rows. Without a process group the arguments come back as they are.

    Args:
        features: (N, D) float, this worker's.
        caption_ids: (N,) int.

    Returns:
        (M, D) and (M,) of all workers, and the number of rows before this worker's own.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return features, caption_ids, 0
    own = torch.tensor([len(features)], device=features.device)
    sizes = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, own)
    rows = [int(one) for one in sizes]
    gathered: Tensor = _AllGather.apply(features, rows)
    return gathered, _all_rows(caption_ids, rows), sum(rows[: dist.get_rank()])


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, rows: list[int]) -> Tensor:  # type: ignore[override]
        ctx.rows = rows
        return _all_rows(features, rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        start = sum(ctx.rows[: dist.get_rank()])
        return gradient[start : start + ctx.rows[dist.get_rank()]], None


def _all_rows(tensor: Tensor, rows: list[int]) -> Tensor:
    """The rows of all workers; shapes must be equal on the way, so shorter ones are filled up."""
    padded = tensor.new_zeros((max(rows), *tensor.shape[1:]))
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in rows]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])


def _everywhere(
    features: Tensor, ids: Tensor, weight: Tensor | None, everywhere: Everywhere | None, all_weight: Tensor | None
) -> tuple[Everywhere, Tensor]:
    """Candidates and their weights, where they are not given this worker's own."""
    if everywhere is None:
        everywhere, all_weight = Everywhere(features, ids, 0), weight
    _check_ids(everywhere.features, everywhere.ids, "the features of all workers", "their ids")
    num_anchors, num_candidates, offset = len(features), len(everywhere.ids), everywhere.offset
    if not 0 <= offset <= num_candidates - num_anchors:
        raise ValueError(f"offset {offset} with {num_anchors} anchors does not lie in {num_candidates} candidates")
    return everywhere, torch.ones(num_candidates, device=ids.device) if all_weight is None else all_weight


def _unit(features: Tensor) -> Tensor:
    """Rows of length 1, in fp32 at least."""
    return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)


def _uniform_cross_entropy(logits: Tensor, positive: Tensor) -> Tensor:
    """Cross-entropy a row (N,) against the uniform target over `positive`; 0 for a row without any."""
    counts = positive.sum(dim=1)
    # `where`, not a product: 0 x a masked logit must stay 0, in the gradient as well.
    terms = torch.where(positive, F.log_softmax(logits, dim=1), 0.0)
    return -terms.sum(dim=1) / counts.clamp(min=1)


def _check_ids(features: Tensor, ids: Tensor, features_name: str, ids_name: str) -> None:
    if features.ndim != 2 or ids.shape != features.shape[:1]:
        raise ValueError(
            f"{features_name} must be (N, D) and {ids_name} (N,), not {tuple(features.shape)} and {tuple(ids.shape)}"
        )
