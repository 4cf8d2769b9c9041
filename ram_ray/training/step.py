"""One training step in plain torch: what is learnt, and how fast. No Ray, no DeepSpeed.

The teacher sees the very crop that the student sees (the released code takes another one).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ram_ray.config import TrainConfig
from ram_ray.models.dual_encoder import Teacher
from ram_ray.models.image_encoder import normalise
from ram_ray.models.losses import combine
from ram_ray.models.ram import RAM


class TrainStep(nn.Module):
    """The model with its losses: a batch of uint8 crops in, a dict of scalar losses out.

    Batch, from `feed`: pixels uint8 (B, 1, S, S, 3), targets uint8 (B, N), and where captions are learnt
    caption_ids and tag_ids (B, T) integers.
    """

    def __init__(self, model: RAM, *, teacher: Teacher | None, caption_start: int) -> None:
        super().__init__()
        self.model = model
        self._teacher = [teacher]  # in a list: frozen, not a part of the module
        self.caption_start = caption_start

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Losses tag, text, distill (where learnt) and total, each a scalar."""
        config = self.model.config
        pixels = batch["pixels"][:, 0]
        inputs: dict = {
            "pixel_values": normalise(pixels, config.mean, config.std),
            "targets": batch["targets"],
        }
        if "caption_ids" in batch:
            tag_ids = batch["tag_ids"]
            inputs |= {
                "caption_ids": _trim(batch["caption_ids"]).long(),
                # Where the decoder looks at padding, as in released models, padding is a part of the input.
                "tag_ids": (_trim(tag_ids) if config.mask_tag_padding else tag_ids).long(),
                "caption_start": self.caption_start,
            }
        if self._teacher[0] is not None:
            inputs["teacher"] = self._teacher[0].features(pixels).clone()
        losses = self.model(inputs)
        return {**losses, "total": combine(losses)}


def _trim(ids: Tensor) -> Tensor:
    """Ids (B, T) without the columns that are padding (0) in every row."""
    return ids[:, : max(1, int((ids != 0).sum(1).max()))]


def learning_rate(step: int, *, config: TrainConfig, steps_per_epoch: int, total_steps: int) -> float:
    """Learning rate of a step counted from 0: linear warm-up, then x`decay` an epoch, or a cosine to `min_lr`."""
    if step < config.warmup_steps:
        return config.warmup_lr + (config.lr - config.warmup_lr) * step / config.warmup_steps
    if config.schedule == "step":
        return max(config.min_lr, config.lr * config.decay ** (step // max(1, steps_per_epoch)))
    done = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def step_seed(seed: int, *, step: int, rank: int) -> int:
    """Seed of dropout and stochastic depth for one step, so that a resumed run draws the same numbers."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 4_099 + rank).initial_seed()
