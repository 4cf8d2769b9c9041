"""Settings of training: what each run learns, and how all of them are spread over workers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from ram_ray.settings.section import HOW, Section


class AugmentConfig(Section):
    """Training crops (paper, appendix): random resized crop, flip, RandAugment."""

    crop_scale: tuple[float, float] = (0.2, 1.0)
    flip: bool = True
    randaugment: tuple[int, int] | None = (2, 5)  # operations, magnitude


class TrainConfig(Section):
    """One training run: pretrain, retrain or finetune. Defaults: the paper's pretraining."""

    image_size: int = 224
    window_size: int = 7  # of the Swin; position biases are resized where a stage starts from another window
    epochs: float = Field(5, gt=0)
    batch_size: int = Field(416, ge=1)  # images of one optimizer step, over all workers (the paper: 8 x 52)
    # Most images that a worker holds at once; None: its whole share of a step. Gradients of a share are accumulated.
    micro_batch_size: int | None = Field(None, ge=1, json_schema_extra=HOW)
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: for small models from nothing (`ram_ray.training.optimizer`)
    lr: float = Field(1e-4, gt=0)
    muon_lr: float = Field(5e-3, gt=0)  # of the matrices under muon; follows lr's schedule
    min_lr: float = Field(1e-6, ge=0)
    warmup_steps: int = Field(3000, ge=0)
    warmup_lr: float = 5e-7
    schedule: Literal["step", "cosine"] = "step"
    decay: float = 0.9  # factor an epoch of the step schedule
    weight_decay: float = 0.05
    clip_grad: float | None = 1.0  # largest norm of a step's gradient; None: it is not clipped
    shards: str = "*"  # the part of the data to train on: a glob on a folder, a stem, or with "/" on shard names
    tag_cap: float | None = Field(None, gt=0, le=1)  # share of pictures over which a tag no longer adds to their weight
    # A tag that cleaning took out is not there, as in the paper; or nobody knows, and nothing is learnt of it.
    removed: Literal["absent", "unknown"] = "absent"
    # Weights at first: the backbone of `represent` and the rest new, the model of the stage before, or all new.
    start: Literal["represent", "previous", "scratch"] = "represent"
    augment: AugmentConfig = AugmentConfig()
    caption_loss: bool = True
    distill_loss: bool = True
    checkpoint_steps: int = Field(1000, ge=1, json_schema_extra=HOW)
    max_checkpoints: int = Field(2, json_schema_extra=HOW)

    @field_validator("clip_grad")
    @classmethod
    def _clips_or_not(cls, norm: float | None) -> float | None:
        if norm is not None and norm <= 0:
            raise ValueError("must be positive; write null to leave gradients as they are")
        return norm


class TrainingConfig(Section):
    """How training is spread, for all three training runs."""

    # A number, or [least, most]: then it follows what the cluster has. What is learnt does not depend on it.
    workers: int | tuple[int, int] = Field(8, json_schema_extra=HOW)
    use_gpu: bool = True
    engine: Literal["deepspeed", "ddp"] = "deepspeed"
    zero_stage: Literal[0, 1, 2, 3] = 1
    precision: Literal["fp32", "bf16"] = "bf16"
    threads: int = Field(1, ge=1, json_schema_extra=HOW)  # torch threads a worker, on a CPU
    worker_cpus: float = Field(1.0, gt=0, json_schema_extra=HOW)
    max_failures: int = Field(3, json_schema_extra=HOW)
    feed_cpus: float = Field(1.0, gt=0, json_schema_extra=HOW)  # CPUs a decode task

    @field_validator("workers")
    @classmethod
    def _some_workers(cls, workers: int | tuple[int, int]) -> int | tuple[int, int]:
        least, most = (workers, workers) if isinstance(workers, int) else workers
        if not 1 <= least <= most:
            raise ValueError("write a number of at least 1, or [least, most] such as [2, 8]")
        return workers

    @property
    def max_workers(self) -> int:
        """The most workers there may be."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]
