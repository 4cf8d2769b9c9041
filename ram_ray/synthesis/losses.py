"""StableRep's losses (arXiv 2306.00984): images of the same caption are positives of each other.

The losses are plain torch code for a single device. `gather` returns the rows of all workers and keeps gradients; they
are passed on as `Candidates`. Without other workers neither is needed. The sum of all workers' losses is the loss of a
single process with the whole batch. A row of weight 0 is not an anchor, a positive or a negative. The mask of positives
is computed in every call. The losses are computed in float32, also under autocast: at temperature 0.1, bf16 logits are
too coarse.

Letters: N anchors of this worker, M candidates of all workers, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """The rows of all workers, as `gather` returns them."""

    features: Tensor  # (M, D)
    ids: Tensor  # (M,) caption ids
    offset: int  # index of this worker's first row


def multi_positive_loss(
    features: Tensor,
    caption_ids: Tensor,
    *,
    temperature: float = 0.1,
    weight: Tensor | None = None,
    candidates: Candidates | None = None,
    all_weight: Tensor | None = None,
) -> Tensor:
    """Compute StableRep's multi-positive contrastive loss (arXiv 2306.00984, equations 2-4).

    It is the cross-entropy between the softmax over all other images and the uniform distribution over the positives.

    Args:
        features: (N, D) float, of any norm; cosines are taken.
        caption_ids: (N,) int; rows with equal ids are positives of each other.
        temperature: cosines are divided by it.
        weight: (N,), 0 for a row to be ignored, else 1; None: all 1.
        candidates: rows of all workers, which include `features`; None: only `features`.
        all_weight: (M,) weights of the candidates.

    Returns:
        A scalar: the sum over this worker's anchors with a positive, divided by the number of such anchors of all
        workers; 0, with zero gradients, if there are none.

    Raises:
        ValueError: if shapes do not fit, or the temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; use a positive number such as 0.1")
    _check_ids(features, caption_ids, "features", "caption_ids")
    candidates, all_weight = _candidates(features, caption_ids, weight, candidates, all_weight)
    own = slice(candidates.offset, candidates.offset + len(features))
    with torch.autocast(features.device.type, enabled=False):
        logits = _unit(features) @ _unit(candidates.features).T / temperature  # (N, M)
        ids, used = candidates.ids, all_weight > 0
        is_self = torch.eye(len(ids), dtype=torch.bool, device=ids.device)
        positive = (ids[:, None] == ids[None, :]) & ~is_self & used[:, None] & used[None, :]  # (M, M)
        # The smallest finite number, not minus infinity: an anchor without another candidate must not give NaN.
        logits = logits.masked_fill(is_self[own] | ~used[None, :], torch.finfo(logits.dtype).min)
        losses = _uniform_cross_entropy(logits, positive[own])
        return losses.sum() / positive.any(1).sum().clamp(min=1)


def image_text_loss(
    image: Tensor,
    text: Tensor,
    caption_ids: Tensor,
    *,
    logit_scale: Tensor | float,
    weight: Tensor | None = None,
    images: Candidates | None = None,
    texts: Candidates | None = None,
    all_weight: Tensor | None = None,
) -> Tensor:
    """Compute CLIP's symmetric loss, in which pairs of the same caption are not negatives of each other.

    If a caption has several images in the batch, the target is uniform over all of its pairs.

    Args:
        image: (N, D) float, of any norm.
        text: (N, D) float; row i is the caption of image i.
        caption_ids: (N,) int.
        logit_scale: factor of the cosines (not its logarithm).
        weight: (N,), 0 for a pair to be ignored, else 1; None: all 1.
        images: image features of all workers; None: only `image`.
        texts: text features of all workers; None: only `text`.
        all_weight: (M,) weights of all workers' pairs; None: `weight` if `images` is None, else all 1.

    Returns:
        A scalar: 0.5 x (image to text + text to image), each the sum over this worker's pairs divided by the number of
        pairs of all workers.

    Raises:
        ValueError: if shapes do not fit.
    """
    if image.shape != text.shape:
        raise ValueError(f"image {tuple(image.shape)} and text {tuple(text.shape)} must have one shape")
    _check_ids(image, caption_ids, "image", "caption_ids")
    images, all_weight = _candidates(image, caption_ids, weight, images, all_weight)
    texts, _ = _candidates(text, caption_ids, weight, texts, all_weight)
    used = all_weight > 0
    own = slice(images.offset, images.offset + len(image))
    scale = logit_scale
    with torch.autocast(image.device.type, enabled=False):
        positive = (caption_ids[:, None] == images.ids[None, :]) & used[own, None] & used[None, :]
        loss = image.new_zeros((), dtype=torch.promote_types(image.dtype, torch.float32))
        for side, others in ((image, texts), (text, images)):
            logits = _unit(side) @ _unit(others.features).T  # (N, M)
            logits = logits * (scale.to(logits.dtype) if isinstance(scale, Tensor) else scale)
            logits = logits.masked_fill(~used[None, :], torch.finfo(logits.dtype).min)
            loss = loss + 0.5 * _uniform_cross_entropy(logits, positive).sum()
        return loss / used.sum().clamp(min=1)


def gather(features: Tensor, caption_ids: Tensor) -> tuple[Tensor, Tensor, int]:
    """Gather the features and ids of all workers, in the order of ranks.

    The gradient of a row flows back to its worker, summed over all workers. Workers may have different numbers of rows.
    Without a process group the arguments are returned.

    Args:
        features: (N, D) float, of this worker.
        caption_ids: (N,) int.

    Returns:
        Features (M, D) and ids (M,) of all workers, and the index of this worker's first row.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return features, caption_ids, 0
    own = torch.tensor([len(features)], device=features.device)
    sizes = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, own)
    num_rows = [int(size) for size in sizes]
    gathered: Tensor = _AllGather.apply(features, num_rows)
    return gathered, _all_rows(caption_ids, num_rows), sum(num_rows[: dist.get_rank()])


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, num_rows: list[int]) -> Tensor:  # type: ignore[override]
        ctx.num_rows = num_rows
        return _all_rows(features, num_rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        start = sum(ctx.num_rows[: dist.get_rank()])
        return gradient[start : start + ctx.num_rows[dist.get_rank()]], None


def _all_rows(tensor: Tensor, num_rows: list[int]) -> Tensor:
    """Gather the rows of all workers; they are padded to equal shapes for the transfer."""
    padded = tensor.new_zeros((max(num_rows), *tensor.shape[1:]))
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in num_rows]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, num_rows, strict=True)])


def _candidates(
    features: Tensor, ids: Tensor, weight: Tensor | None, candidates: Candidates | None, all_weight: Tensor | None
) -> tuple[Candidates, Tensor]:
    """Check the candidates and their weights; the default is the rows of this worker."""
    if candidates is None:
        candidates, all_weight = Candidates(features, ids, 0), weight
    _check_ids(candidates.features, candidates.ids, "the features of all workers", "their ids")
    num_anchors, num_candidates, offset = len(features), len(candidates.ids), candidates.offset
    if not 0 <= offset <= num_candidates - num_anchors:
        raise ValueError(f"offset {offset} with {num_anchors} anchors does not lie in {num_candidates} candidates")
    return candidates, torch.ones(num_candidates, device=ids.device) if all_weight is None else all_weight


def _unit(features: Tensor) -> Tensor:
    """Scale the rows to norm 1, in float32 or a wider type."""
    return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)


def _uniform_cross_entropy(logits: Tensor, positive: Tensor) -> Tensor:
    """Compute each row's cross-entropy (N,) with the uniform target over `positive`; 0 without positives."""
    counts = positive.sum(dim=1)
    # `where`, not a product: the term of a masked logit must be 0, and its gradient too.
    terms = torch.where(positive, F.log_softmax(logits, dim=1), 0.0)
    return -terms.sum(dim=1) / counts.clamp(min=1)


def _check_ids(features: Tensor, ids: Tensor, features_name: str, ids_name: str) -> None:
    if features.ndim != 2 or ids.shape != features.shape[:1]:
        raise ValueError(
            f"{features_name} must be (N, D) and {ids_name} (N,), not {tuple(features.shape)} and {tuple(ids.shape)}"
        )
