"""How a run in the box is broken in the middle of a stage, and what shows that it ended as an unbroken one."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import psutil
import safetensors.torch
import torch

from tests.box.cluster import BUCKET, Box
from tests.box.runs import RunFolder, command

TIMEOUT_S = 400


@dataclass(frozen=True)
class Step:
    """A stage to be broken: the job that ends with it, its first folder, and what shows that it is half done."""

    job: str
    first: str  # of the folders that the run has to make
    last: str
    worker: str  # title of the processes that do its work
    sign: str | None = None  # files that it has left; None: a worker that has loaded its model


PARSE = Step("parse", "parse", "parse", "ray::", "work/parse/*/checkpoint/*")
PRETRAIN = Step(
    "pretrain", "pretrain", "pretrain", "ray::RayTrainWorker", "work/pretrain/*/train/checkpoints/checkpoint_*"
)
GENERATE = Step("generate", "scores_1", "generate_1", "ray::MapWorker")
CLEANING = Step("clean", "regions_1", "clean_1", "ray::MapWorker")


def kill_driver(box: Box, unbroken: RunFolder, *steps: Step) -> None:
    """SIGKILL for the driver in the middle of each step in turn; after all, the run ends as the unbroken one did."""
    job, last = steps[-1].job, steps[-1]
    run = prepare(unbroken, steps[0], "driver-" + "-".join(step.job for step in steps))
    left = break_off(box, run, [replace(step, job=job) for step in steps], held_out=False)
    box.run(*command(job, run.run, held_out=False), name=f"{run.run}-again", timeout_s=TIMEOUT_S)
    check(run, unbroken, last)
    check_kept(run, left)


def break_off(box: Box, run: RunFolder, steps: Sequence[Step], *, held_out: bool) -> dict[str, Any]:
    """SIGKILL for the driver of each step's job in the middle of it, in turn; what the run has left by then."""
    for step in steps:
        process = half_done(box, run, step, held_out=held_out)
        kill(driver(box, run))
        assert process.wait(TIMEOUT_S) != 0
    work = f"{BUCKET}/{run.run}/work/"
    return {path: version for path, version in run.objects().items() if not path.startswith(work)}


def check_kept(run: RunFolder, left: dict[str, Any]) -> None:
    """What a killed run had left is as it was."""
    objects = run.objects()
    changed = {path for path, version in left.items() if objects.get(path) != version}
    assert changed <= {f"{BUCKET}/{run.run}/config.yaml"}, "what was done is not done again"


def prepare(unbroken: RunFolder, step: Step, name: str) -> RunFolder:
    """A run in which everything before the step is done."""
    return unbroken.copy_before(step.first, name)


def half_done(box: Box, run: RunFolder, step: Step, *, held_out: bool = False) -> subprocess.Popen:
    """Submit the job and wait until its stage has begun its work, and is not done."""
    job = box.submit(*command(step.job, run.run, held_out=held_out), name=run.run)
    begun = lambda: run.has(step.sign) if step.sign else at_work(box, step)  # noqa: E731
    box.wait(lambda: begun() or job.poll() is not None, f"work of {step.job}", timeout_s=TIMEOUT_S)
    assert job.poll() is None, f"the job ended before it could be killed\n{box.log(run.run)[-6000:]}"
    assert step.last not in run.manifests()
    return job


def at_work(box: Box, step: Step, *, node: str | None = None) -> list[psutil.Process]:
    """Workers of the step that have started."""
    return [worker for worker in box.processes(step.worker, node=node) if "__init__" not in title(worker)]


def title(process: psutil.Process) -> str:
    """What a process says it is; empty if it has gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def driver(box: Box, run: RunFolder) -> list[psutil.Process]:
    """The processes of the run's job on the head."""
    return box.processes(f"s3://{BUCKET}/{run.run}", node="head")


def kill(processes: list[psutil.Process]) -> None:
    """SIGKILL."""
    assert processes
    for process in processes:
        process.kill()


def check(run: RunFolder, unbroken: RunFolder, step: Step) -> None:
    """The run's stages are those of the unbroken run: counts, rejected rows, removals, weights; every row once."""
    counts, expected = run.counts(), unbroken.counts()
    stages = counts.keys() & expected.keys()
    assert step.last in stages
    assert {name: counts[name] for name in stages} == {name: expected[name] for name in stages}
    assert run.rejected() == [row for row in unbroken.rejected() if row[0] in stages]
    for name in stages & {"parse", "labels", "scores_1", "regions_1", "generate_1", "clean_1"}:
        keys = [row["key"] for row in run.rows(f"annotations/{name}", ["key"])]
        assert len(keys) == len(set(keys)), f"{name}: a row twice"
    if "clean_1" in stages:
        assert run.removed("clean_1") == unbroken.removed("clean_1")
    if "pretrain" in stages:
        own, theirs = (read_weights(folder, "pretrain") for folder in (run, unbroken))
        assert own.keys() == theirs.keys() and all(own[name].equal(theirs[name]) for name in own), "bit for bit"


def read_weights(run: RunFolder, stage: str) -> dict[str, torch.Tensor]:
    """Weights of a stage's model by name."""
    (path,) = run.files(f"models/{stage}/*/model.safetensors")
    return safetensors.torch.load(run.box.fs.cat_file(path))
