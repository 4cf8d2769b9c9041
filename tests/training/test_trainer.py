"""Contract: a training run on Ray resumes with another number of workers and reads every row of every step once, in the
same order; unreadable rows and metrics are recorded over all restarts; the model's folder has the metrics; an error
that a retry would meet again ends the run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ram_ray.data.images import Limits
from ram_ray.results import TrainedModel
from ram_ray.runtime import usage
from ram_ray.runtime.artifacts import Run
from ram_ray.settings.section import StageSettings
from ram_ray.settings.training import AugmentConfig, TrainConfig, TrainingConfig
from ram_ray.training.feed import Feed
from ram_ray.training.metrics import EVENTS, METRICS, Metrics
from ram_ray.training.order import Table, list_spans
from ram_ray.training.rejected_rows import read
from ram_ray.training.rows import to_training_table
from ram_ray.training.trainer import fit, train
from ram_ray.training.worker import Job
from ram_ray.training.worker_sums import sum_over_workers, world_size
from tests.tiny import jpeg

NUM_ROWS, STEP, BROKEN = 23, 5, (3, 4, 11)


class Step(nn.Module):
    """A linear layer that learns from the mean brightness of images."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Linear(3, 1)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        errors = self.model(batch["pixels"].float().mean((1, 2, 3)) / 255).square().sum(1)
        num_images = sum_over_workers(batch["weight"].sum()).clamp(min=1)
        return {"total": (errors * batch["weight"]).sum() * world_size() / num_images}


@dataclass(frozen=True)
class RecordingFeed(Feed):
    """Records the rows of each step and worker."""

    records: str = ""

    def target_columns(self, rows: list[dict]) -> dict[str, np.ndarray]:
        return {}

    def stream(self, *, num_cpus: float) -> Iterator[dict[str, np.ndarray]]:
        _, num_micro = self.micro_batch_layout
        for number, batch in enumerate(Feed.stream(self, num_cpus=num_cpus)):
            step = self.first_row // STEP + number // num_micro
            record = {"step": step, "rank": self.rank, "world": self.world_size, "keys": batch["key"].tolist()}
            Path(self.records, f"{self.first_row}-{self.rank}-{number}.json").write_text(json.dumps(record))
            yield batch


@dataclass(frozen=True)
class BrightnessJob(Job):
    def build(self, device: torch.device) -> nn.Module:
        return Step()

    def save(self, step: nn.Module, folder: str) -> None:
        torch.save(step.model.state_dict(), Path(folder, "weights.pt"))


def _job(folder: Path, *, steps: int, workers: int, broken: tuple[int, ...] = BROKEN) -> BrightnessJob:
    """Make a run over images, some of which are truncated."""
    folder.mkdir(exist_ok=True)
    rows = []
    for number in range(NUM_ROWS):
        data = jpeg(number % 5)
        data = data[: len(data) // 2] if number in broken else data
        file = folder / f"{number}.jpg"
        file.write_bytes(data)
        location = {"uri": str(file), "offset": 0, "nbytes": len(data)}
        rows.append({"key": f"s/{number:02d}", "shard": "s", "images": [location], "tags": [0], "captions": []})
    import pyarrow.parquet as pq

    table = to_training_table(rows, seed=0, num_buckets=1).drop(["bucket"])
    (folder / "table" / "bucket=0").mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "table" / "bucket=0" / "rows.parquet")
    augment = AugmentConfig(flip=False, randaugment=None)
    config = TrainConfig(image_size=32, batch_size=STEP, micro_batch_size=2, checkpoint_steps=2, augment=augment)
    (folder / "records").mkdir(exist_ok=True)
    feed = RecordingFeed(
        Table(str(folder / "table"), (NUM_ROWS,)), config, 0, Limits(1, 10**6, 10**6), "", records=f"{folder}/records"
    )
    training = TrainingConfig(
        workers=workers, use_gpu=False, strategy="ddp", precision="fp32", worker_cpus=0.5, feed_cpus=0.5, max_failures=2
    )
    return BrightnessJob("pretrain", config, training, feed, steps, 5, rejected=f"{folder}/rejected")


def _seen(folder: Path) -> dict[int, list[str]]:
    """The keys of each step, in order; the row at `index` of a worker is row rank + index x workers of the step."""
    shares: dict[int, dict[int, list[str]]] = {}
    worlds: dict[int, int] = {}
    for file in sorted((folder / "records").iterdir(), key=lambda path: int(path.stem.rpartition("-")[2])):
        record = json.loads(file.read_text())
        shares.setdefault(record["step"], {}).setdefault(record["rank"], []).extend(record["keys"])
        worlds[record["step"]] = record["world"]
    seen = {}
    for step, ranks in shares.items():
        world = worlds[step]
        assert len({len(keys) for keys in ranks.values()}) == 1 and len(ranks) == world, "equal shares"
        seen[step] = [ranks[index % world][index // world] for index in range(world * len(ranks[0]))]
        assert "" not in seen[step][:STEP] and set(seen[step][STEP:]) <= {""}
    return {step: keys[:STEP] for step, keys in seen.items()}


def _check_metrics(model: Path, *, steps: int) -> None:
    """Check that a model's folder has the metrics of each step once, over all restarts."""
    rows = [Metrics.model_validate_json(line) for line in (model / METRICS).read_text().splitlines()]
    assert [(row.step, row.epoch) for row in rows] == [(step, step / 5) for step in range(1, steps + 1)]
    assert all(row.lr and row.images_per_s and row.losses["total"] > 0 for row in rows)
    assert (model / "weights.pt").exists() and (model / EVENTS).stat().st_size > 0


def test_two_workers_then_one_read_the_rows_of_one_run(ray_cluster: None, tmp_path: Path) -> None:
    stage = Run(f"{tmp_path}/run").stage("pretrain", TrainedModel, settings=StageSettings(), inputs=[])
    for steps, workers in ((4, 2), (9, 1)):
        job = _job(tmp_path, steps=steps, workers=workers)
        training = job.training.model_copy(update={"tensorboard": workers == 2})
        counts = train(replace(job, training=training), stage=stage)
        assert (counts.steps, counts.rows_in) == (steps, NUM_ROWS)
        _check_metrics(Path(stage.path), steps=steps)
    assert counts.rejected == len(BROKEN)
    used = usage.close_stage(stage.labels)
    assert used and used.cpu_seconds > 0, "the workers and their feeds have sent what they reserved"
    job = _job(tmp_path, steps=9, workers=1)
    whole = replace(job.feed, end_row=9 * STEP)
    spans = list_spans(whole.table, seed=0, first_row=0, end_row=9 * STEP)
    expected = [row["key"] for span in spans for row in whole.read(span).to_pylist() if not row["is_padding"]]
    assert [key for _, keys in sorted(_seen(tmp_path).items()) for key in keys] == expected
    assert len(expected) == 9 * STEP and len(set(expected)) == NUM_ROWS, "every row, some of them twice"
    rejected = read(f"{stage.work}/rejected").to_pylist()
    assert [row["key"] for row in rejected] == [f"s/{number:02d}" for number in BROKEN], "in = out + rejected"
    assert {row["reason"] for row in rejected} == {"truncated"} and {row["stage"] for row in rejected} == {"pretrain"}


def test_unreadable_data_ends_the_run_at_once_with_a_one_line_error(ray_cluster: None, tmp_path: Path) -> None:
    """Ray Train does not use its retries, which would read no image either."""
    job = _job(tmp_path, steps=9, workers=1, broken=tuple(range(NUM_ROWS)))
    with pytest.raises(ValueError, match=r"^pretrain: none of 10 images in a row.*The first: s/\d\d of shard s: trunc"):
        fit(job, storage=f"{tmp_path}/train")
    starts = {file.stem.partition("-")[0] for file in (tmp_path / "records").iterdir()}
    numbers = [file.stem for file in (tmp_path / "records").iterdir()]
    assert starts == {"0"} and len(numbers) == len(set(numbers)) <= 12
