"""How a step is applied over the workers: DeepSpeed (ZeRO), or plain DDP, behind one small interface.

On a GPU DeepSpeed runs over NCCL, on a CPU over gloo. Nothing is compiled: the optimizers are torch's own (see
`optimizer`), and the shared-memory operator that DeepSpeed builds on a CPU, a minute of compiling, serves its inference
alone. Precision is torch's autocast in both, with float32 master weights and float32 sums of gradients (DeepSpeed's own
bf16 switch does not work with timm's Swin, and on a GPU it turns an autocast around it off: its section
`torch_autocast` is the way). Where fp32 is asked for on a GPU, matrix products are TF32.

A checkpoint loads on any number of workers: what DDP and ZeRO stage 0 write is whole, and what the workers of the other
stages wrote in parts is put together by DeepSpeed's universal checkpoint.

Letters: M micro batches of a step.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ram_ray.settings.training import TrainConfig, TrainingConfig
from ram_ray.training.micro_batches import share
from ram_ray.training.optimizer import make_optimizer, set_learning_rate
from ram_ray.training.workers import world_size

DDP_FILE = "state.pt"
TAG = "deepspeed"  # DeepSpeed's own folder inside a checkpoint


class Engine(Protocol):
    """Backward pass, gradient reduction, optimizer step and checkpoint of a step module: a batch in, losses out."""

    kind: str
    device: torch.device

    def step(
        self, micro_batches: list[dict[str, Tensor]], *, lr: float, shares: list[float] | None = None
    ) -> dict[str, float]:
        """One optimizer step over gradient-accumulated micro batches; returns the mean of each loss.

        Args:
            shares: of each micro batch in the step's images, the same on every worker; None: equal ones.
        """

    def save(self, folder: Path) -> None:
        """Write this worker's part of a checkpoint."""

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""


def make_engine(step: nn.Module, *, config: TrainConfig, training: TrainingConfig, device: torch.device) -> Engine:
    """The configured engine. Needs an initialised process group."""
    if device.type == "cuda" and training.precision == "fp32":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
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

    def step(
        self, micro_batches: list[dict[str, Tensor]], *, lr: float, shares: list[float] | None = None
    ) -> dict[str, float]:
        set_learning_rate(self._optimizer, lr)
        shares, losses = shares or _equal(micro_batches), []
        for number, (batch, part) in enumerate(zip(micro_batches, shares, strict=True)):
            self._ddp.require_backward_grad_sync = number == len(micro_batches) - 1
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
                loss = self._ddp(batch)
            (loss["total"] * part).backward()
            losses.append(loss)
        if self._config.clip_grad is not None:
            torch.nn.utils.clip_grad_norm_(self._step.parameters(), self._config.clip_grad)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return _means(losses, shares)

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
        self.device = device
        micro_batch, micro_batches = share(config.batch_size, workers=world_size(), limit=config.micro_batch_size)
        deepspeed.init_distributed(dist_backend="gloo" if device.type == "cpu" else "nccl", verbose=False)
        self._engine, *_ = deepspeed.initialize(
            model=step,
            optimizer=make_optimizer(step, config),
            config={
                "train_micro_batch_size_per_gpu": micro_batch,
                "gradient_accumulation_steps": micro_batches,
                "gradient_clipping": config.clip_grad or 0.0,  # 0: off
                "torch_autocast": {
                    "enabled": training.precision == "bf16",
                    "dtype": "bfloat16",
                    "lower_precision_safe_modules": [],  # those whose gradients would be summed in bf16
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
        set_learning_rate(self._engine.optimizer, lr)
        shares, losses = shares or _equal(micro_batches), []
        for batch, part in zip(micro_batches, shares, strict=True):
            loss = self._engine(batch)
            self._engine.backward(loss["total"] * part * len(micro_batches))  # it divides by their number
            self._engine.step()
            losses.append(loss)
        return _means(losses, shares)

    def save(self, folder: Path) -> None:
        self._engine.save_checkpoint(str(folder), tag=TAG)

    def load(self, folder: Path) -> None:
        parts = len(list((folder / TAG).glob("*_optim_states.pt")))  # none at stage 0
        if parts in (0, world_size()):
            path, _ = self._engine.load_checkpoint(str(folder), tag=TAG)
        else:
            path = self._load_universal(folder / TAG)
        assert path is not None, folder

    def _load_universal(self, parts: Path) -> str | None:
        """Load what another number of workers wrote."""
        config, optimizer = self._engine._config, self._engine.optimizer.optimizer
        decays = [group["weight_decay"] for group in optimizer.param_groups]
        with _put_together(parts) as whole:
            config.load_universal_checkpoint = True
            path, _ = self._engine.load_checkpoint(str(whole), tag=TAG)
            config.load_universal_checkpoint = False
        # At stage 3 DeepSpeed gives all groups the first one's weight decay, and all weights one counter of steps.
        for group, decay in zip(optimizer.param_groups, decays, strict=True):
            group["weight_decay"] = decay
        for state in optimizer.state.values():
            state["step"] = state["step"].clone()
        return path


@contextlib.contextmanager
def _put_together(parts: Path) -> Iterator[Path]:
    """A folder with DeepSpeed's universal checkpoint of all workers' parts, made once a node, gone at the end."""
    from deepspeed.checkpoint import ds_to_universal

    first = os.environ.get("LOCAL_RANK", "0") == "0"
    with tempfile.TemporaryDirectory() if first else contextlib.nullcontext() as own:
        folders: list = [None] * world_size()
        torch.distributed.all_gather_object(folders, (os.uname().nodename, own))
        folder = next(Path(path) for node, path in folders if node == os.uname().nodename and path)
        if own:
            options = argparse.Namespace(
                input_folder=str(parts),
                output_folder=str(folder / TAG),
                num_extract_workers=1,
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                inject_missing_state=True,
            )
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                ds_to_universal.main(options)
        torch.distributed.barrier()
        yield folder
        torch.distributed.barrier()


def _equal(micro_batches: list) -> list[float]:
    return [1 / len(micro_batches)] * len(micro_batches)


def _means(losses: list[dict[str, Tensor]], shares: list[float]) -> dict[str, float]:
    pairs = list(zip(losses, shares, strict=True))
    return {name: sum(float(one[name].detach()) * part for one, part in pairs) for name in losses[0]}


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The model's float32 weights out of a complete checkpoint, whichever engine and ZeRO stage wrote it."""
    if (folder / DDP_FILE).exists():
        state = torch.load(folder / DDP_FILE, map_location="cpu", weights_only=True)["step"]
    elif (file := folder / TAG / "mp_rank_00_model_states.pt").exists():  # the whole module, but for stage 3
        state = torch.load(file, map_location="cpu", weights_only=False)["module"]  # our own checkpoint
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            state = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=TAG)
    return {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
