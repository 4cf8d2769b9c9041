"""The training loop that every Ray Train worker runs.

A checkpoint holds the engine's state, the number of steps done (which is the data position, see `feed`), and the
rejected rows met so far. Dropout is seeded a step, so a run that was killed and resumed ends with the same
weights as one that was not (bit for bit on a CPU).
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import torch
from ray.train.torch import get_device
from ray.train.v2._internal.execution import context as reports
from torch import nn

from ram_ray.config import RunConfig, TrainConfig
from ram_ray.screen import print_line
from ram_ray.training.engine import Engine, make_engine
from ram_ray.training.feed import Feed
from ram_ray.training.step import learning_rate, step_seed

TEXT_COLUMNS = ("key", "shard", "reason", "detail")
LOG_SECONDS = 15.0


@dataclass(frozen=True)
class Job(ABC):
    """One training run, as it travels to the workers; subclasses say what is trained."""

    stage: str
    config: TrainConfig
    run: RunConfig
    feed: Feed  # of the whole run; each worker narrows it to its rank
    total_steps: int
    steps_per_epoch: int

    @property
    def global_batch(self) -> int:
        """Rows of one optimizer step over all workers."""
        return self.config.batch_size * self.config.accumulate * self.run.training.workers

    @abstractmethod
    def build(self, device: torch.device) -> nn.Module:
        """The module to train: a batch in, losses with a "total" out; its `model` is what is kept."""

    @abstractmethod
    def save(self, step: nn.Module, folder: str) -> None:
        """Write what was trained to a local folder."""


def train_worker(options: dict[str, Any]) -> None:
    """Entry of a Ray Train worker; `options["job"]` is a `Job`."""
    job: Job = options["job"]
    reports.logger.setLevel(logging.WARNING)  # a line a checkpoint otherwise
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = get_device()
    if device.type == "cpu":
        torch.set_num_threads(job.run.training.threads)
    torch.manual_seed(job.run.seed)
    engine = make_engine(job.build(device), config=job.config, training=job.run.training, device=device)
    done, rejected = 0, {}
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            engine.load(Path(folder) / "engine")
            state = json.loads((Path(folder) / "state.json").read_text())
            done, rejected = state["step"], state["rejected"]
    if rank == 0:
        work = f"{job.total_steps} steps of {job.global_batch} images"
        print_line(f"{job.stage}: {work}, {engine.kind}, from step {done}")

    first_row, end_row = done * job.global_batch, job.total_steps * job.global_batch
    feed = replace(job.feed, rank=rank, world_size=world, first_row=first_row, end_row=end_row)
    meter = Meter(job, first=done)
    for step, micro_batches in enumerate(steps(feed, job, device=device, rejected=rejected), start=done):
        torch.manual_seed(step_seed(job.run.seed, step=step, rank=rank))
        lr = learning_rate(step, config=job.config, steps_per_epoch=job.steps_per_epoch, total_steps=job.total_steps)
        losses = engine.step(micro_batches, lr=lr)
        if not np.isfinite(losses["total"]):
            raise FloatingPointError(f"{job.stage}: loss {losses} at step {step}; lower {job.stage}.lr ({lr:.2g})")
        if rank == 0:
            meter.log(step + 1, losses, lr)
        last = step + 1 == job.total_steps
        if last or (step + 1) % job.config.checkpoint_steps == 0:
            _checkpoint(engine, job, step=step + 1, rank=rank, losses=losses, rejected=rejected)


def steps(feed: Feed, job: Job, *, device: torch.device, rejected: dict) -> Iterator[list[dict[str, Any]]]:
    """Micro batches of each optimizer step, on the device. Rejected rows are taken out and noted."""
    micro: list[dict[str, Any]] = []
    for batch in feed.stream(num_cpus=job.run.training.feed_cpus):
        good = batch["reason"] == ""
        for place in np.flatnonzero(~good):
            rejected[str(batch["key"][place])] = [str(batch[name][place]) for name in ("shard", "reason", "detail")]
        if not good.any():
            raise ValueError(f"no picture of a whole batch could be read; the first: {batch['detail'][0]}")
        micro.append(
            {
                name: torch.from_numpy(np.array(value if good.all() else value[good])).to(device)
                for name, value in batch.items()
                if name not in TEXT_COLUMNS
            }
        )
        if len(micro) == job.config.accumulate:
            yield micro
            micro = []


def _checkpoint(engine: Engine, job: Job, *, step: int, rank: int, losses: dict[str, float], rejected: dict) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "engine").mkdir()
        engine.save(Path(folder) / "engine")
        if rank == 0:
            state = {"step": step, "rejected": rejected, "engine": engine.kind}
            (Path(folder) / "state.json").write_text(json.dumps(state))
        (Path(folder) / f"rejected-{rank}.json").write_text(json.dumps(rejected))
        metrics = {**losses, "step": step, "engine": engine.kind}
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


class Meter:
    """Prints step, losses, images a second and time left, every few seconds."""

    def __init__(self, job: Job, *, first: int) -> None:
        self._job, self._first = job, first
        self._start = self._last = time.monotonic()

    def log(self, done: int, losses: dict[str, float], lr: float) -> None:
        now = time.monotonic()
        if now - self._last < LOG_SECONDS and done != self._job.total_steps:
            return
        self._last = now
        rate = (done - self._first) / max(1e-6, now - self._start)
        left = int((self._job.total_steps - done) / max(1e-6, rate))
        text = " ".join(f"{name} {value:.3g}" for name, value in losses.items() if name != "total")
        print_line(
            f"{self._job.stage}: step {done}/{self._job.total_steps}, {text}, lr {lr:.2g}, "
            f"{rate * self._job.global_batch:.0f} images/s, {left // 60}:{left % 60:02d} left",
        )
