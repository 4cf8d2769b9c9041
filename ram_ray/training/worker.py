"""The training loop that every Ray Train worker runs.

A checkpoint holds the engine's state and the number of steps done (which is the data position, see `feed`); what was
rejected lies beside it (see `rejected`). It is uploaded while training goes on. Dropout is seeded a step, so a run that
was killed and resumed with as many workers ends with the same weights as one that was not (bit for bit on a CPU). With
another number of workers it sees the same rows in the same steps.

Letters: M micro batches of a step.
"""

from __future__ import annotations

import json
import os
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
from torch import Tensor, nn

from ram_ray.config import RunConfig
from ram_ray.runtime import ray_internals
from ram_ray.runtime.screen import print_line
from ram_ray.settings.training import TrainConfig
from ram_ray.training.feed import Feed
from ram_ray.training.rejected import RejectedRows, drop_after
from ram_ray.training.step import learning_rate, step_seed
from ram_ray.training.strategy import Engine, make_engine
from ram_ray.training.workers import total

TEXT_COLUMNS = ("key", "shard", "reason", "detail")
LOG_SECONDS = 15.0
NOTICE_SECONDS = 5.0  # between two looks for a node that is about to go
MOST_UNREADABLE = 1000  # images in a row, after which it is not the images


@dataclass(frozen=True)
class Job(ABC):
    """One training run, as it travels to the workers; subclasses say what is trained."""

    stage: str
    config: TrainConfig
    run: RunConfig
    feed: Feed  # of the whole run; each worker narrows it to its rank
    total_steps: int
    steps_per_epoch: int
    rejected: str = ""  # URI of the folder of rejected rows

    @abstractmethod
    def build(self, device: torch.device) -> nn.Module:
        """The module to train: a batch in, losses with a "total" out; its `model` is what is kept."""

    @abstractmethod
    def save(self, step: nn.Module, folder: str) -> None:
        """Write what was trained to a local folder."""


def train_worker(options: dict[str, Any]) -> None:
    """Entry of a Ray Train worker; `options["job"]` is a `Job`.

    Raises:
        ValueError: if no image of very many in a row could be read.
        FloatingPointError: if the loss is not a number.
    """
    job: Job = options["job"]
    ray_internals.silence_checkpoints()
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = get_device()
    if device.type == "cpu":
        torch.set_num_threads(job.run.training.threads)
    torch.manual_seed(job.run.seed)
    engine = make_engine(job.build(device), config=job.config, training=job.run.training, device=device)
    first = _resume(engine)
    rejected = RejectedRows(job.rejected, stage=job.stage, rank=rank)
    if rank == 0:
        drop_after(job.rejected, first)
        of, by = f"{job.total_steps} steps of {job.config.batch_size} images", f"{world} worker{'s' * (world > 1)}"
        print_line(f"{job.stage}: {of} on {by} ({engine.kind}), from step {first}")

    rows = first * job.config.batch_size, job.total_steps * job.config.batch_size
    feed = replace(job.feed, rank=rank, world_size=world, first_row=rows[0], end_row=rows[1])
    meter, notices, outage = Meter(job, first=first), Notices(rank), Outage(job)
    for step, micro_batches in enumerate(steps(feed, job, device=device, rejected=rejected), start=first):
        torch.manual_seed(step_seed(job.run.seed, step=step, rank=rank))
        lr = learning_rate(step, config=job.config, steps_per_epoch=job.steps_per_epoch, total_steps=job.total_steps)
        images, asks = count_images(micro_batches, asks=notices.due())
        outage.check(sum(images), rejected)
        shares = [one / max(1.0, sum(images)) for one in images]
        losses = engine.step(micro_batches, lr=lr, shares=shares)
        if not np.isfinite(losses["total"]):
            raise FloatingPointError(f"{job.stage}: loss {losses} at step {step}; lower {job.stage}.lr ({lr:.2g})")
        if rank == 0:
            meter.log(step + 1, losses, lr)
        leaving = asks and notices.new()
        if leaving or step + 1 == job.total_steps or (step + 1) % job.config.checkpoint_steps == 0:
            rejected.write(step + 1)
            _checkpoint(engine, step=step + 1, rank=rank, losses=losses)


def steps(feed: Feed, job: Job, *, device: torch.device, rejected: RejectedRows) -> Iterator[list[dict[str, Tensor]]]:
    """The M micro batches of each optimizer step, on the device; rejected rows are noted, and weigh nothing.

    A row that weighs nothing gets the pixels of one that does, so that what is normalised over a batch, in a stem of
    convolutions, sees no black images.

    Args:
        feed: gives micro batches.
        job: says how they are read.
        device: gets the tensors.
        rejected: notes rows that cannot be used.

    Yields:
        Tensors by name, of each of the M micro batches.
    """
    _, num_micro = feed.share
    micro: list[dict[str, Tensor]] = []
    for batch in feed.stream(num_cpus=job.run.training.feed_cpus):
        rejected.add(batch)
        good = np.flatnonzero(batch["weight"])
        if 0 < len(good) < len(batch["weight"]):
            idle = np.flatnonzero(batch["weight"] == 0)
            pixels = np.array(batch["pixels"])
            pixels[idle] = pixels[good[np.arange(len(idle)) % len(good)]]
            batch = {**batch, "pixels": pixels}
        columns = {name: value for name, value in batch.items() if name not in TEXT_COLUMNS}
        micro.append({name: torch.from_numpy(np.array(value)).to(device) for name, value in columns.items()})
        if len(micro) == num_micro:
            yield micro
            micro = []


def count_images(micro_batches: list[dict[str, Tensor]], *, asks: bool = False) -> tuple[list[float], bool]:
    """Images that count in each of the M micro batches, over all workers.

    Args:
        micro_batches: of this worker, with `weight` (B,).
        asks: a question of this worker to all.

    Returns:
        M counts, and whether any worker asks.
    """
    own = [one["weight"].sum() for one in micro_batches]
    *images, asking = total(torch.stack([*own, torch.full_like(own[0], float(asks))])).tolist()
    return images, asking > 0


class Outage:
    """Ends a run that reads no image any more: nothing would be learnt, and a restart would not mend it."""

    def __init__(self, job: Job) -> None:
        self._stage, self._batch_size, self._unread = job.stage, job.config.batch_size, 0
        self._most = min(MOST_UNREADABLE, self._batch_size * min(job.config.checkpoint_steps, job.total_steps))

    def check(self, images: float, rejected: RejectedRows) -> None:
        """Count a step in which so many images could be read.

        Args:
            images: that counted in the step, over all workers.
            rejected: of this worker.

        Raises:
            ValueError: if none could be read of as many as a checkpoint is apart, or of `MOST_UNREADABLE`.
        """
        self._unread = 0 if images else self._unread + self._batch_size
        if self._unread >= self._most:
            raise ValueError(
                f"{self._stage}: none of {self._unread} images in a row could be read; see whether the data can be "
                f"reached, then run again. The first: {rejected.first}"
            )


class Notices:
    """Whether a node of the run is about to be taken away, asked of Ray every few seconds by all workers together."""

    def __init__(self, rank: int) -> None:
        self._rank, self._last, self._known = rank, time.monotonic(), set[str]()

    def due(self) -> bool:
        """Whether the first worker wants to ask."""
        now = time.monotonic()
        if self._rank or now - self._last < NOTICE_SECONDS:
            return False
        self._last = now
        return True

    def new(self) -> bool:
        """Whether a node was announced that was not before; every worker must ask as often as the others."""
        info = ray.train.get_preemption_info()
        leaving = set(info.preempted_node_ids) if info else set()
        found, self._known = bool(leaving - self._known), self._known | leaving
        return found


def _resume(engine: Engine) -> int:
    """Load Ray's newest checkpoint; returns the steps that were done."""
    checkpoint = ray.train.get_checkpoint()
    if not checkpoint:
        return 0
    with checkpoint.as_directory() as folder:
        engine.load(Path(folder) / "engine")
        return json.loads((Path(folder) / "state.json").read_text())["step"]


def _checkpoint(engine: Engine, *, step: int, rank: int, losses: dict[str, float]) -> None:
    """Write a checkpoint and leave it to Ray, which uploads it beside the training and removes the local copy."""
    folder = Path(tempfile.mkdtemp(prefix="checkpoint-", dir=os.getcwd()))  # inside Ray's session, gone with it
    (folder / "engine").mkdir()
    engine.save(folder / "engine")
    if rank == 0:
        (folder / "state.json").write_text(json.dumps({"step": step, "engine": engine.kind}))
    ray.train.report(
        {**losses, "step": step, "engine": engine.kind},
        checkpoint=ray.train.Checkpoint.from_directory(str(folder)),
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
    )


class Meter:
    """Prints step, losses, images a second and time left, every few seconds.

    Args:
        job: says how many steps there are.
        first: the step that this worker begins with.
    """

    def __init__(self, job: Job, *, first: int) -> None:
        self._job, self._first = job, first
        self._start = self._last = time.monotonic()

    def log(self, done: int, losses: dict[str, float], lr: float) -> None:
        """Print steps, losses, rate and time left, every `LOG_SECONDS` seconds and after the last step.

        Args:
            done: steps of the run.
            losses: of the last step, by name.
            lr: its learning rate.
        """
        now = time.monotonic()
        if now - self._last < LOG_SECONDS and done != self._job.total_steps:
            return
        self._last = now
        rate = (done - self._first) / max(1e-6, now - self._start)
        left = int((self._job.total_steps - done) / max(1e-6, rate))
        text = " ".join(f"{name} {value:.3g}" for name, value in losses.items() if name != "total")
        print_line(
            f"{self._job.stage}: step {done}/{self._job.total_steps}, {text}, lr {lr:.2g}, "
            f"{rate * self._job.config.batch_size:.0f} images/s, {left // 60}:{left % 60:02d} left",
        )
