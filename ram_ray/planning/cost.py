"""From the counts of a stage to its seconds and dollars.

A stage takes as long as the slowest of four, for they run beside each other, and its starts come on top:

    CPUs       CPU seconds / CPUs that it can use
    GPUs       GPU seconds / GPUs that it can use
    requests   requests / what the store answers in a second, or / what all CPUs can wait for at once
    driver     tasks / what the driver starts in a second
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ram_ray.planning.cluster import Cluster
from ram_ray.planning.constants import Constants
from ram_ray.planning.plan import Cost, Plan, Stage, Workload


@dataclass(frozen=True)
class Pace:
    """The seconds of a stage in earlier runs."""

    row: float  # of a CPU or GPU, for a row
    starts: float | None = None  # of the clock, however many rows; None: those of the plan


AT_ONCE = 8  # requests that a process has open at once (`fs.cat_ranges`)


def cost_stage(
    stage: Stage,
    cluster: Cluster,
    constants: Constants,
    *,
    measured: Mapping[str, Pace] | None = None,
    max_cpus: float,
) -> Cost:
    """Compute the seconds and dollars of a stage.

    Args:
        stage: with its counts.
        cluster: the machines.
        constants: of the plan.
        measured: `stage_key` -> seconds of earlier runs, in place of those of constants.
        max_cpus: most CPUs of a stage.

    Returns:
        The cost.
    """
    on_gpu = stage.runs_on == "gpu"
    cpus = min(cluster.stage_cpus if not on_gpu else cluster.cpus, max_cpus)
    gpus = cluster.gpus
    if stage.width and on_gpu:
        gpus = min(gpus, stage.width)
    elif stage.width:
        cpus = max(1e-9, min(cpus, stage.width))
    cpu_seconds, gpu_seconds, starts = stage.cpu_seconds, stage.gpu_seconds, stage.starts
    pace = (measured or {}).get(stage_key(stage))
    if pace:
        seconds = pace.row * stage.unit_rows
        cpu_seconds, gpu_seconds = (cpu_seconds, seconds) if on_gpu else (seconds, gpu_seconds)
        starts = stage.starts if pace.starts is None else pace.starts
    parts = {
        "CPUs": cpu_seconds / cpus,
        "GPUs": gpu_seconds / gpus if gpus else (float("inf") if gpu_seconds else 0.0),
        "requests": request_seconds(stage, constants, cpus=cpus),
        "driver": stage.tasks / constants["driver_tasks"],
    }
    slowest = max(parts, key=lambda name: parts[name])
    wall = parts[slowest] + starts
    price = cluster.price(gpu_hours=on_gpu)
    requests = stage.requests
    paid = requests.get * constants["dollars_get"] + (requests.put + requests.list) * constants["dollars_put"]
    dollars = None if price is None else price * wall / 3600 + (paid if price else 0.0)
    if starts > parts[slowest]:
        slowest = "starts"
    return Cost(stage, wall, dollars, slowest, "run" if pace else "constants")


def request_seconds(stage: Stage, constants: Constants, *, cpus: float) -> float:
    """Seconds that the requests of a stage take.

    Args:
        stage: with its counts.
        constants: of the plan.
        cpus: CPUs of the stage, each with `AT_ONCE` requests in flight.

    Returns:
        The larger of what the store and what the latency allow.
    """
    requests = stage.requests
    by_store = max((requests.put + requests.list) / constants["put_limit"], requests.get / constants["get_limit"])
    return max(by_store, sum(requests) * constants["request_seconds"] / (cpus * AT_ONCE))


def stage_key(stage: Stage) -> str:
    """The name of a stage without the number of its round, and what it runs on: for figures of an earlier run.

    Args:
        stage: such as that of "scores_2", or "pretrain_fold_1".

    Returns:
        Such as "scores/gpu", or "pretrain/cpu".
    """
    first, _, _ = stage.name.partition("_fold_")
    base, _, last = first.rpartition("_")
    return f"{base if base and last.isdigit() else first}/{stage.runs_on}"


def make_plan(
    stages: Sequence[Stage],
    workload: Workload,
    cluster: Cluster,
    constants: Constants,
    *,
    measured: Mapping[str, Pace] | None = None,
    max_cpus: float | None = None,
) -> Plan:
    """Cost every stage.

    Args:
        stages: as of `recipe.plan_stages`.
        workload: the data.
        cluster: the machines.
        constants: of the plan.
        measured: as of `cost_stage`.
        max_cpus: `resources.max_cpus`.

    Returns:
        The plan.
    """
    most = max_cpus or float("inf")
    costs = tuple(cost_stage(stage, cluster, constants, measured=measured, max_cpus=most) for stage in stages)
    return Plan(workload, cluster, costs, constants)
