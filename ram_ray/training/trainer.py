"""The one trainer: Ray Train over the cluster, fed by Ray Data, then a folder with the trained model.

    rows -> training table (shuffled, buckets) -> Ray Train workers -> checkpoints -> model

pretrain, retrain and finetune are three configurations of it, and `represent` trains its dual encoder with it
too. Killed anywhere, the same call goes on: the table is made once, Ray Train finds its newest checkpoint under
the stage's work folder, and the model is written from the last checkpoint.
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from ram_ray.annotate import read_rows
from ram_ray.artifacts import Stage, write_table, write_text
from ram_ray.config import RunConfig, TrainConfig
from ram_ray.data.images import Limits
from ram_ray.data.shards import shard_matches
from ram_ray.label_system import LabelSystem
from ram_ray.parts import Part
from ram_ray.training.build import TaggerJob
from ram_ray.training.failures import MISTAKES, EndOnMistakes, first_error
from ram_ray.training.feed import Table, TaggerFeed
from ram_ray.training.rejected import read as read_rejected
from ram_ray.training.rows import tag_worth, tagged_rows, to_table
from ram_ray.training.worker import Job, train_worker

RowMaker = Callable[[pa.Table], list[dict]]


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
    """Train the tagger and leave a bundle at `stage.path`; returns counts for the manifest.

    Args:
        annotations: folder of `records.ANNOTATION` rows.
        num_rows: how many they are; sets the number of buckets.
        tokenizer: folder with tokenizer.json, readable by every node.
        start: bundle to start from, None for `represent`'s backbone.
        left_out: pictures that are not trained on; epochs count the others.
    """
    chosen = Chosen(config.shards, left_out)
    sources = {annotations: row_maker(annotations, config=config, chosen=chosen, run=run)}
    table = make_table(f"{stage.work}/table", sources, chosen=chosen, num_rows=num_rows, run=run)
    total_steps, steps_per_epoch = count_steps(table, stage=stage.name, config=config)
    feed = TaggerFeed(
        table=table,
        config=config,
        seed=run.seed,
        limits=Limits(run.data.min_side, run.data.max_pixels, run.data.max_bytes),
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


@dataclass(frozen=True)
class Chosen:
    """Which rows are trained on: those of the shards that a glob names, but for a part that is left out."""

    shards: str = "*"
    left_out: Part | None = None

    def __call__(self, block: pa.Table) -> pa.Table:
        if self.shards != "*":
            names = {one: shard_matches(one, self.shards) for one in block["shard"].unique().to_pylist()}
            block = block.filter(pa.array([names[one] for one in block["shard"].to_pylist()], pa.bool_()))
        if self.left_out:
            block = block.filter(pc.invert(self.left_out.mask(block["key"].to_pylist())))
        return block


def row_maker(annotations: str, *, config: TrainConfig, chosen: Chosen, run: RunConfig) -> RowMaker:
    """Makes training rows of annotations, weighed by their tags where `tag_cap` asks for it."""
    if config.tag_cap is None:
        return tagged_rows
    counts, num_pictures = count_tags(annotations, chosen=chosen, run=run)
    return functools.partial(tagged_rows, worth=tag_worth(counts, num_pictures=num_pictures, cap=config.tag_cap))


def count_tags(annotations: str, *, chosen: Chosen, run: RunConfig) -> tuple[dict[int, int], int]:
    """Pictures of each tag, and pictures with any, among those to be trained on."""
    total: Counter[int] = Counter()
    rows = read_rows(annotations, run=run).map_batches(
        functools.partial(count_block, chosen=chosen),
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=run.resources.task_cpus,
    )
    for row in rows.iter_rows():  # at most one a block and tag
        total[row["id"]] += row["count"]
    num_pictures = total.pop(-1, 0)
    return dict(total), num_pictures


def count_block(block: pa.Table, *, chosen: Chosen) -> pa.Table:
    """Pictures of each tag in a block of annotations; those with any tag under the id -1."""
    tags = [row["tags"] for row in tagged_rows(chosen(block))]
    counts = Counter(id for one in tags for id in one)
    counts[-1] = len(tags)
    return pa.table({"id": pa.array(list(counts), pa.int32()), "count": pa.array(list(counts.values()), pa.int64())})


def train(job: Job, *, stage: Stage) -> dict[str, Any]:
    """Run a job and leave its model at `stage.path`."""
    job = replace(job, rejected=f"{stage.work}/rejected")
    result = fit(job, storage=f"{stage.work}/train")
    return ray.get(_publish.remote(job, result.checkpoint, stage.path, stage.run.path("rejected", stage.name)))


def count_steps(table: Table, *, stage: str, config: TrainConfig) -> tuple[int, int]:
    """Optimizer steps of the whole run, and of an epoch.

    Raises:
        ValueError: if there are too few rows for one step.
    """
    total = int(config.epochs * table.num_rows / config.batch_size)
    if total < 1:
        raise ValueError(
            f"{stage}: {config.epochs} epochs of {table.num_rows} images give no step of {config.batch_size} images; "
            f"lower {stage}.batch_size, or give more data"
        )
    return total, max(1, table.num_rows // config.batch_size)


def fit(job: Job, *, storage: str) -> Any:
    """Run the workers; a storage folder with checkpoints is gone on from.

    Raises:
        ValueError: for a worker's error that another try would meet again.
        RuntimeError: with the worker's own last line, if workers failed more often than `training.max_failures`.
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


def make_table(
    path: str, sources: Mapping[str, RowMaker], *, chosen: Chosen | None = None, num_rows: int, run: RunConfig
) -> Table:
    """Write the shuffled training table once and return it.

    Args:
        sources: folders of rows, each with the function that makes training rows of a block.
        chosen: which rows are trained on; None: all.
    """
    chosen = chosen or Chosen()
    done = f"{path}.json"
    try:
        with fsspec.open(done, "r") as file:
            return Table(path, tuple(json.load(file)["buckets"]))
    except FileNotFoundError:
        pass
    num_buckets = max(1, -(-num_rows // run.data.rows_per_block))
    cpus = run.resources.task_cpus

    def rows_of(make_rows: RowMaker) -> Callable[[pa.Table], pa.Table]:
        def rows(block: pa.Table) -> pa.Table:
            return to_table(make_rows(chosen(block)), seed=run.seed, num_buckets=num_buckets)

        return rows

    parts = [
        read_rows(source, run=run).map_batches(rows_of(make), batch_format="pyarrow", num_cpus=cpus)
        for source, make in sources.items()
    ]
    dataset = (parts[0].union(*parts[1:]) if parts[1:] else parts[0]).sort("order").materialize()
    counts = (
        dataset.groupby("bucket", num_partitions=min(num_buckets, run.resources.shuffle_partitions))
        .count()
        .take(num_buckets)
    )
    if not counts:
        raise ValueError(
            f"no row of {', '.join(sources)} in shards {chosen.shards!r} has a tag: there is nothing to train on"
        )
    buckets = [0] * num_buckets
    for one in counts:
        buckets[one["bucket"]] = one["count()"]
    fs, root = fsspec.url_to_fs(path)
    if fs.exists(root):  # half written by a run that was killed
        fs.rm(root, recursive=True)
    dataset.write_parquet(path, partition_cols=["bucket"], ray_remote_args={"num_cpus": cpus})
    write_text(done, json.dumps({"buckets": buckets}))
    return Table(path, tuple(buckets))


@ray.remote(num_cpus=0.5)
def _publish(job: Job, checkpoint: Any, path: str, rejected_path: str) -> dict[str, Any]:
    """Turn the last checkpoint into the stage's folder, away from the driver."""
    import torch

    from ram_ray.training.engine import read_weights

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
