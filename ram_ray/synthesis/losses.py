"""StableRep's losses (arXiv 2306.00984): images of one caption are positives of each other.

Letters: N anchors of this worker, M candidates of all workers, D features. Plain torch for one device. What
lies on other workers comes in through `gather`, which keeps gradients, or through the `all_*` arguments; one
process needs neither. The mask of positives is made anew in every call, for batches differ. All is computed
in fp32, also under autocast: at temperature 0.1 bf16 logits lose the differences that matter.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


def multi_positive_loss(
    features: Tensor,
    caption_ids: Tensor,
    *,
    temperature: float = 0.1,
    all_features: Tensor | None = None,
    all_ids: Tensor | None = None,
    offset: int = 0,
) -> Tensor:
    """Cross-entropy between the softmax over all other images and the uniform share of those of one's caption.

    Args:
        features: (N, D) float, of any length; cosines are taken.
        caption_ids: (N,) int; equal ids are positives of each other.
        temperature: cosines are divided by it.
        all_features: (M, D) candidates, which hold `features` at rows offset .. offset + N - 1; None: `features`.
        all_ids: (M,) their captions.
        offset: where the anchors stand among the candidates.

    Returns:
        A scalar: the mean over anchors that have a positive; 0, with zero gradients, where none has.

    Raises:
        ValueError: if shapes do not fit, only one of the `all_*` is given, or the temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; use a positive number such as 0.1")
    if (all_features is None) != (all_ids is None):
        raise ValueError("give all_features and all_ids together, as `gather` returns them")
    if all_features is None or all_ids is None:
        all_features, all_ids = features, caption_ids
    _check_ids(features, caption_ids, "features", "caption_ids")
    _check_ids(all_features, all_ids, "all_features", "all_ids")
    num_anchors, num_candidates = len(features), len(all_features)
    if not 0 <= offset <= num_candidates - num_anchors:
        raise ValueError(f"offset {offset} with {num_anchors} anchors does not lie in {num_candidates} candidates")
    with torch.autocast(features.device.type, enabled=False):
        anchors, candidates = _unit(features), _unit(all_features)
        logits = anchors @ candidates.T / temperature  # (N, M)
        rows = torch.arange(num_anchors, device=features.device)
        itself = torch.zeros_like(logits, dtype=torch.bool)
        itself[rows, rows + offset] = True
        positive = (caption_ids[:, None] == all_ids[None, :]) & ~itself
        # A finite stand-in for minus infinity: an anchor with no other candidate must not turn into NaN.
        logits = logits.masked_fill(itself, torch.finfo(logits.dtype).min)
        losses, found = _uniform_cross_entropy(logits, positive)
        return losses.sum() / found.sum().clamp(min=1)


def image_text_loss(image: Tensor, text: Tensor, caption_ids: Tensor, *, logit_scale: Tensor | float) -> Tensor:
    """CLIP's symmetric loss, in which pairs of one caption are never negatives of each other.

    Where a caption has several pictures in the batch, the target is uniform over all of its pairs.

    Args:
        image: (N, D) float, of any length.
        text: (N, D) float; row i is the caption of picture i.
        caption_ids: (N,) int.
        logit_scale: what cosines are multiplied by (the factor itself, not its logarithm).

    Returns:
        A scalar: 0.5 x (image to text + text to image).

    Raises:
        ValueError: if shapes do not fit.
    """
    if image.shape != text.shape:
        raise ValueError(f"image {tuple(image.shape)} and text {tuple(text.shape)} must have one shape")
    _check_ids(image, caption_ids, "image", "caption_ids")
    with torch.autocast(image.device.type, enabled=False):
        logits = _unit(image) @ _unit(text).T  # (N, N)
        logits = logits * (logit_scale.to(logits.dtype) if isinstance(logit_scale, Tensor) else logit_scale)
        positive = caption_ids[:, None] == caption_ids[None, :]
        to_text, _ = _uniform_cross_entropy(logits, positive)
        to_image, _ = _uniform_cross_entropy(logits.T, positive)
        return 0.5 * (to_text.sum() + to_image.sum()) / max(len(image), 1)


def gather(features: Tensor, caption_ids: Tensor) -> tuple[Tensor, Tensor, int]:
    """Features and ids of all workers, in the order of ranks, and where this worker's own begin.

    Gradients flow back to the worker that a row came from, summed over all workers: with gradients averaged
    over workers, as DDP and DeepSpeed do, the step is that of one process with the whole batch. Every worker
    must bring the same number of rows. Without a process group the arguments come back as they are.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return features, caption_ids, 0
    ids = [torch.empty_like(caption_ids) for _ in range(dist.get_world_size())]
    dist.all_gather(ids, caption_ids.contiguous())
    gathered: Tensor = _AllGather.apply(features)
    return gathered, torch.cat(ids), dist.get_rank() * len(features)


class ProjectionHead(nn.Module):
    """The MLP between a backbone and the contrastive loss, dropped afterwards: (B, in_dim) -> (B, out).

    BatchNorm follows every linear layer; the last one has no scale and shift, since the loss takes cosines.
    Training needs at least two rows a batch.
    """

    def __init__(self, in_dim: int, *, hidden: int = 4096, out: int = 256, layers: int = 3) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers is {layers}; use at least 1")
        widths = [in_dim, *[hidden] * (layers - 1), out]
        parts: list[nn.Module] = []
        for place, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
            last = place == layers - 1
            parts += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after, affine=not last)]
            if not last:
                parts.append(nn.ReLU(inplace=True))
        self.layers = nn.Sequential(*parts)

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_dim) -> (B, out)."""
        return self.layers(features)


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:  # type: ignore[override]
        ctx.num_rows = len(features)
        parts = [torch.empty_like(features) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, features.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.num_rows
        return gradient[start : start + ctx.num_rows]


def _unit(features: Tensor) -> Tensor:
    """Rows of length 1, in fp32 at least."""
    return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)


def _uniform_cross_entropy(logits: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy a row (N,) against the uniform target over `positive`, and which rows have any (N,)."""
    counts = positive.sum(dim=1)
    # `where`, not a product: 0 x a masked logit must stay 0, in the gradient as well.
    terms = torch.where(positive, F.log_softmax(logits, dim=1), 0.0)
    return -terms.sum(dim=1) / counts.clamp(min=1), counts > 0


def _check_ids(features: Tensor, ids: Tensor, features_name: str, ids_name: str) -> None:
    if features.ndim != 2 or ids.shape != features.shape[:1]:
        raise ValueError(
            f"{features_name} must be (N, D) and {ids_name} (N,), not {tuple(features.shape)} and {tuple(ids.shape)}"
        )
