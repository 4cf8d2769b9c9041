"""Preflight: the requirements of a run, checked before it starts; all problems are reported at once.

A run of days must not end in its last stage because of a glob or a model id. So before the first stage, and alone with
`--check`, the requirements of all stages that will run are checked: the data can be listed, `shards` of each training
section and `data.human_labels` match shards, there are enough images for a step and captions for a label
(`data.shard_counts`), the resources exist now or the autoscaler can add them, every model is pinned and loads except
for its weights, the run's folder can be written. A problem is one line that begins with the field to change.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass

from ram_ray.config import RunConfig
from ram_ray.data.annotation_list import check_system
from ram_ray.data.shard_counts import count_captions, count_images
from ram_ray.data.shards import Shard, list_shards, shard_matches, shard_name
from ram_ray.drawn_scenes import plan_corpus
from ram_ray.evaluation.set_stages import NamedSetSettings, named_sets
from ram_ray.labels.lists import read_list
from ram_ray.labels.options import LabelSystemSettings, find_edits
from ram_ray.models.descriptions import read_descriptions
from ram_ray.pipeline import STAGES
from ram_ray.preflight.models import find_model_problems
from ram_ray.runtime.capacity import Capacity
from ram_ray.runtime.storage import check_writable
from ram_ray.settings.training import TrainConfig
from ram_ray.training.trainer import count_steps


def find_problems(config: RunConfig, run_uri: str, *, last: str, capacity: Capacity) -> list[str]:
    """Find the problems that would end a run before the end of stage `last`.

    Args:
        config: configuration of the run.
        run_uri: path or URI of the run's folder.
        last: name of the last stage that will run.
        capacity: capacity of the machine or cluster.

    Returns:
        A line for each problem; empty if there is none.
    """
    needs = Needs(config, last)
    folder_problems = _find_folder_problems(run_uri)
    edited_run = None if folder_problems else run_uri  # edits in a folder that cannot be reached are not looked for
    shards, problems = _find_data_problems(config)
    problems += _find_glob_problems(needs, shards)
    if shards and config.data.train:
        problems += _find_batch_problems(needs, shards)
        problems += _find_caption_problems(config, edited_run, shards) if needs.has("labels") else []
    problems += _find_label_problems(config, edited_run) if needs.has("labels") else []
    problems += _find_list_problems(config) if needs.has("clean") and config.engine.rounds else []
    problems += _find_set_problems(config)
    problems += find_model_problems(config, stages=needs.stages)
    problems += _find_resource_problems(needs, capacity)
    problems += _find_package_problems(needs)
    return problems + folder_problems


@dataclass(frozen=True)
class Needs:
    """The stages and training sections that run up to the stage `last`."""

    config: RunConfig
    last: str

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages that run."""
        stages = STAGES[: STAGES.index(self.last) + 1]
        engine = () if self.config.engine.rounds else ("generate", "clean", "retrain")
        given = ("pretrain",) if self.config.engine.model else ()
        return tuple(name for name in stages if name not in (*engine, *given))

    def has(self, stage: str) -> bool:
        """Whether this stage runs."""
        return stage in self.stages

    @property
    def training(self) -> dict[str, TrainConfig]:
        """Training sections of the stages that run, by name."""
        config = self.config
        sections = {"pretrain": config.pretrain, "retrain": config.retrain, "finetune": config.finetune}
        trained = {"represent.train": config.represent.train} if self.trains_encoders else {}
        return trained | {name: section for name, section in sections.items() if self.has(name)}

    @property
    def trains_encoders(self) -> bool:
        """Whether `represent` trains a dual encoder; otherwise it loads encoders."""
        return self.has("represent") and self.config.represent.is_trained

    @property
    def runs_models(self) -> bool:
        """Whether a stage runs a tagger in an actor pool."""
        scores = bool(self.config.data.eval) or not self.config.data.train
        has_model = STAGES.index(self.last) >= STAGES.index("pretrain")
        return any(self.has(stage) for stage in ("generate", "clean")) or (has_model and scores)


def _find_data_problems(config: RunConfig) -> tuple[list[Shard] | None, list[str]]:
    """Training shards, None if they are not known, and the problems of the patterns of `data`."""
    data = config.data
    train, problems = _list_patterns("data.train", data.train, config=config)
    problems += _list_patterns("data.eval", data.eval, config=config)[1]
    if problems or data.train:
        return train, problems
    planned = plan_corpus("drawn", config=data.drawn)
    return [Shard(shard_name(scenes.uri), scenes.uri, "tar") for scenes in planned if scenes.kind != "eval"], []


def _list_patterns(field: str, patterns: list[str], *, config: RunConfig) -> tuple[list[Shard] | None, list[str]]:
    """The shards, and the problems of each pattern or, if there are none, of all patterns together."""
    problems: list[str] = []
    shards: list[Shard] | None = None
    groups = [[pattern] for pattern in patterns]
    for group in groups + [patterns] * (len(patterns) > 1):
        if group is patterns and problems:
            break
        try:
            shards = list_shards(
                group, folders=config.data.shard_folders, images=config.data.images, layout=config.data.layout
            )
            for shard in shards:
                if shard.format == "json":
                    check_system(shard.uri, config.labels.system)
        except ValueError as error:
            problems.append(f"{field}: {_one_line(error)}")
    return (None if problems else shards), problems


def _find_glob_problems(needs: Needs, shards: list[Shard] | None) -> list[str]:
    if shards is None:
        return []
    names = [shard.name for shard in shards]
    sets = [
        f"data.human_labels: {label_set.shards!r} matches none of {len(names)} shards, such as {names[0]}; "
        "write another glob"
        for label_set in needs.config.data.label_sets
        if not any(shard_matches(shard_name, label_set.shards) for shard_name in names)
    ]
    return sets + [
        f"{name}.shards: {section.shards!r} matches none of {len(names)} shards, such as {names[0]}; set {name}.shards"
        for name, section in needs.training.items()
        if not any(shard_matches(shard_name, section.shards) for shard_name in names)
    ]


def _find_batch_problems(needs: Needs, shards: list[Shard]) -> list[str]:
    """The training sections whose images do not give a step; counting ends where there is enough."""
    problems: list[str] = []
    for name, section in needs.training.items():
        matching = [shard for shard in shards if shard_matches(shard.name, section.shards)]
        if not matching or (name == "represent.train" and needs.config.represent.images != "real"):
            continue
        num_images = count_images(
            matching, enough=math.ceil(section.batch_size / section.epochs), layout=needs.config.data.layout
        )
        try:
            if num_images is not None:
                count_steps(num_images, section=name, config=section)
        except ValueError as error:
            problems.append(_one_line(error))
    return problems


def _find_caption_problems(config: RunConfig, run_uri: str | None, shards: list[Shard]) -> list[str]:
    """Whether there are fewer captions than a label must be in; a ready system, edits and human labels need none."""
    min_count = config.labels.min_count
    is_named = config.labels.system or config.data.label_sets
    num_captions = None if is_named else count_captions(shards, enough=min_count, layout=config.data.layout)
    if num_captions is None or num_captions >= min_count or find_edits(config.labels, run_uri):
        return []
    return [
        f"labels.min_count: a label must be in {min_count} captions and there are {num_captions}; set labels.min_count "
        "lower, or give more data"
    ]


def _find_label_problems(config: RunConfig, run_uri: str | None) -> list[str]:
    try:
        LabelSystemSettings.from_config(config, run_uri=run_uri)
        if config.labels.descriptions:
            read_descriptions(config.labels.descriptions)
    except (ValueError, OSError) as error:
        return [f"labels: {_one_line(error)}"]
    return []


def _find_list_problems(config: RunConfig) -> list[str]:
    """Whether the list of the labels to clean cannot be read; which of its names are labels is not known yet."""
    try:
        if config.engine.clean.labels:
            read_list(config.engine.clean.labels)
    except ValueError as error:
        return [f"engine.clean.labels: {_one_line(error)}"]
    return []


def _find_set_problems(config: RunConfig) -> list[str]:
    """The named evaluation sets that cannot be read, and what is missing to score held-out labels."""
    evaluate, problems = config.evaluate, []
    try:
        for spec in named_sets(config):
            NamedSetSettings.from_config(config, spec=spec)
            if spec.format not in ("shards", "prepared") and not spec.images:
                problems.append(f"--eval {spec.name}: names no images to score a model on; add images=FOLDER")
        if evaluate.descriptions:
            read_descriptions(evaluate.descriptions, setting="evaluate.descriptions")
    except (ValueError, OSError) as error:
        problems.append(f"evaluate: {_one_line(error)}")
    if evaluate.holds_out and config.data.train and not config.data.eval:
        problems.append(
            "evaluate.hold_out_labels: they are scored on held-out shards and data.eval is empty; give them with "
            "--eval, as paths without a name"
        )
    return problems


def _find_resource_problems(needs: Needs, capacity: Capacity) -> list[str]:
    """The resources that the machines do not have; none if an autoscaler of another node may start more nodes."""
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


def _find_package_problems(needs: Needs) -> list[str]:
    if needs.training and needs.config.training.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        return ["training.tensorboard: tensorboardX is not installed; pip install 'ram_ray[train]', or set it to false"]
    return []


def _no_node(capacity: Capacity, request: dict[str, float]) -> str:
    return f"no node of {capacity.where} has {_amounts(request)}"


def _amounts(request: dict[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in request.items() if amount)


def _find_folder_problems(run_uri: str) -> list[str]:
    try:
        check_writable(run_uri)
    except ValueError as error:
        return [f"--run {error}"]
    return []


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
