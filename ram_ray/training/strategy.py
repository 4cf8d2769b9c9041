"""The training strategies that distribute a step over workers: DeepSpeed (ZeRO) or DDP, behind a small interface.

DeepSpeed uses NCCL on a GPU and gloo on a CPU. It compiles nothing: the optimizers are torch's (see `optimizer`).
Both strategies use torch's autocast with float32 master weights and float32 gradient sums. (DeepSpeed's own bf16 switch
does not work with timm's Swin, and on a GPU it disables an autocast outside the engine; so its section `torch_autocast`
is used.) With fp32 on a GPU, matrix products are TF32.

A checkpoint loads on any number of workers: DDP and ZeRO stage 0 write whole checkpoints, and DeepSpeed's universal
checkpoint joins the parts that the workers of the other stages write.

Letters: M micro batches of a step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ram_ray.models.number_format import choose_precision
from ram_ray.settings.training import TrainConfig, TrainingConfig
from ram_ray.training.deepspeed_internals import TAG, import_deepspeed, load_checkpoint, read_module
from ram_ray.training.micro_batches import split_step
from ram_ray.training.optimizer import make_optimizer, set_learning_rate
from ram_ray.training.worker_sums import world_size

DDP_FILE = "state.pt"


class TrainingStrategy(Protocol):
    """Backward pass, gradient reduction, optimizer step and checkpoint of a step module: a batch in, losses out."""

    name: str
    device: torch.device

    def step(
        self, micro_batches: list[dict[str, Tensor]], *, lr: float, shares: list[float] | None = None
    ) -> dict[str, float]:
        """Make an optimizer step with gradient accumulation over micro batches.

        Args:
            micro_batches: M micro batches of this worker, tensors by name, on its device.
            lr: learning rate of this step.
            shares: share of each micro batch in the images of the step, the same on every worker; None: equal shares.

        Returns:
            Loss name -> mean over the micro batches, weighted by their shares.
        """

    def save(self, folder: Path) -> None:
        """Write this worker's part of a checkpoint.

        Args:
            folder: local folder of the checkpoint.
        """

    def load(self, folder: Path) -> None:
        """Load a checkpoint of `save`.

        Args:
            folder: local folder of the checkpoint.
        """


def make_strategy(
    step: nn.Module, *, config: TrainConfig, training: TrainingConfig, device: torch.device
) -> TrainingStrategy:
    """Make the configured strategy. The process group must be initialised.

    Args:
        step: the model with its losses, on the device.
        config: settings of this training.
        training: the strategy and its precision.
        device: device of this worker.

    Returns:
        The strategy.
    """
    precision = choose_precision(training.precision, device)
    training = training.model_copy(update={"precision": precision})
    if device.type == "cuda" and precision == "fp32":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    strategy = DeepSpeedStrategy if training.strategy == "deepspeed" else DDPStrategy
    return strategy(step, config=config, training=training, device=device)


class DDPStrategy:
    """torch's DistributedDataParallel."""

    name = "ddp"

    def __init__(self, step: nn.Module, *, config: TrainConfig, training: TrainingConfig, device: torch.device) -> None:
        from torch.nn.parallel import DistributedDataParallel

        self.device, self._config, self._autocast = device, config, training.precision == "bf16"
        self._step = step.to(device)
        self._ddp = DistributedDataParallel(self._step, device_ids=[device] if device.type == "cuda" else None)
        self._optimizer = make_optimizer(step, config, is_bf16=training.precision == "bf16")

    def step(
        self, micro_batches: list[dict[str, Tensor]], *, lr: float, shares: list[float] | None = None
    ) -> dict[str, float]:
        """See `TrainingStrategy.step`; gradients are averaged over workers once, at the last micro batch."""
        set_learning_rate(self._optimizer, lr)
        shares, losses = shares or _equal_shares(micro_batches), []
        for index, (batch, micro_share) in enumerate(zip(micro_batches, shares, strict=True)):
            self._ddp.require_backward_grad_sync = index == len(micro_batches) - 1
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
                loss = self._ddp(batch)
            (loss["total"] * micro_share).backward()
            losses.append(loss)
        if self._config.clip_grad is not None:
            torch.nn.utils.clip_grad_norm_(self._step.parameters(), self._config.clip_grad)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return _means(losses, shares)

    def save(self, folder: Path) -> None:
        """See `TrainingStrategy.save`; rank 0 writes one file."""
        if torch.distributed.get_rank() == 0:
            state = {"step": self._step.state_dict(), "optimizer": self._optimizer.state_dict()}
            torch.save(state, folder / DDP_FILE)

    def load(self, folder: Path) -> None:
        """See `TrainingStrategy.load`."""
        state = torch.load(folder / DDP_FILE, map_location=self.device, weights_only=True)
        self._step.load_state_dict(state["step"])
        self._optimizer.load_state_dict(state["optimizer"])


class DeepSpeedStrategy:
    """DeepSpeed's engine at the configured ZeRO stage."""

    name = "deepspeed"

    def __init__(self, step: nn.Module, *, config: TrainConfig, training: TrainingConfig, device: torch.device) -> None:
        deepspeed = import_deepspeed(device)
        self.device = device
        micro_batch, micro_batches = split_step(config.batch_size, workers=world_size(), limit=config.micro_batch_size)
        deepspeed.init_distributed(dist_backend="gloo" if device.type == "cpu" else "nccl", verbose=False)
        self._engine, *_ = deepspeed.initialize(
            model=step,
            optimizer=make_optimizer(step, config, is_bf16=training.precision == "bf16"),
            config={
                "train_micro_batch_size_per_gpu": micro_batch,
                "gradient_accumulation_steps": micro_batches,
                "gradient_clipping": config.clip_grad or 0.0,  # 0: off
                "torch_autocast": {
                    "enabled": training.precision == "bf16",
                    "dtype": "bfloat16",
                    "lower_precision_safe_modules": [],  # modules whose gradients would be summed in bf16
                },
                "zero_optimization": {"stage": training.zero_stage},
                "zero_allow_untested_optimizer": True,
                "steps_per_print": 10**9,
            },
            dist_init_required=False,
        )

    def step(
        self, micro_batches: list[dict[str, Tensor]], *, lr: float, shares: list[float] | None = None
    ) -> dict[str, float]:
        """See `TrainingStrategy.step`."""
        set_learning_rate(self._engine.optimizer, lr)
        shares, losses = shares or _equal_shares(micro_batches), []
        for batch, micro_share in zip(micro_batches, shares, strict=True):
            loss = self._engine(batch)
            self._engine.backward(loss["total"] * micro_share * len(micro_batches))  # DeepSpeed divides by M
            self._engine.step()
            losses.append(loss)
        return _means(losses, shares)

    def save(self, folder: Path) -> None:
        """See `TrainingStrategy.save`; every rank writes its part."""
        self._engine.save_checkpoint(str(folder), tag=TAG)

    def load(self, folder: Path) -> None:
        """See `TrainingStrategy.load`."""
        load_checkpoint(self._engine, folder)


def _equal_shares(micro_batches: list) -> list[float]:
    return [1 / len(micro_batches)] * len(micro_batches)


def _means(losses: list[dict[str, Tensor]], shares: list[float]) -> dict[str, float]:
    pairs = list(zip(losses, shares, strict=True))
    return {name: sum(float(loss[name].detach()) * share for loss, share in pairs) for name in losses[0]}


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read the model's weights from a complete checkpoint of any strategy and ZeRO stage.

    Args:
        folder: local folder of the checkpoint.

    Returns:
        Name -> float32 tensor on the CPU.
    """
    if (folder / DDP_FILE).exists():
        state = torch.load(folder / DDP_FILE, map_location="cpu", weights_only=True)["step"]
    else:
        state = read_module(folder)
    return {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
