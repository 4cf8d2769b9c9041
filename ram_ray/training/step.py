"""A training step in plain torch: the losses and the learning rate. No Ray, no DeepSpeed.

The teacher encodes the same crop as the student (the released code takes another crop). So does the keeper, a copy of
the model that a training starts from: it gives the targets of the labels that must stay as they are, and annotations
do not teach these (learning without forgetting, arXiv 1606.09282). A frozen image encoder is the keeper's too, and
encodes a crop once for both. The head then learns without dropout, as the keeper's logits are without: with it the
model follows them through noise, and loses five times as much of the old labels' mAP (docs/results.md).

Workers average their gradients. So each worker's loss is W times its part of the loss over all workers: its own sum,
divided by the denominator over all workers. The step equals that of a single process with all rows, whichever worker
has which rows.

Letters: B images of this worker's micro batch, N tags, K of them kept, T tokens, S pixels, W workers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ram_ray.models.image_encoder import normalise
from ram_ray.models.losses import UNKNOWN, caption_targets, combine, num_learnt
from ram_ray.models.ram import RAM
from ram_ray.models.teacher import Teacher, resize_crops
from ram_ray.settings.training import TagLossConfig, TrainConfig
from ram_ray.training.text_column import read_texts
from ram_ray.training.worker_sums import sum_over_workers, world_size

SUMS = ("tag", "alignment")  # losses that are sums over images


class TrainStep(nn.Module):
    """The model with its losses: a batch of uint8 crops in, a dict of scalar losses out.

    Batch, from `feed`: pixels uint8 (B, 1, S, S, 3), or tokens float16 (B, 1 + L, C) of a frozen image encoder;
    targets uint8 (B, N); with the caption loss caption_ids and tag_ids (B, T) integers, with the alignment loss
    caption_text uint8 (B, T); weight (B,), 0 for an image that must not be learned.

    Args:
        model: the tagger to train.
        teacher: frozen teacher of the distillation; None: no distillation.
        caption_start: number of prompt tokens, which are not learned.
        aligner: frozen text encoder of the captions of the alignment loss (RAM++); None: nothing is aligned.
        keeper: frozen copy of `model` that teaches the kept labels, of the same or another image size; None: all labels
            are trained.
        kept_ids: ids of the K kept labels.
        kept_weight: weight of their loss.
        tag_loss: settings of the loss of tags; None: the paper's.
    """

    def __init__(
        self,
        model: RAM,
        *,
        teacher: Teacher | None,
        caption_start: int,
        aligner: Teacher | None = None,
        keeper: RAM | None = None,
        kept_ids: Sequence[int] = (),
        kept_weight: float = 1.0,
        tag_loss: TagLossConfig | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        # In lists, so that they are not submodules: they are frozen.
        self._teacher, self._aligner, self._keeper = [teacher], [aligner], [keeper]
        self._shares_encoder = (
            keeper is not None
            and model.image_encoder.is_frozen
            and model.image_encoder.image_size == keeper.image_encoder.image_size
        )
        self._kept_ids = torch.tensor(list(kept_ids), dtype=torch.int64)
        self.caption_start, self.tag_loss, self.kept_weight = caption_start, tag_loss, kept_weight
        if keeper is not None:
            model.recognition.eval()

    def train(self, mode: bool = True) -> TrainStep:
        """Set the mode; beside a keeper the head stays as at inference, without dropout.

        Args:
            mode: True: training.

        Returns:
            The step.
        """
        super().train(mode)
        if self._keeper[0] is not None:
            self.model.recognition.eval()
        return self

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            batch: batch of `TaggerFeed`, as tensors on the model's device.

        Returns:
            Scalars by name: tag (a mean over images), text, distill, kept and alignment (if trained), and total.
        """
        config = self.model.config
        inputs: dict = {"targets": batch["targets"], "weight": batch.get("weight")}
        if "tokens" in batch:
            inputs["tokens"] = batch["tokens"].float()
        else:
            pixels = batch["pixels"][:, 0]
            inputs["pixel_values"] = normalise(pixels, config.mean, config.std)
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
        if self._aligner[0] is not None:
            inputs |= self._align(self._aligner[0], batch)
        if self._keeper[0] is not None:
            if self._shares_encoder:
                inputs["tokens"] = self.model.image_encoder(inputs.pop("pixel_values"))
            inputs |= self._keep(self._keeper[0], pixels, batch["targets"], tokens=inputs.get("tokens"))
        losses = self.model(inputs, tag_loss=self.tag_loss)
        return losses_over_workers(losses, self._denominators(batch, inputs), kept_weight=self.kept_weight)

    @staticmethod
    def _align(aligner: Teacher, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The embeddings (B, E) of the captions; an image without a caption is paired with none."""
        texts, device = read_texts(batch["caption_text"]), batch["targets"].device
        has_text = torch.tensor([bool(text) for text in texts], dtype=torch.float32, device=device)
        weight = has_text * batch["weight"] if "weight" in batch else has_text
        return {"text_embed": torch.from_numpy(aligner.encode_texts(texts)).to(device), "text_weight": weight}

    @torch.no_grad()
    def _keep(self, keeper: RAM, pixels: Tensor, targets: Tensor, *, tokens: Tensor | None) -> dict[str, Tensor]:
        """Targets without those of the kept labels, and the keeper's logits (B, K) of these on crops (B, S, S, 3).

        `tokens` (B, 1 + L, C) are those of the keeper's image encoder; None: it encodes the crops.
        """
        ids = self._kept_ids.to(targets.device)
        config = keeper.config
        if tokens is None:
            crops = normalise(resize_crops(pixels, config.image_size), config.mean, config.std)
            tokens = keeper.image_encoder(crops)
        logits = keeper.logits(keeper.image_proj(tokens))[:, ids]
        return {"targets": targets.index_fill(1, ids, UNKNOWN), "kept_ids": ids, "kept_logits": logits}

    def _denominators(self, batch: dict[str, Tensor], inputs: dict) -> dict[str, Tensor]:
        """Count what each loss is a mean over: images, or tokens."""
        targets, weight = batch["targets"], batch.get("weight")
        images = torch.tensor(float(len(targets)), device=targets.device) if weight is None else weight.sum()
        denominators = dict.fromkeys(("tag", "distill", "kept", "alignment"), images)
        if "caption_ids" in inputs:
            words = caption_targets(inputs["caption_ids"], start=self.caption_start, weight=weight)
            denominators["text"] = num_learnt(words).float()
        return denominators


def losses_over_workers(
    losses: dict[str, Tensor], denominators: dict[str, Tensor], *, kept_weight: float = 1.0
) -> dict[str, Tensor]:
    """Scale the losses of this worker to W times its parts of the losses over all workers, and add their total.

    Args:
        losses: losses of `RAM.forward`: those of `SUMS` are sums over images, the others means over `denominators`.
        denominators: a scalar for each loss: the images or tokens of this worker.
        kept_weight: weight of the loss of kept labels in the total.

    Returns:
        Scalars by name, with "total". The average of the workers' gradients of "total" is the gradient of the step.
    """
    names = list(losses)
    sums = [losses[name] * (1 if name in SUMS else denominators[name]) for name in names]
    detached = [loss_sum.detach().float() for loss_sum in sums]
    all_sums = sum_over_workers(torch.stack([*detached, *(denominators[name] for name in names)]))
    counts = all_sums[len(names) :].clamp(min=1)
    parts = {name: loss_sum * world_size() / count for name, loss_sum, count in zip(names, sums, counts, strict=True)}
    means = dict(zip(names, all_sums[: len(names)] / counts, strict=True))
    ratio = means["text"] / means["tag"].clamp(min=1e-8) if "text" in means else None
    return {**parts, "total": combine(parts, ratio=ratio, kept_weight=kept_weight)}


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
