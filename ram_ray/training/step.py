"""A training step in plain torch: the losses and the learning rate. No Ray, no DeepSpeed.

The teacher encodes the same crop as the student (the released code takes another crop).

Workers average their gradients. So each worker's loss is W times its part of the loss over all workers: its own sum,
divided by the denominator over all workers. The step equals that of a single process with all rows, whichever worker
has which rows.

Letters: B images of this worker's micro batch, N tags, T tokens, S pixels, W workers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ram_ray.models.image_encoder import normalise
from ram_ray.models.losses import caption_targets, combine, num_learnt
from ram_ray.models.ram import RAM
from ram_ray.models.teacher import Teacher
from ram_ray.settings.training import TrainConfig
from ram_ray.training.worker_sums import sum_over_workers, world_size


class TrainStep(nn.Module):
    """The model with its losses: a batch of uint8 crops in, a dict of scalar losses out.

    Batch, from `feed`: pixels uint8 (B, 1, S, S, 3), targets uint8 (B, N), and with the caption loss
    caption_ids and tag_ids (B, T) integers; weight (B,), 0 for an image that must not be learned.

    Args:
        model: the tagger to train.
        teacher: frozen teacher of the distillation; None: no distillation.
        caption_start: number of prompt tokens, which are not learned.
    """

    def __init__(self, model: RAM, *, teacher: Teacher | None, caption_start: int) -> None:
        super().__init__()
        self.model = model
        self._teacher = [teacher]  # in a list, so that it is not a submodule: it is frozen
        self.caption_start = caption_start

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            batch: batch of `TaggerFeed`, as tensors on the model's device.

        Returns:
            Scalars by name: tag (a mean over images), text and distill (if trained), and total.
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
                # If the decoder attends to padding, as in released models, padding is a part of the input.
                "tag_ids": (_trim(tag_ids) if config.mask_tag_padding else tag_ids).long(),
                "caption_start": self.caption_start,
            }
        if self._teacher[0] is not None:
            inputs["teacher"] = self._teacher[0].features(pixels).clone()
        return losses_over_workers(self.model(inputs), self._denominators(batch, inputs))

    def _denominators(self, batch: dict[str, Tensor], inputs: dict) -> dict[str, Tensor]:
        """Count what each loss is a mean over: images, or tokens."""
        pixels, weight = batch["pixels"], batch.get("weight")
        images = torch.tensor(float(len(pixels)), device=pixels.device) if weight is None else weight.sum()
        denominators = {"tag": images, "distill": images}
        if "caption_ids" in inputs:
            targets = caption_targets(inputs["caption_ids"], start=self.caption_start, weight=weight)
            denominators["text"] = num_learnt(targets).float()
        return denominators


def losses_over_workers(losses: dict[str, Tensor], denominators: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scale the losses of this worker to W times its parts of the losses over all workers, and add their total.

    Args:
        losses: losses of `RAM.forward`: tag is a sum over images, the others are means over `denominators`.
        denominators: a scalar for each loss: the images or tokens of this worker.

    Returns:
        Scalars by name, with "total". The average of the workers' gradients of "total" is the gradient of the step.
    """
    names = list(losses)
    sums = [losses[name] * (1 if name == "tag" else denominators[name]) for name in names]
    detached = [loss_sum.detach().float() for loss_sum in sums]
    all_sums = sum_over_workers(torch.stack([*detached, *(denominators[name] for name in names)]))
    counts = all_sums[len(names) :].clamp(min=1)
    parts = {name: loss_sum * world_size() / count for name, loss_sum, count in zip(names, sums, counts, strict=True)}
    means = dict(zip(names, all_sums[: len(names)] / counts, strict=True))
    ratio = means["text"] / means["tag"].clamp(min=1e-8) if "text" in means else None
    return {**parts, "total": combine(parts, ratio=ratio)}


def _trim(ids: Tensor) -> Tensor:
    """Remove the columns of ids (B, T) that are padding (0) in every row."""
    return ids[:, : max(1, int((ids != 0).sum(1).max()))]


def learning_rate(step: int, *, config: TrainConfig, steps_per_epoch: int, total_steps: int) -> float:
    """Compute the learning rate of a step: linear warm-up, then x`decay` in each epoch, or a cosine to `min_lr`.

    The cosine of `cosine_epochs` takes the value of an epoch's first step for the whole epoch.

    Args:
        step: step, counted from 0.
        config: settings of the training.
        steps_per_epoch: steps of an epoch, for the schedules `step` and `cosine_epochs`.
        total_steps: steps of the run, for the cosine.

    Returns:
        The learning rate.
    """
    if step < config.warmup_steps:
        return config.warmup_lr + (config.lr - config.warmup_lr) * step / config.warmup_steps
    if config.schedule == "step":
        return max(config.min_lr, config.lr * config.decay ** (step // max(1, steps_per_epoch)))
    if config.schedule == "cosine_epochs":
        step = max(config.warmup_steps, step - step % max(1, steps_per_epoch))
    progress = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def step_seed(seed: int, *, step: int, rank: int) -> int:
    """Make the seed of dropout and stochastic depth of a step, so that a resumed run draws the same numbers.

    Args:
        seed: seed of the run.
        step: step, counted from 0.
        rank: rank of the worker.

    Returns:
        A seed for `torch.manual_seed`.
    """
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 4_099 + rank).initial_seed()
