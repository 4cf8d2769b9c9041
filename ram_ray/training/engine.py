"""How a step is applied over the workers: DeepSpeed (ZeRO), or plain DDP, behind one small interface.

On a GPU DeepSpeed runs over NCCL, on a CPU over gloo. Nothing is compiled: the optimizers are torch's own (see
`optimizer`), and the shared-memory operator that DeepSpeed builds on a CPU, a minute of compiling, serves its inference
alone. Precision is torch's autocast in both, with float32 master weights (DeepSpeed's own bf16 switch does not work
with timm's Swin).
"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ram_ray.config import TrainConfig, TrainingConfig
from ram_ray.training.optimizer import make_optimizer, set_learning_rate

DDP_FILE = "state.pt"
TAG = "deepspeed"  # DeepSpeed's own folder inside a checkpoint


class Engine(Protocol):
    """Backward pass, gradient reduction, optimizer step and checkpoint of a step module: a batch in, losses out."""

    kind: str
    device: torch.device

    def step(self, micro_batches: list[dict[str, Tensor]], *, lr: float) -> dict[str, float]:
        """One optimizer step over gradient-accumulated micro batches; returns the mean of each loss."""

    def save(self, folder: Path) -> None:
        """Write this worker's part of a checkpoint."""

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""


def make_engine(step: nn.Module, *, config: TrainConfig, training: TrainingConfig, device: torch.device) -> Engine:
    """The configured engine. Needs an initialised process group."""
    engine = DeepSpeedEngine if training.engine == "deepspeed" else DDPEngine
    return engine(step, config=config, training=training, device=device)


class DDPEngine:
    """torch's DistributedDataParallel."""

    kind = "ddp"

    def __init__(self, step: nn.Module, *, config: TrainConfig, training: TrainingConfig, device: torch.device) -> None:
        from torch.nn.parallel import DistributedDataParallel

        self.device, self._config, self._autocast = device, config, training.precision == "bf16"
        self._step = step.to(device)
        self._ddp = DistributedDataParallel(self._step, device_ids=[device] if device.type == "cuda" else None)
        self._optimizer = make_optimizer(step, config)

    def step(self, micro_batches: list[dict[str, Tensor]], *, lr: float) -> dict[str, float]:
        set_learning_rate(self._optimizer, lr)
        losses = []
        for place, batch in enumerate(micro_batches):
            self._ddp.require_backward_grad_sync = place == len(micro_batches) - 1
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
                loss = self._ddp(batch)
            (loss["total"] / len(micro_batches)).backward()
            losses.append(loss)
        torch.nn.utils.clip_grad_norm_(self._step.parameters(), self._config.clip_grad)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return _means(losses)

    def save(self, folder: Path) -> None:
        if torch.distributed.get_rank() == 0:
            state = {"step": self._step.state_dict(), "optimizer": self._optimizer.state_dict()}
            torch.save(state, folder / DDP_FILE)

    def load(self, folder: Path) -> None:
        state = torch.load(folder / DDP_FILE, map_location=self.device, weights_only=True)
        self._step.load_state_dict(state["step"])
        self._optimizer.load_state_dict(state["optimizer"])


class DeepSpeedEngine:
    """DeepSpeed's engine at the configured ZeRO stage."""

    kind = "deepspeed"

    def __init__(self, step: nn.Module, *, config: TrainConfig, training: TrainingConfig, device: torch.device) -> None:
        if device.type == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # of inference alone: do not compile it
        self.device, self._autocast = device, training.precision == "bf16"
        deepspeed.init_distributed(dist_backend="gloo" if device.type == "cpu" else "nccl", verbose=False)
        self._engine, *_ = deepspeed.initialize(
            model=step,
            optimizer=make_optimizer(step, config),
            config={
                "train_micro_batch_size_per_gpu": config.batch_size,
                "gradient_accumulation_steps": config.accumulate,
                "gradient_clipping": config.clip_grad,
                "zero_optimization": {"stage": training.zero_stage},
                "zero_allow_untested_optimizer": True,
                "steps_per_print": 10**9,
            },
            dist_init_required=False,
        )

    def step(self, micro_batches: list[dict[str, Tensor]], *, lr: float) -> dict[str, float]:
        set_learning_rate(self._engine.optimizer, lr)
        losses = []
        for batch in micro_batches:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
                loss = self._engine(batch)
            self._engine.backward(loss["total"])
            self._engine.step()
            losses.append(loss)
        return _means(losses)

    def save(self, folder: Path) -> None:
        self._engine.save_checkpoint(str(folder), tag=TAG)

    def load(self, folder: Path) -> None:
        path, _ = self._engine.load_checkpoint(str(folder), tag=TAG)
        assert path is not None, folder


def _means(losses: list[dict[str, Tensor]]) -> dict[str, float]:
    return {name: sum(float(one[name].detach()) for one in losses) / len(losses) for name in losses[0]}


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The model's float32 weights out of a complete checkpoint, whichever engine and ZeRO stage wrote it."""
    if (folder / DDP_FILE).exists():
        state = torch.load(folder / DDP_FILE, map_location="cpu", weights_only=True)["step"]
    elif list((folder / TAG).glob("*_optim_states.pt")):
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            state = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=TAG)
    else:
        (file,) = (folder / TAG).glob("*model_states.pt")
        state = torch.load(file, map_location="cpu", weights_only=False)["module"]  # our own checkpoint
    return {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
