"""The limits that a run passes: those that end it, and those that only cost time; with the settings that avoid each.

A plan is refused where a limit ends the run. Limits are checked in the order of the stages, so the first one is the one
that the run would meet first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ram_ray.config import RunConfig
from ram_ray.planning.cluster import GIB, HEAD, STORE_SHARE
from ram_ray.planning.plan import Cost, Plan, Stage
from ram_ray.settings.training import TrainConfig

FULL = 0.9  # of a memory that may be used
SHORT = 600.0  # seconds of a stage whose requests are no matter


@dataclass(frozen=True)
class Limit:
    """A limit that a stage passes.

    Args:
        stage: name of the stage.
        what: the limit.
        needed: what the stage needs, in words.
        available: what there is, in words.
        fix: settings or machines that avoid it.
        ends: whether the run cannot end; else it is slower.
    """

    stage: str
    what: str
    needed: str
    available: str
    fix: str
    ends: bool = True

    @property
    def line(self) -> str:
        """The limit in one line."""
        return f"{self.stage}: {self.what}: {self.needed}, and there is {self.available}; {self.fix}"


def find_limits(plan: Plan, config: RunConfig, *, within_hours: float) -> list[Limit]:
    """Find the limits of a run.

    Args:
        plan: of the run.
        config: of the run.
        within_hours: most hours of a stage.

    Returns:
        The limits in the order of the stages; those that end the run first within a stage.
    """
    limits = list(_of_data(plan, config))
    for cost in plan.costs:
        found = [
            *_of_gpus(cost.stage, plan, config),
            *_of_rows(cost.stage, config),
            *_of_memory(cost.stage, plan, config),
            *_of_time(cost, plan, config, within_hours=within_hours),
            *_of_requests(cost, plan, config),
        ]
        limits += sorted(found, key=lambda limit: not limit.ends)
    return limits


def _of_data(plan: Plan, config: RunConfig) -> Iterator[Limit]:
    captions = plan.workload.images * plan.constants["captions_an_image"]
    if captions < config.labels.min_count:
        yield Limit(
            "labels",
            "captions",
            f"a label must be in {config.labels.min_count:,} captions",
            f"{captions:,.0f}",
            "set labels.min_count lower, or give more data",
        )


def _of_gpus(stage: Stage, plan: Plan, config: RunConfig) -> Iterator[Limit]:
    if stage.runs_on != "gpu":
        return
    trains = stage.gpu_bytes > 0
    needed = float(_least_workers(config)) if trains else config.resources.actor_gpus
    if plan.cluster.gpus >= needed:
        yield from _of_gpu_memory(stage, plan, config)
        return
    setting = "training.workers" if trains else "resources.actor_gpus"
    have = int(plan.cluster.gpus)
    fix = (
        f"add machines with GPUs to --nodes, or set {setting} to {have}"
        if have
        else (
            "add machines with GPUs to --nodes, such as p4de.24xlarge=1, or set training.use_gpu=false and "
            "resources.actor_gpus=0"
        )
    )
    yield Limit(stage.name, "no GPU" if not have else "GPUs", f"{needed:g} GPUs are asked for", f"{have}", fix)


def _of_gpu_memory(stage: Stage, plan: Plan, config: RunConfig) -> Iterator[Limit]:
    machine = plan.cluster.gpu
    if not stage.gpu_bytes or machine is None or not machine.gpu_memory:
        return
    available = machine.gpu_memory * GIB * FULL
    if stage.gpu_bytes <= available:
        return
    section, train = _training_of(stage, config)
    fixed = plan.constants["gpu_memory_fixed"]
    images = train.micro_batch_size or -(-train.batch_size // config.training.max_workers)
    most = int((available - fixed) / (stage.gpu_bytes - fixed) * images)
    fix = f"set {section}.micro_batch_size to {most}" if most >= 1 else "take GPUs with more memory"
    if not config.training.recompute:
        fix += ", or training.recompute to true"
    yield Limit(stage.name, "GPU memory", _gigabytes(stage.gpu_bytes), f"{_gigabytes(available)} of a GPU", fix)


def _of_rows(stage: Stage, config: RunConfig) -> Iterator[Limit]:
    if not stage.fewest_rows or stage.rows_out >= stage.fewest_rows:
        return
    section, train = _training_of(stage, config)
    most = max(1, int(stage.rows_out * train.epochs))
    yield Limit(
        stage.name,
        "fewer rows than a batch",
        f"a step has {train.batch_size:,} images",
        f"{stage.rows_out:,} images x {train.epochs:g} epochs",
        f"set {section}.batch_size to {most} or lower, or give more data",
    )


def _of_names(stage: Stage, plan: Plan, config: RunConfig, *, free: float) -> str:
    """What to do about the names on the driver, if fewer of them would be enough; `free` is negative."""
    left = stage.names_bytes + free
    if not stage.names_bytes or left <= 0:
        return ""
    times = (stage.names_bytes / left) ** (1 / plan.constants["rare_names_exponent"])
    count = math.ceil(config.labels.min_name_count * times)
    more = " and labels.min_count" if count > config.labels.min_count else ""
    return f"set labels.min_name_count{more} to {count}, or "


def _of_memory(stage: Stage, plan: Plan, config: RunConfig) -> Iterator[Limit]:
    cluster = plan.cluster
    driver = stage.driver_bytes + stage.references * plan.constants["driver_reference"]
    available = cluster.driver_bytes * FULL
    if driver > available:
        memory = f"take --nodes {HEAD}=1,memory={math.ceil(driver / FULL / (1 - STORE_SHARE) / GIB)}"
        blocks = stage.blocks * plan.constants["driver_block"]
        times = 2 ** math.ceil(math.log2(max(2.0, blocks / max(1.0, available - driver + blocks))))
        rows = f"set data.rows_per_block to {config.data.rows_per_block * times}, or "
        yield Limit(
            stage.name,
            "driver memory",
            _gigabytes(driver),
            f"{_gigabytes(available)} on the machine that drives the run",
            (rows if driver - blocks + blocks / times <= available else "")
            + _of_names(stage, plan, config, free=available - driver)
            + memory,
        )
    if stage.store_bytes <= cluster.store_bytes:
        return
    spilled = stage.store_bytes - cluster.store_bytes
    ends = spilled > cluster.disk_bytes * FULL
    buffers = stage.name.startswith(("scores", "regions"))
    times = math.ceil(stage.store_bytes / max(1.0, cluster.store_bytes))
    fix = (
        f"set resources.buffer_mb to {cluster.store_bytes / 2e6:.0f}"
        if buffers
        else f"take {times} times the machines, or larger ones"
    )
    where = (
        "spills to disk" if not ends else f"spills {_gigabytes(spilled)}, more than {_gigabytes(cluster.disk_bytes)}"
    )
    yield Limit(
        stage.name,
        "object store" if not ends else "object store and disk",
        f"{_gigabytes(stage.store_bytes)} of rows at once",
        f"{_gigabytes(cluster.store_bytes)}, so it {where}",
        fix,
        ends=ends,
    )


def _of_time(cost: Cost, plan: Plan, config: RunConfig, *, within_hours: float) -> Iterator[Limit]:
    hours = cost.wall_seconds / 3600
    if not math.isfinite(hours) or hours <= within_hours:
        return
    times = math.ceil(hours / within_hours)
    stage = cost.stage
    if cost.slowest == "driver":
        fix = f"set data.rows_per_block to {config.data.rows_per_block * 2 ** math.ceil(math.log2(times))}"
    elif stage.runs_on == "gpu":
        setting = "training.workers" if stage.gpu_bytes else "resources.actors"
        now = config.training.max_workers if stage.gpu_bytes else config.resources.most_actors
        fix = f"take {times} times the GPUs, and set {setting} to {now * times}"
        if stage.name.startswith("regions") and config.engine.clean.detector not in ("attention", "whole_image"):
            fix += ", or engine.clean.detector to attention"
    else:
        fix = f"take {times} times the CPUs"
    yield Limit(stage.name, "time", f"{hours:,.0f} hours", f"--within {within_hours:g} hours of a stage", fix)


def _of_requests(cost: Cost, plan: Plan, config: RunConfig) -> Iterator[Limit]:
    stage, constants = cost.stage, plan.constants
    if cost.slowest != "requests" or cost.wall_seconds < SHORT:
        return
    requests, seconds = stage.requests, cost.wall_seconds - stage.starts
    writes, reads = (requests.put + requests.list) / seconds, requests.get / seconds
    limits = {"PUT and LIST": (writes, constants["put_limit"]), "GET": (reads, constants["get_limit"])}
    kind = max(limits, key=lambda name: limits[name][0] / limits[name][1])
    rate, limit = limits[kind]
    if rate < 0.99 * limit:
        return  # it waits for latency, and not for the store
    yield Limit(
        stage.name,
        f"{kind} requests a second",
        f"it would send more than {limit:,.0f}",
        f"{limit:,.0f} a prefix until the store splits it, so it takes {cost.wall_seconds / 3600:,.1f} hours",
        f"{_fewer_requests(stage, config)}, or let the store split the prefix before",
        ends=False,
    )


def _fewer_requests(stage: Stage, config: RunConfig) -> str:
    """What makes a stage send fewer requests: most follow the files of its source, and these the blocks."""
    several = "put the shards into several folders"
    if stage.fewest_rows:  # a training: nearly all of its requests are for images
        return several
    causes = {
        "shards": several,
        "duplicates": "set data.duplicates.near to null, so that only equal images are looked for",
        "removals": "set engine.clean.max_labels, such as 534 as in the paper",
    }
    rows = f"set data.rows_per_block over {config.data.rows_per_block}"
    return next((fix for name, fix in causes.items() if stage.name.startswith(name)), rows)


def _least_workers(config: RunConfig) -> int:
    workers = config.training.workers
    return workers if isinstance(workers, int) else workers[0]


def _training_of(stage: Stage, config: RunConfig) -> tuple[str, TrainConfig]:
    name = stage.name.partition("_")[0]
    return ("represent.train", config.represent.train) if name == "represent" else (name, getattr(config, name))


def _gigabytes(value: float) -> str:
    return f"{value / 1e9:,.1f} GB"
