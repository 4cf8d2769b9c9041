"""The trainer of all stages: Ray Train over the cluster, fed by Ray Data, writes a folder with the trained model.

    rows -> training table (shuffled, buckets) -> Ray Train workers -> checkpoints -> model

pretrain, retrain and finetune are configurations of it, and `represent` trains its dual encoder with it. After a kill,
the same call resumes: the table is made once, Ray Train finds its newest checkpoint under the stage's work folder, and
the model is written from the last checkpoint.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import ray
import ray.data

from ram_ray.config import RunConfig
from ram_ray.data.parts import Part
from ram_ray.label_system import LabelSystem
from ram_ray.runtime.artifacts import Stage, write_table
from ram_ray.runtime.storage import TASK_RETRIES
from ram_ray.settings.training import TrainConfig
from ram_ray.training.build import TaggerJob
from ram_ray.training.failures import MISTAKES, EndOnMistakes, first_error
from ram_ray.training.feed import Table, TaggerFeed
from ram_ray.training.rejected import read as read_rejected
from ram_ray.training.table import RowSelection, make_table, row_maker
from ram_ray.training.worker import Job, train_worker


def train_tagger(
    stage: Stage,
    *,
    config: TrainConfig,
    run: RunConfig,
    annotations: str,
    num_rows: int,
    label_system: str,
    teacher: str,
    teacher_revision: str | None,
    tokenizer: str,
    start: str | None,
    left_out: Part | None = None,
) -> dict[str, Any]:
    """Train the tagger and write a bundle to `stage.path`.

    Args:
        stage: gets the bundle and the work folder.
        config: section of this training.
        run: configuration of the run.
        annotations: folder of `records.ANNOTATION` rows.
        num_rows: number of these rows; sets the number of buckets.
        label_system: URI of the label system.
        teacher: folder, URI or Hugging Face id of the CLIP that embeds labels and is distilled.
        teacher_revision: commit of a Hugging Face id.
        tokenizer: folder with tokenizer.json, readable by every node.
        start: bundle to start from; None: as `config.start` says.
        left_out: part of the images that is not trained on; epochs count the other images.

    Returns:
        Counts for the manifest.
    """
    selection = RowSelection(config.shards, left_out)
    sources = {annotations: row_maker(annotations, config=config, selection=selection, run=run)}
    table = make_table(f"{stage.work}/table", sources, selection=selection, num_rows=num_rows, run=run)
    total_steps, steps_per_epoch = count_steps(table, stage=stage.name, config=config)
    feed = TaggerFeed(
        table=table,
        config=config,
        seed=run.seed,
        limits=run.data.limits(),
        tokenizer=tokenizer,
        tag_names=tuple(LabelSystem.load(label_system).names),
        prompt=run.model.prompt,
        max_caption_tokens=run.model.max_caption_tokens,
        max_tag_tokens=run.model.max_tag_tokens,
    )
    job = TaggerJob(
        stage=stage.name,
        config=config,
        run=run,
        feed=feed,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        label_system=label_system,
        teacher=teacher,
        teacher_revision=teacher_revision,
        start=start,
    )
    return train(job, stage=stage)


def train(job: Job, *, stage: Stage) -> dict[str, Any]:
    """Run a training job and write its model to `stage.path`.

    Args:
        job: the job that every worker gets.
        stage: gets the model and the work folder.

    Returns:
        Counts for the manifest.
    """
    job = replace(job, rejected=f"{stage.work}/rejected")
    result = fit(job, storage=f"{stage.work}/train")
    return ray.get(_publish.remote(job, result.checkpoint, stage.path, stage.run.path("rejected", stage.name)))


def count_steps(table: Table, *, stage: str, config: TrainConfig) -> tuple[int, int]:
    """Count the optimizer steps of the run and of an epoch.

    Args:
        table: the training table.
        stage: section of the training, named in the error.
        config: settings of the training.

    Returns:
        Steps of the run, and steps of an epoch (at least 1).

    Raises:
        ValueError: if there are too few rows for one step.
    """
    total_steps = int(config.epochs * table.num_rows / config.batch_size)
    if total_steps < 1:
        raise ValueError(
            f"{stage}: {config.epochs} epochs of {table.num_rows} images give no step of {config.batch_size} images; "
            f"lower {stage}.batch_size, or give more data"
        )
    return total_steps, max(1, table.num_rows // config.batch_size)


def fit(job: Job, *, storage: str) -> Any:
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
    from ray.train.torch import TorchConfig, TorchTrainer

    training = job.run.training
    resources = {"CPU": training.worker_cpus, **({"GPU": 1} if training.use_gpu else {})}
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if training.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=training.workers,  # type: ignore[arg-type]
            use_gpu=training.use_gpu,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
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


@ray.remote(num_cpus=0.5, **TASK_RETRIES)
def _publish(job: Job, checkpoint: Any, path: str, rejected_path: str) -> dict[str, Any]:
    """Write the stage's folder from the last checkpoint, in a task, not on the driver."""
    import torch

    from ram_ray.training.strategy import read_weights

    step: Any = job.build(torch.device("cpu"))
    with checkpoint.as_directory() as folder:
        step.model.load_state_dict(read_weights(Path(folder) / "engine"))
        state = json.loads((Path(folder) / "state.json").read_text())
    rows = read_rejected(job.rejected)
    if len(rows):
        write_table(rows, f"{rejected_path}/{Path(path).name}.parquet")
    with tempfile.TemporaryDirectory() as scratch:
        job.save(step, scratch)
        fs, root = fsspec.url_to_fs(path)
        fs.makedirs(root, exist_ok=True)
        fs.put(scratch + "/", root + "/", recursive=True)
    return {
        "rows_in": job.feed.table.num_rows,
        "rejected": len(rows),
        "steps": job.total_steps,
        "images_seen": job.total_steps * job.config.batch_size,
        "engine": state["engine"],
    }
