"""The losses of RAM's training (arXiv 2306.03514, section 3.2; asymmetric loss: arXiv 2009.14119)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ram_ray.models.targets import UNKNOWN


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma_neg: float = 7.0,
    gamma_pos: float = 0.0,
    clip: float = 0.05,
    eps: float = 1e-8,
    weight: Tensor | None = None,
) -> Tensor:
    """Asymmetric loss (arXiv 2009.14119), summed over images and tags.

    The focusing weight is a constant for the gradient, as in the released training code.

    Args:
        logits: (B, N), any float dtype; computed in float32.
        targets: (B, N), 1 where the tag is there, 0 where it is not, `UNKNOWN` where the data cannot tell.
        gamma_neg: focusing of absent tags.
        gamma_pos: focusing of present tags.
        clip: probability by which absent tags are shifted down, so that easy ones cost nothing.
        eps: smallest probability inside the logarithm.
        weight: (B,), 0 for an image that does not count; None: all count.

    Returns:
        A float32 scalar.
    """
    probability = logits.float().sigmoid()
    known = targets != UNKNOWN
    targets = targets.float() * known
    absent = (1 - probability + clip).clamp(max=1)
    loss = targets * probability.clamp(min=eps).log() + (1 - targets) * absent.clamp(min=eps).log()
    with torch.no_grad():
        right = probability * targets + absent * (1 - targets)
        focus = (1 - right).pow(gamma_pos * targets + gamma_neg * (1 - targets))
    counted = known if weight is None else known * weight[:, None]
    return -(loss * focus * counted).sum()


def caption_targets(ids: Tensor, *, start: int, weight: Tensor | None = None) -> Tensor:
    """Token ids with -100 where nothing is learnt: padding (id 0), the prompt, images of weight 0.

    Args:
        ids: (B, T) int64.
        start: tokens of the prompt.
        weight: (B,), 0 for an image that does not count; None: all count.

    Returns:
        (B, T) int64.
    """
    targets = ids.masked_fill(ids == 0, -100)
    targets[:, :start] = -100
    return targets if weight is None else targets.masked_fill(weight[:, None] == 0, -100)


def num_learnt(targets: Tensor) -> Tensor:
    """How many predictions `caption_loss` is the mean of.

    Args:
        targets: (B, T) int64, of `caption_targets`.

    Returns:
        An int64 scalar.
    """
    return (targets[:, 1:] != -100).sum()


def caption_loss(logits: Tensor, targets: Tensor, *, smoothing: float = 0.1) -> Tensor:
    """Cross-entropy of the next token with label smoothing.

    Args:
        logits: (B, T, V); the prediction at t is for the token at t + 1.
        targets: (B, T) token ids, -100 where nothing is to be learnt, as `caption_targets` gives them.
        smoothing: share of the target that is spread over all tokens, 0 to 1.

    Returns:
        The mean over what is learnt; 0, with zero gradients, where nothing is.
    """
    losses = F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), targets[:, 1:].flatten(), label_smoothing=smoothing, reduction="sum"
    )
    return losses / num_learnt(targets).clamp(min=1)


def distillation_loss(features: Tensor, teacher: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Mean absolute difference of features and the teacher's (B, C), over the images that count.

    Args:
        features: (B, C), any float dtype; computed in float32.
        teacher: (B, C), the teacher's features of the same images.
        weight: (B,), 0 for an image that does not count; None: all count.

    Returns:
        A float32 scalar.
    """
    differences = F.l1_loss(features.float(), teacher.float(), reduction="none").mean(1)
    if weight is None:
        return differences.mean()
    return (differences * weight).sum() / weight.sum().clamp(min=1)


def combine(losses: dict[str, Tensor], *, ratio: Tensor | None = None) -> Tensor:
    """Total loss: L_text + L_tag x (L_text / L_tag, a constant) + L_distill + L_alignment, of what is there.

    RAM: arXiv 2306.03514, section 3.2; without captions (RAM++, arXiv 2310.15200) L_tag counts as it is.

    Args:
        losses: scalars by name: "tag", and those of "text", "distill" and "alignment" that are learnt.
        ratio: L_text / L_tag over all workers; None: of these losses.

    Returns:
        A scalar.
    """
    total = losses["tag"]
    if "text" in losses:
        ratio = losses["text"] / total.clamp(min=1e-8) if ratio is None else ratio
        total = losses["text"] + total * ratio.detach()
    for name in ("distill", "alignment"):
        if name in losses:
            total = total + losses[name]
    return total
