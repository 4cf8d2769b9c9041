"""What a training step measures: losses, learning rate and images per second, as JSON lines.

    WORK/metrics/<step>-0.jsonl    lines of rank 0 between the previous checkpoint and that of `step` (`step_files`)
    MODEL/metrics.jsonl            all lines of the training, written with the model
    MODEL/tensorboard/             the same as TensorBoard events, where `training.tensorboard` asks for them

The losses are those that `TrainingStrategy.step` returns on rank 0, which the log shows too. They are not averaged over
the workers: that would take a collective operation more in each step. A worker's loss is scaled so that the mean over
the workers is the loss of the step (`step.losses_over_workers`); so that of rank 0 is an estimate, exact with one
worker.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import fsspec
from pydantic import BaseModel, ConfigDict, Field

from ram_ray.runtime.artifacts import write_text
from ram_ray.training.step_files import list_step_files

METRICS = "metrics.jsonl"  # in the folder of a model
EVENTS = "tensorboard/events.out.tfevents.metrics"  # in the folder of a model; TensorBoard knows it by "tfevents"
MAX_LINES = 2000  # of a training, about: fewer than twice as many


class Metrics(BaseModel):
    """A line of `metrics.jsonl`: one training step."""

    model_config = ConfigDict(frozen=True)

    step: int = Field(ge=0, le=10**15)  # finished steps
    epoch: float | None = None  # finished epochs
    lr: float | None = None
    images_per_s: float | None = None  # of all workers, since the line before
    losses: dict[str, float]  # by name, such as total, tag, text; NaN is possible


class MetricsRecorder:
    """The metrics of rank 0 since its last checkpoint.

    Args:
        folder: URI; empty: nothing is recorded.
        total_steps: steps of the run.
        steps_per_epoch: steps of an epoch.
        batch_size: images of a step, over all workers.
        first: finished steps of the checkpoint that this worker starts from.
    """

    def __init__(self, folder: str, *, total_steps: int, steps_per_epoch: int, batch_size: int, first: int) -> None:
        self._folder, self._total_steps, self._steps_per_epoch = folder, total_steps, steps_per_epoch
        self._batch_size, self._every = batch_size, max(1, total_steps // MAX_LINES)
        self._last_step, self._last_time = first, time.monotonic()
        self._lines: list[str] = []

    def add(self, num_steps: int, losses: Mapping[str, float], lr: float) -> None:
        """Record a step, if it is one of those that are recorded; the last step always is.

        Args:
            num_steps: finished steps of the run.
            losses: losses of the last step, by name; those that are not finite, which JSON cannot hold, are left out.
            lr: learning rate of the last step.
        """
        if not self._folder or (num_steps % self._every and num_steps != self._total_steps):
            return
        now = time.monotonic()
        images = (num_steps - self._last_step) * self._batch_size
        metrics = Metrics(
            step=num_steps,
            epoch=round(num_steps / self._steps_per_epoch, 6),
            lr=lr,
            images_per_s=round(images / max(1e-6, now - self._last_time), 3),
            losses={name: loss for name, loss in losses.items() if math.isfinite(loss)},
        )
        self._lines.append(metrics.model_dump_json() + "\n")
        self._last_step, self._last_time = num_steps, now

    def write(self, step: int) -> None:
        """Write the recorded lines and clear them. The checkpoint of this step must follow.

        Args:
            step: step of the checkpoint.
        """
        if self._lines:
            write_text(f"{self._folder}/{step:09d}-0.jsonl", "".join(self._lines))
            self._lines.clear()


def read_lines(folder: str) -> list[str]:
    """Read the lines of a training.

    Args:
        folder: URI of the folder that `MetricsRecorder` wrote.

    Returns:
        Lines with their line ends, in the order of steps; empty where nothing was recorded.
    """
    if not folder:
        return []
    fs, _ = fsspec.url_to_fs(folder)
    texts = [fs.cat_file(file).decode() for file, _ in list_step_files(folder)]
    return [line for text in texts for line in text.splitlines(keepends=True)]


def write_metrics(lines: Iterable[str], folder: Path, *, tensorboard: bool) -> None:
    """Write `metrics.jsonl`, and on request the same as TensorBoard events, to a local folder.

    Args:
        lines: as `read_lines` returns them.
        folder: local folder of the model.
        tensorboard: whether to write TensorBoard events.
    """
    lines = list(lines)
    (folder / METRICS).write_text("".join(lines), encoding="utf-8")
    if tensorboard:
        _write_events([Metrics.model_validate_json(line) for line in lines], folder / EVENTS)


def _write_events(metrics: Iterable[Metrics], path: Path) -> None:
    """Write an event file; its name is fixed, so that a task that Ray runs again replaces the file."""
    from tensorboardX import SummaryWriter

    with tempfile.TemporaryDirectory() as scratch:
        with SummaryWriter(logdir=scratch) as writer:
            for row in metrics:
                values = {"epoch": row.epoch, "lr": row.lr, "images_per_s": row.images_per_s}
                values |= {f"losses/{name}": loss for name, loss in row.losses.items()}
                for name, value in values.items():
                    if value is not None:
                        writer.add_scalar(name, value, row.step)
        (file,) = Path(scratch).iterdir()
        path.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, path)
