"""The trainer of all stages: Ray Train over the cluster, fed by Ray Data, writes a folder with the trained model.

    rows -> training table (shuffled, buckets) -> Ray Train workers -> checkpoints -> model

pretrain, retrain and finetune are configurations of it (`tagger_stage`), and `represent` trains its dual encoder with
it. After a kill, the same call resumes: the table is made once, Ray Train finds its newest checkpoint under the stage's
work folder, and the model is written from the last checkpoint, with the metrics of the training (`metrics`).
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec

from ram_ray.runtime.artifacts import R, Stage, write_table
from ram_ray.runtime.tasks import Task
from ram_ray.settings.training import TrainConfig
from ram_ray.training.failures import MISTAKES, EndOnMistakes, first_error
from ram_ray.training.metrics import read_lines, write_metrics
from ram_ray.training.rejected_rows import read as read_rejected
from ram_ray.training.worker import Job, train_worker

if TYPE_CHECKING:
    from ray.train import Checkpoint, Result


@dataclass(frozen=True)
class TrainingCounts:
    """What a training run counted, for the result of its stage."""

    rows_in: int  # rows of the training table
    rejected: int  # images that could not be read
    steps: int
    images_seen: int
    strategy: str  # deepspeed | ddp


def train(job: Job, *, stage: Stage[R]) -> TrainingCounts:
    """Run a training job and write its model to `stage.path`.

    Args:
        job: the job that every worker gets.
        stage: gets the model and the work folder.

    Returns:
        Counts for the result of the stage.
    """
    job = replace(job, rejected=f"{stage.work}/rejected", metrics=f"{stage.work}/metrics", run=stage.run.label)
    checkpoint = fit(job, storage=f"{stage.work}/train").checkpoint
    assert checkpoint is not None  # of the last step
    publish = Task(_publish, num_cpus=0.5)
    return publish.run(job, checkpoint, stage.path, stage.run.path("rejected", stage.name))


def count_steps(num_rows: int, *, section: str, config: TrainConfig) -> tuple[int, int]:
    """Count the optimizer steps of the run and of an epoch.

    Args:
        num_rows: rows of the training table.
        section: of the training, named in the error, such as "finetune".
        config: settings of the training.

    Returns:
        Steps of the run, and steps of an epoch (at least 1).

    Raises:
        ValueError: if there are too few rows for one step.
    """
    total_steps = int(config.epochs * num_rows / config.batch_size)
    if total_steps < 1:
        raise ValueError(
            f"{section}.batch_size: {config.epochs:g} epochs of {num_rows} images give no step of {config.batch_size} "
            f"images; set {section}.batch_size lower, or give more data"
        )
    return total_steps, max(1, num_rows // config.batch_size)


def fit(job: Job, *, storage: str) -> Result:
    """Run the workers; a run resumes from the newest checkpoint in the storage folder.

    Args:
        job: the job that every worker gets.
        storage: folder or URI of the checkpoints.

    Returns:
        Ray Train's result, with the last checkpoint.

    Raises:
        ValueError: if a worker failed with an error that a retry would meet again.
        RuntimeError: if workers failed more often than `training.max_failures`; with the last line of the error.
    """
    from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig

    from ram_ray.runtime.ray_train_internals import LeanTrainer

    training = job.training
    resources = {"CPU": training.worker_cpus, **({"GPU": 1} if training.use_gpu else {})}
    trainer = LeanTrainer(
        train_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if training.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=training.workers,  # type: ignore[arg-type]
            use_gpu=training.use_gpu,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(  # type: ignore[arg-type]
            name="checkpoints",
            storage_path=storage,
            failure_config=FailureConfig(max_failures=training.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=job.config.max_checkpoints),
            logging_config=LoggingConfig(log_level="WARNING"),  # type: ignore[call-arg]
            callbacks=[EndOnMistakes()],  # type: ignore[list-item]
        ),
    )
    try:
        return trainer.fit()
    except TrainingFailedError as failure:
        error = first_error(failure)
        lines = str(error).strip().splitlines() or [type(error).__name__]
        if isinstance(error, MISTAKES):
            raise ValueError(lines[-1]) from failure
        raise RuntimeError(f"{job.stage}: training failed: {type(error).__name__}: {lines[-1]}") from failure


def _publish(job: Job, checkpoint: Checkpoint, path: str, rejected_path: str) -> TrainingCounts:
    """Write the stage's folder (model and metrics) from the last checkpoint, in a task, not on the driver."""
    import torch

    from ram_ray.training.strategy import read_weights

    step: Any = job.build(torch.device("cpu"))
    with checkpoint.as_directory() as folder:
        step.model.load_state_dict(read_weights(Path(folder) / "strategy"))
        state = json.loads((Path(folder) / "state.json").read_text())
    rows = read_rejected(job.rejected)
    if len(rows):
        write_table(rows, f"{rejected_path}/{Path(path).name}.parquet")
    with tempfile.TemporaryDirectory() as scratch:
        job.save(step, scratch)
        write_metrics(read_lines(job.metrics), Path(scratch), tensorboard=job.training.tensorboard)
        fs, root = fsspec.url_to_fs(path)
        fs.makedirs(root, exist_ok=True)
        fs.put(scratch + "/", root + "/", recursive=True)
    return TrainingCounts(
        rows_in=job.feed.table.num_rows,
        rejected=len(rows),
        steps=job.total_steps,
        images_seen=job.total_steps * job.config.batch_size,
        strategy=state["strategy"],
    )
