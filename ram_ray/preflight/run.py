"""Preflight: what a run needs, checked before anything starts, all problems at once.

A run of days must not end in its last stage because of a glob or a model id. So before the first stage, and alone with
`--check`, every need of the stages up to the last one is looked at: the data can be listed, each training section's
`shards` matches something, the machines asked for can be had (now, or from the autoscaler), every model is pinned and
loads but for its weights, the run's folder can be written. A problem is one line that begins with the field to change.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import fsspec

from ram_ray.config import RunConfig
from ram_ray.data.shards import Shard, list_shards, shard_matches, shard_name
from ram_ray.drawn_scenes import plan_corpus
from ram_ray.labels.options import find_edits, identity
from ram_ray.pipeline import STAGES
from ram_ray.preflight.models import find_model_problems
from ram_ray.runtime.capacity import Capacity
from ram_ray.settings.training import TrainConfig


def find_problems(config: RunConfig, run_uri: str, *, last: str, capacity: Capacity) -> list[str]:
    """All that would end the run before the end of stage `last`, a line each; empty where nothing is wrong.

    Args:
        config: of the run.
        run_uri: the run's folder.
        last: name of the last stage that will run.
        capacity: of the machine or cluster.
    """
    needs = Needs(config, last)
    shards, problems = _find_data_problems(config)
    problems += _find_glob_problems(needs, shards)
    problems += _find_label_problems(config, run_uri) if needs.has("labels") else []
    problems += find_model_problems(config, stages=needs.stages)
    problems += _find_resource_problems(needs, capacity)
    problems += _find_folder_problems(run_uri)
    return problems


@dataclass(frozen=True)
class Needs:
    """Which stages and training sections run up to the stage `last`."""

    config: RunConfig
    last: str

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages that run."""
        stages = STAGES[: STAGES.index(self.last) + 1]
        engine = () if self.config.engine.rounds else ("generate", "clean", "retrain")
        return tuple(name for name in stages if name not in engine)

    def has(self, stage: str) -> bool:
        """Whether the stage runs."""
        return stage in self.stages

    @property
    def training(self) -> dict[str, TrainConfig]:
        """Training sections by name."""
        config = self.config
        sections = {"pretrain": config.pretrain, "retrain": config.retrain, "finetune": config.finetune}
        trained = {"represent.train": config.represent.train} if self.trains_encoders else {}
        return trained | {name: section for name, section in sections.items() if self.has(name)}

    @property
    def trains_encoders(self) -> bool:
        """Whether `represent` trains a dual encoder, and does not load one."""
        return self.has("represent") and self.config.represent.clip is None

    @property
    def runs_models(self) -> bool:
        """Whether a stage runs a tagger in an actor pool."""
        return any(self.has(stage) for stage in ("generate", "clean")) or (
            self.has("pretrain") and (bool(self.config.data.eval) or not self.config.data.train)
        )


def _find_data_problems(config: RunConfig) -> tuple[list[Shard] | None, list[str]]:
    """Training shards, None where they are not known, and what is wrong with the patterns of `data`."""
    data = config.data
    train, problems = _list_patterns("data.train", data.train, folders=data.shard_folders)
    problems += _list_patterns("data.eval", data.eval, folders=data.shard_folders)[1]
    if problems or data.train:
        return train, problems
    planned = plan_corpus("drawn", config=data.drawn)
    return [Shard(shard_name(scenes.uri), scenes.uri, "tar") for scenes in planned if scenes.kind != "eval"], []


def _list_patterns(field: str, patterns: list[str], *, folders: int) -> tuple[list[Shard] | None, list[str]]:
    """The shards, and what is wrong with each pattern or, where each is right, with all of them together."""
    problems: list[str] = []
    shards: list[Shard] | None = None
    groups = [[pattern] for pattern in patterns]
    for group in groups + [patterns] * (len(patterns) > 1):
        if group is patterns and problems:
            break
        try:
            shards = list_shards(group, folders=folders)
        except ValueError as error:
            problems.append(f"{field}: {_one_line(error)}")
    return (None if problems else shards), problems


def _find_glob_problems(needs: Needs, shards: list[Shard] | None) -> list[str]:
    if shards is None:
        return []
    names = [shard.name for shard in shards]
    return [
        f"{name}.shards: {section.shards!r} matches none of {len(names)} shards, such as {names[0]}; set {name}.shards"
        for name, section in needs.training.items()
        if not any(shard_matches(shard_name, section.shards) for shard_name in names)
    ]


def _find_label_problems(config: RunConfig, run_uri: str) -> list[str]:
    try:
        edits = find_edits(config.labels, run_uri)
        identity(config.labels, edits=edits, encoder="represent")
    except (ValueError, OSError) as error:
        return [f"labels: {_one_line(error)}"]
    return []


def _find_resource_problems(needs: Needs, capacity: Capacity) -> list[str]:
    """What the machines cannot give; nothing is known where another node's autoscaler may start more of them."""
    if not capacity.complete:
        return []
    training, resources = needs.config.training, needs.config.resources
    gpu_fields = {"training.use_gpu": "false"} if needs.training and training.use_gpu else {}
    gpu_fields |= {"resources.actor_gpus": "0"} if needs.runs_models and resources.actor_gpus else {}
    if gpu_fields and not capacity.total("GPU"):
        fix = " and ".join(f"{name}={value}" for name, value in gpu_fields.items())
        problems = [f"{', '.join(gpu_fields)}: {capacity.where} has no GPU; set {fix}, or join a cluster that has"]
    else:
        problems = _find_worker_problems(needs, capacity) if needs.training else []
        request = {"GPU": resources.actor_gpus, "CPU": resources.actor_cpus}
        if needs.runs_models and not capacity.fit(request):
            problems.append(
                f"resources.actor_gpus, resources.actor_cpus: {_no_node(capacity, request)}; set them lower"
            )
    task_fields = {"resources.task_cpus": resources.task_cpus}
    task_fields |= {"training.feed_cpus": training.feed_cpus} if needs.training else {}
    return problems + [
        f"{name}: {_no_node(capacity, {'CPU': cpus})}; set {name} lower"
        for name, cpus in task_fields.items()
        if not capacity.fit({"CPU": cpus})
    ]


def _find_worker_problems(needs: Needs, capacity: Capacity) -> list[str]:
    training = needs.config.training
    workers = training.workers if isinstance(training.workers, int) else training.workers[0]
    request = {"CPU": training.worker_cpus, "GPU": float(training.use_gpu)}
    if (fitting := capacity.fit(request)) < workers:
        return [
            f"training.workers: {workers} workers with {_amounts(request)} each are asked for and {capacity.where} has "
            f"room for {fitting}; set training.workers or training.worker_cpus lower"
        ]
    spare = capacity.total("CPU") - workers * training.worker_cpus
    if spare + 1e-6 < training.feed_cpus:
        return [
            f"training.feed_cpus: {workers} workers leave {spare:g} CPUs of {capacity.where}, and a task that decodes "
            f"asks for {training.feed_cpus:g}; set training.worker_cpus or training.feed_cpus lower"
        ]
    return []


def _no_node(capacity: Capacity, request: dict[str, float]) -> str:
    return f"no node of {capacity.where} has {_amounts(request)}"


def _amounts(request: dict[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in request.items() if amount)


def _find_folder_problems(run_uri: str) -> list[str]:
    """Whether a file can be written under the run's folder; leaves nothing behind."""
    try:
        fs, root = fsspec.url_to_fs(run_uri)
        existing = root
        while not fs.exists(existing) and fs._parent(existing) != existing:  # folders of its own go again
            existing, made = fs._parent(existing), existing
        fs.makedirs(root, exist_ok=True)
        name = f"{root.rstrip('/')}/.check-{uuid.uuid4().hex}"
        fs.pipe_file(name, b"")
        fs.rm_file(name)
        if existing != root and "file" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)):
            fs.rm(made, recursive=True)
    except Exception as error:  # each storage has errors of its own; all of them are the user's to mend
        return [f"--run {run_uri}: cannot be written: {type(error).__name__}: {_one_line(error)}"]
    return []


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
