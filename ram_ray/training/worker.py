"""The training loop that every Ray Train worker runs.

A checkpoint holds the strategy's state and the number of finished steps, which is the data position (see `feed`).
Rejected rows and metrics are stored separately (see `rejected_rows` and `metrics`). A checkpoint is uploaded while
training continues. Dropout is seeded in each step. So a run that was killed and resumed with the same number of workers
ends with the same weights as an uninterrupted run (bit for bit on a CPU). With another number of workers it sees the
same rows in the same steps.
"""

from __future__ import annotations

import json
import logging
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

from ram_ray.models.number_format import choose_precision
from ram_ray.runtime import metrics as stage_metrics
from ram_ray.runtime import ray_internals
from ram_ray.runtime.allocator import prepare_model_process
from ram_ray.runtime.metrics import ROWS, Labels
from ram_ray.runtime.progress import format_duration
from ram_ray.runtime.worker_log import send_to_driver
from ram_ray.settings.training import TrainConfig, TrainingConfig
from ram_ray.training.feed import Feed
from ram_ray.training.metrics import MetricsRecorder
from ram_ray.training.rejected_rows import RejectedRows
from ram_ray.training.step import learning_rate, step_seed
from ram_ray.training.step_files import remove_later_files
from ram_ray.training.step_times import StepTimes
from ram_ray.training.strategy import TrainingStrategy, make_strategy
from ram_ray.training.worker_sums import sum_over_workers

logger = logging.getLogger(__name__)

TEXT_COLUMNS = ("key", "shard", "reason", "detail")
LOG_SECONDS = 15.0
NOTICE_SECONDS = 5.0  # interval of asking Ray whether a node will be preempted
MAX_UNREADABLE = 1000  # consecutive images; more mean that the data cannot be reached


@dataclass(frozen=True)
class Job(ABC):
    """A training run, sent to every worker; subclasses define the model."""

    stage: str
    config: TrainConfig
    training: TrainingConfig
    feed: Feed  # feed of the whole run; each worker sets its rank; its seed is that of the training
    total_steps: int
    steps_per_epoch: int
    rejected: str = ""  # URI of the folder of rejected rows
    metrics: str = ""  # URI of the folder of recorded metrics; empty: they are not recorded
    run: str = ""  # name of the run in its metrics

    @abstractmethod
    def build(self, device: torch.device) -> nn.Module:
        """Build the module to train; its attribute `model` is the model that is saved.

        Args:
            device: device of the worker.

        Returns:
            A module from a batch to losses with a "total".
        """

    @abstractmethod
    def save(self, step: nn.Module, folder: str) -> None:
        """Write the trained model to a local folder.

        Args:
            step: the module of `build`, trained.
            folder: local folder.
        """


def train_worker(options: dict[str, Any]) -> None:
    """Run the training loop; Ray Train calls this on every worker.

    Args:
        options: `options["job"]` is the `Job`.

    Raises:
        ValueError: if many consecutive images could not be read, see `UnreadableImageCheck`.
        FloatingPointError: if the loss is not finite.
    """
    job: Job = options["job"]
    send_to_driver()
    stage_metrics.set_labels(Labels(job.run, job.stage))
    times = StepTimes(cpus=job.training.worker_cpus, gpus=float(job.training.use_gpu))
    ray_internals.silence_checkpoints()
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = get_device()
    if device.type == "cpu":
        prepare_model_process("cpu", threads=job.training.threads)
    torch.manual_seed(job.feed.seed)
    strategy = make_strategy(job.build(device), config=job.config, training=job.training, device=device)
    first = _resume(strategy)
    rejected = RejectedRows(job.rejected, stage=job.stage, rank=rank)
    if rank == 0:
        for folder in filter(None, (job.rejected, job.metrics)):
            remove_later_files(folder, first)
        steps_text = f"{job.total_steps} steps of {job.config.batch_size} images"
        workers_text = f"{world} worker{'s' * (world > 1)}"
        how = f"{strategy.name}, {choose_precision(job.training.precision, device)}"
        logger.info("%s: %s on %s (%s), from step %d", job.stage, steps_text, workers_text, how, first)

    rows = first * job.config.batch_size, job.total_steps * job.config.batch_size
    feed = replace(job.feed, rank=rank, world_size=world, first_row=rows[0], end_row=rows[1])
    meter, notices = ProgressMeter(job, times, first=first), PreemptionNotices(rank)
    unreadable, metrics = UnreadableImageCheck(job), _metrics_recorder(job, first)
    batches = times.follow(steps(feed, job, device=device, rejected=rejected))
    for step, micro_batches in enumerate(batches, start=first):
        torch.manual_seed(step_seed(job.feed.seed, step=step, rank=rank))
        lr = learning_rate(step, config=job.config, steps_per_epoch=job.steps_per_epoch, total_steps=job.total_steps)
        images, check_notices = count_images(micro_batches, vote=notices.is_due())
        unreadable.check(sum(images), rejected)
        shares = [count / max(1.0, sum(images)) for count in images]
        losses = strategy.step(micro_batches, lr=lr, shares=shares)
        if not np.isfinite(losses["total"]):
            raise FloatingPointError(f"{job.stage}: loss {losses} at step {step}; lower {job.stage}.lr ({lr:.2g})")
        if rank == 0:
            meter.log(step + 1, losses, lr)
            metrics.add(step + 1, losses, lr)
        preempted = check_notices and notices.has_new()
        if preempted or step + 1 == job.total_steps or (step + 1) % job.config.checkpoint_steps == 0:
            rejected.write(step + 1)
            metrics.write(step + 1)
            _checkpoint(strategy, step=step + 1, rank=rank, losses=losses)


def steps(feed: Feed, job: Job, *, device: torch.device, rejected: RejectedRows) -> Iterator[list[dict[str, Tensor]]]:
    """Stream the M micro batches of each optimizer step to the device, and record rejected rows.

    A row of weight 0 gets the pixels of a usable row, so that a batch norm (in the convolution stem) sees no black
    images.

    Args:
        feed: feed of this worker.
        job: the training run.
        device: device of the tensors.
        rejected: records the rows that cannot be used.

    Yields:
        M micro batches: tensors by name.
    """
    _, num_micro = feed.micro_batch_layout
    micro: list[dict[str, Tensor]] = []
    for batch in feed.stream(num_cpus=job.training.feed_cpus):
        rejected.add(batch)
        stage_metrics.count(ROWS, float(batch["weight"].sum()))
        usable = np.flatnonzero(batch["weight"])
        if "pixels" in batch and 0 < len(usable) < len(batch["weight"]):
            unusable = np.flatnonzero(batch["weight"] == 0)
            pixels = np.array(batch["pixels"])
            pixels[unusable] = pixels[usable[np.arange(len(unusable)) % len(usable)]]
            batch = {**batch, "pixels": pixels}
        columns = {name: value for name, value in batch.items() if name not in TEXT_COLUMNS}
        micro.append({name: torch.from_numpy(np.array(value)).to(device) for name, value in columns.items()})
        if len(micro) == num_micro:
            yield micro
            micro = []


def count_images(micro_batches: list[dict[str, Tensor]], *, vote: bool = False) -> tuple[list[float], bool]:
    """Count the images of weight 1 in each of the M micro batches, over all workers.

    Args:
        micro_batches: M micro batches of this worker, with `weight` (B,).
        vote: a flag of this worker, combined with the other workers' flags in the same all-reduce.

    Returns:
        M counts, and whether the flag of any worker is set.
    """
    own = [batch["weight"].sum() for batch in micro_batches]
    *images, num_votes = sum_over_workers(torch.stack([*own, torch.full_like(own[0], float(vote))])).tolist()
    return images, num_votes > 0


class UnreadableImageCheck:
    """Ends a run that can read no images: it would learn nothing, and a restart would not help.

    Args:
        job: the training run.
    """

    def __init__(self, job: Job) -> None:
        self._stage, self._batch_size, self._num_unread = job.stage, job.config.batch_size, 0
        self._limit = min(MAX_UNREADABLE, self._batch_size * min(job.config.checkpoint_steps, job.total_steps))

    def check(self, num_read: float, rejected: RejectedRows) -> None:
        """Count a step, and end the run after too many consecutive unreadable images.

        Args:
            num_read: images of weight 1 in the step, over all workers.
            rejected: rejected rows of this worker; the first is named in the error.

        Raises:
            ValueError: if no image was read of `MAX_UNREADABLE`, or of those of a checkpoint interval, in a row.
        """
        self._num_unread = 0 if num_read else self._num_unread + self._batch_size
        if self._num_unread >= self._limit:
            raise ValueError(
                f"{self._stage}: none of {self._num_unread} images in a row could be read; see whether the data can be "
                f"reached, then run again. The first: {rejected.first_message}"
            )


class PreemptionNotices:
    """Asks Ray every few seconds whether a node of the run will be preempted; all workers ask in the same step.

    Args:
        rank: rank of the worker.
    """

    def __init__(self, rank: int) -> None:
        self._rank, self._last, self._known = rank, time.monotonic(), set[str]()

    def is_due(self) -> bool:
        """Whether it is time to ask; only rank 0 ever returns True."""
        now = time.monotonic()
        if self._rank or now - self._last < NOTICE_SECONDS:
            return False
        self._last = now
        return True

    def has_new(self) -> bool:
        """Ask Ray for announced nodes. Every worker must call this in the same steps.

        Returns:
            Whether a node was announced since the last call.
        """
        info = ray.train.get_preemption_info()
        nodes = set(info.preempted_node_ids) if info else set()
        has_new, self._known = bool(nodes - self._known), self._known | nodes
        return has_new


def _metrics_recorder(job: Job, first: int) -> MetricsRecorder:
    return MetricsRecorder(
        job.metrics,
        total_steps=job.total_steps,
        steps_per_epoch=job.steps_per_epoch,
        batch_size=job.config.batch_size,
        first=first,
    )


def _resume(strategy: TrainingStrategy) -> int:
    """Load Ray's newest checkpoint; return the number of finished steps."""
    checkpoint = ray.train.get_checkpoint()
    if not checkpoint:
        return 0
    with checkpoint.as_directory() as folder:
        strategy.load(Path(folder) / "strategy")
        return json.loads((Path(folder) / "state.json").read_text())["step"]


def _checkpoint(strategy: TrainingStrategy, *, step: int, rank: int, losses: dict[str, float]) -> None:
    """Write a checkpoint and report it to Ray, which uploads it during training and removes the local copy."""
    folder = Path(tempfile.mkdtemp(prefix="checkpoint-", dir=os.getcwd()))  # Ray removes the session's folder
    (folder / "strategy").mkdir()
    strategy.save(folder / "strategy")
    if rank == 0:
        (folder / "state.json").write_text(json.dumps({"step": step, "strategy": strategy.name}))
    ray.train.report(
        {**losses, "step": step, "strategy": strategy.name},
        checkpoint=ray.train.Checkpoint.from_directory(str(folder)),
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
    )


class ProgressMeter:
    """Logs step, losses, images per second, remaining time, and what takes longest, every few seconds.

    Args:
        job: the training run.
        times: of this worker.
        first: first step of this worker.
    """

    def __init__(self, job: Job, times: StepTimes, *, first: int) -> None:
        self._job, self._times, self._first = job, times, first
        self._start = self._last = time.monotonic()

    def log(self, num_steps: int, losses: dict[str, float], lr: float) -> None:
        """Log a line every `LOG_SECONDS` seconds and after the last step.

        Args:
            num_steps: finished steps of the run.
            losses: losses of the last step, by name.
            lr: learning rate of the last step.
        """
        now = time.monotonic()
        if now - self._last < LOG_SECONDS and num_steps != self._job.total_steps:
            return
        self._last = now
        rate = (num_steps - self._first) / max(1e-6, now - self._start)
        left = format_duration((self._job.total_steps - num_steps) / max(1e-6, rate))
        text = " ".join(f"{name} {value:.3g}" for name, value in losses.items() if name != "total")
        logger.info(
            "%s: step %d/%d, %s, lr %.2g, %.0f images/s, %s left; %s",
            self._job.stage,
            num_steps,
            self._job.total_steps,
            text,
            lr,
            rate * self._job.config.batch_size,
            left,
            self._times.describe(),
        )
