"""The losses of RAM's training (arXiv 2306.03514, section 3.2; asymmetric loss: arXiv 2009.14119)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

UNKNOWN = 2  # a target of which nothing is learnt


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma_neg: float = 7.0,
    gamma_pos: float = 0.0,
    clip: float = 0.05,
    eps: float = 1e-8,
) -> Tensor:
    """Asymmetric loss, summed over images and tags.

    Args:
        logits: (B, N), any float dtype; computed in float32.
        targets: (B, N), 1 where the tag is there, 0 where it is not, `UNKNOWN` where the data cannot tell.
        gamma_neg, gamma_pos: focusing of absent and present tags.
        clip: probability by which absent tags are shifted down, so that easy ones cost nothing.
        eps: smallest probability inside the logarithm.

    The focusing weight is a constant for the gradient, as in the released training code.
    """
    probability = logits.float().sigmoid()
    known = targets != UNKNOWN
    targets = targets.float() * known
    absent = (1 - probability + clip).clamp(max=1)
    loss = targets * probability.clamp(min=eps).log() + (1 - targets) * absent.clamp(min=eps).log()
    with torch.no_grad():
        right = probability * targets + absent * (1 - targets)
        focus = (1 - right).pow(gamma_pos * targets + gamma_neg * (1 - targets))
    return -(loss * focus * known).sum()


def caption_loss(logits: Tensor, targets: Tensor, *, smoothing: float = 0.1) -> Tensor:
    """Cross-entropy of the next token with label smoothing.

    Args:
        logits: (B, T, V); the prediction at t is for the token at t + 1.
        targets: (B, T) token ids, -100 where nothing is to be learnt (prompt and padding).
    """
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets[:, 1:].flatten(), label_smoothing=smoothing)


def combine(losses: dict[str, Tensor]) -> Tensor:
    """Total loss: L_text + L_tag x (L_text / L_tag, a constant) + L_distill + L_alignment, of what is there.

    RAM: arXiv 2306.03514, section 3.2; without captions (RAM++, arXiv 2310.15200) L_tag counts as it is.
    """
    tag = losses["tag"]
    text = losses.get("text")
    total = tag if text is None else text + tag * (text / tag.clamp(min=1e-8)).detach()
    for name in ("distill", "alignment"):
        if name in losses:
            total = total + losses[name]
    return total
