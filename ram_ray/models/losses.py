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
    """Compute the asymmetric loss (arXiv 2009.14119), summed over images and tags.

    The focusing weight has no gradient, as in the released training code.

    Args:
        logits: (B, N), any float dtype; computed in float32.
        targets: (B, N), 1 for a positive, 0 for a negative, `UNKNOWN` for a target that is ignored.
        gamma_neg: focusing exponent of negatives.
        gamma_pos: focusing exponent of positives.
        clip: shift of the probability of negatives, so that easy negatives have no loss.
        eps: smallest probability inside the logarithm.
        weight: (B,), 0 for an image to be ignored, else 1; None: all 1.

    Returns:
        A float32 scalar.
    """
    probability = logits.float().sigmoid()
    known = targets != UNKNOWN
    targets = targets.float() * known
    negative = (1 - probability + clip).clamp(max=1)  # shifted probability of a negative
    loss = targets * probability.clamp(min=eps).log() + (1 - targets) * negative.clamp(min=eps).log()
    with torch.no_grad():
        target_probability = probability * targets + negative * (1 - targets)
        focus = (1 - target_probability).pow(gamma_pos * targets + gamma_neg * (1 - targets))
    used = known if weight is None else known * weight[:, None]
    return -(loss * focus * used).sum()


def ranking_loss(logits: Tensor, targets: Tensor, *, margin: float = 1.0, weight: Tensor | None = None) -> Tensor:
    """Compute the ranking loss of MKT (arXiv 2207.01887), summed over images.

    Of an image it is the mean of margin + s_n - s_p over the pairs of a positive p and a negative n for which this is
    above 0, as in the authors' code (the paper sums). It says nothing about where probabilities are high.

    Args:
        logits: (B, N), any float dtype; computed in float32.
        targets: (B, N), 1 for a positive, 0 for a negative, `UNKNOWN` for a target that is ignored.
        margin: least wanted difference of a positive's and a negative's logit.
        weight: (B,), 0 for an image to be ignored, else 1; None: all 1.

    Returns:
        A float32 scalar; an image without a positive or without a negative adds 0.
    """
    logits, positive, negative = logits.float(), targets == 1, targets == 0
    most = max(1, int(positive.sum(1).max()))  # P: pairs are (B, P, N), not (B, N, N)
    index = positive.byte().topk(most, dim=1).indices
    is_pair = positive.gather(1, index).unsqueeze(2) & negative.unsqueeze(1)
    violations = (margin + logits.unsqueeze(1) - logits.gather(1, index).unsqueeze(2)).clamp(min=0) * is_pair
    losses = violations.sum((1, 2)) / (violations > 0).sum((1, 2)).clamp(min=1)
    return losses.sum() if weight is None else (losses * weight).sum()


def caption_targets(ids: Tensor, *, start: int, weight: Tensor | None = None) -> Tensor:
    """Make the targets of the caption loss: token ids, and -100 for padding (id 0), prompt and images of weight 0.

    Args:
        ids: (B, T) int64.
        start: number of prompt tokens.
        weight: (B,), 0 for an image to be ignored, else 1; None: all 1.

    Returns:
        (B, T) int64.
    """
    targets = ids.masked_fill(ids == 0, -100)
    targets[:, :start] = -100
    return targets if weight is None else targets.masked_fill(weight[:, None] == 0, -100)


def num_learnt(targets: Tensor) -> Tensor:
    """Count the predictions that `caption_loss` is the mean over.

    Args:
        targets: (B, T) int64 of `caption_targets`.

    Returns:
        An int64 scalar.
    """
    return (targets[:, 1:] != -100).sum()


def caption_loss(logits: Tensor, targets: Tensor, *, smoothing: float = 0.1) -> Tensor:
    """Compute the cross-entropy of the next token with label smoothing.

    Args:
        logits: (B, T, V); the prediction at t is for the token at t + 1.
        targets: (B, T) int64 of `caption_targets`; -100 is ignored.
        smoothing: share of the target that is spread over all tokens, 0 to 1.

    Returns:
        A float32 scalar: the mean over the targets that are not ignored; 0, with zero gradients, if all are ignored.
    """
    losses = F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), targets[:, 1:].flatten(), label_smoothing=smoothing, reduction="sum"
    )
    return losses / num_learnt(targets).clamp(min=1)


def distillation_loss(features: Tensor, teacher: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Compute the mean absolute difference between features and the teacher's features.

    Args:
        features: (B, C), any float dtype; computed in float32.
        teacher: (B, C), the teacher's features of the same images.
        weight: (B,), 0 for an image to be ignored, else 1; None: all 1.

    Returns:
        A float32 scalar.
    """
    differences = F.l1_loss(features.float(), teacher.float(), reduction="none").mean(1)
    if weight is None:
        return differences.mean()
    return (differences * weight).sum() / weight.sum().clamp(min=1)


def kept_loss(logits: Tensor, target_logits: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Compute the divergence of the probabilities of labels from those of another model (0 where they are equal).

    Args:
        logits: (B, K), any float dtype; computed in float32.
        target_logits: (B, K), of the other model.
        weight: (B,), 0 for an image to be ignored, else 1; None: all 1.

    Returns:
        A float32 scalar: the Kullback-Leibler divergence, summed over labels, as a mean over images.
    """
    logits, target_logits = logits.float(), target_logits.float()
    targets = target_logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(target_logits, targets, reduction="none")
    loss = (F.binary_cross_entropy_with_logits(logits, targets, reduction="none") - entropy).sum(1)
    if weight is None:
        return loss.mean()
    return (loss * weight).sum() / weight.sum().clamp(min=1)


def combine(losses: dict[str, Tensor], *, ratio: Tensor | None = None, kept_weight: float = 1.0) -> Tensor:
    """Compute the total loss: L_text + L_tag x (L_text / L_tag, a constant) + L_distill + L_alignment + W L_kept.

    RAM: arXiv 2306.03514, section 3.2. Without captions (RAM++, arXiv 2310.15200; a step whose images have none, so
    that L_text is 0) L_tag has the factor 1.

    Args:
        losses: scalars by name: "tag", and optionally "text", "distill", "alignment" and "kept".
        ratio: L_text / L_tag over all workers; None: the ratio of these losses.
        kept_weight: W.

    Returns:
        A scalar.
    """
    total = losses["tag"]
    if "text" in losses:
        ratio = losses["text"] / total.clamp(min=1e-8) if ratio is None else ratio
        total = losses["text"] + total * torch.where(ratio > 0, ratio, 1.0).detach()
    for name, weight in (("distill", 1.0), ("alignment", 1.0), ("kept", kept_weight)):
        if name in losses:
            total = total + weight * losses[name]
    return total
