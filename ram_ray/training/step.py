"""One training step in plain torch: what is learnt, and how fast. No Ray, no DeepSpeed.

The teacher sees the very crop that the student sees (the released code takes another one).

Workers average their gradients, so each brings W times its part of a loss over all workers: its own sum, divided by
what all of them have together. Whoever has which rows, the step is that of one process with all of them.

Letters: B images of this worker's micro batch, N tags, T tokens, S pixels, W workers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ram_ray.models.dual_encoder import Teacher
from ram_ray.models.image_encoder import normalise
from ram_ray.models.losses import caption_targets, combine, num_learnt
from ram_ray.models.ram import RAM
from ram_ray.settings.training import TrainConfig
from ram_ray.training.workers import total, world_size


class TrainStep(nn.Module):
    """The model with its losses: a batch of uint8 crops in, a dict of scalar losses out.

    Batch, from `feed`: pixels uint8 (B, 1, S, S, 3), targets uint8 (B, N), and where captions are learnt
    caption_ids and tag_ids (B, T) integers; weight (B,), 0 for an image of which nothing is learnt.

    Args:
        model: that learns.
        teacher: that is distilled from; None: nothing is.
        caption_start: tokens of the prompt, not learnt.
    """

    def __init__(self, model: RAM, *, teacher: Teacher | None, caption_start: int) -> None:
        super().__init__()
        self.model = model
        self._teacher = [teacher]  # in a list: frozen, not a part of the module
        self.caption_start = caption_start

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One training step's losses.

        Args:
            batch: of `TaggerFeed`, as tensors on the model's device.

        Returns:
            Scalars by name: tag (a mean over images), text and distill (where learnt), and total.
        """
        config = self.model.config
        pixels = batch["pixels"][:, 0]
        inputs: dict = {
            "pixel_values": normalise(pixels, config.mean, config.std),
            "targets": batch["targets"],
            "weight": batch.get("weight"),
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
        return over_workers(self.model(inputs), self._amounts(batch, inputs))

    def _amounts(self, batch: dict[str, Tensor], inputs: dict) -> dict[str, Tensor]:
        """What each loss is a mean of: images, or tokens."""
        pixels, weight = batch["pixels"], batch.get("weight")
        images = torch.tensor(float(len(pixels)), device=pixels.device) if weight is None else weight.sum()
        amounts = {"tag": images, "distill": images}
        if "caption_ids" in inputs:
            targets = caption_targets(inputs["caption_ids"], start=self.caption_start, weight=weight)
            amounts["text"] = num_learnt(targets).float()
        return amounts


def over_workers(losses: dict[str, Tensor], amounts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses of this worker's images to W times its parts of the losses over all workers, and their total.

    Args:
        losses: of `RAM.forward`: tag a sum over images, the others means of `amounts`.
        amounts: of each loss, a scalar.

    Returns:
        Scalars by name, with "total", whose gradient is the step's once workers average theirs.
    """
    names = list(losses)
    sums = [losses[name] * (1 if name == "tag" else amounts[name]) for name in names]
    everywhere = total(torch.stack([*(one.detach().float() for one in sums), *(amounts[name] for name in names)]))
    numbers = everywhere[len(names) :].clamp(min=1)
    parts = {name: one * world_size() / number for name, one, number in zip(names, sums, numbers, strict=True)}
    means = dict(zip(names, everywhere[: len(names)] / numbers, strict=True))
    ratio = means["text"] / means["tag"].clamp(min=1e-8) if "text" in means else None
    return {**parts, "total": combine(parts, ratio=ratio)}


def _trim(ids: Tensor) -> Tensor:
    """Ids (B, T) without the columns that are padding (0) in every row."""
    return ids[:, : max(1, int((ids != 0).sum(1).max()))]


def learning_rate(step: int, *, config: TrainConfig, steps_per_epoch: int, total_steps: int) -> float:
    """Learning rate of a step counted from 0: linear warm-up, then x`decay` an epoch, or a cosine to `min_lr`.

    Args:
        step: counted from 0.
        config: of the training.
        steps_per_epoch: of the step schedule.
        total_steps: of the cosine.
    """
    if step < config.warmup_steps:
        return config.warmup_lr + (config.lr - config.warmup_lr) * step / config.warmup_steps
    if config.schedule == "step":
        return max(config.min_lr, config.lr * config.decay ** (step // max(1, steps_per_epoch)))
    done = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def step_seed(seed: int, *, step: int, rank: int) -> int:
    """Seed of dropout and stochastic depth for one step, so that a resumed run draws the same numbers.

    Args:
        seed: of the run.
        step: counted from 0.
        rank: of the worker.
    """
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 4_099 + rank).initial_seed()
