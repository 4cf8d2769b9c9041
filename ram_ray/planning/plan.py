"""What a plan is made of: the work of each stage in counts, and its cost.

A stage is a row with the name of its manifest (`ram_ray.results`) and that of its line in the closing table of a run.
Counts follow from the configuration and today's code; seconds follow from counts by constants.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal, NamedTuple

from ram_ray.planning.cluster import Cluster
from ram_ray.planning.constants import Constants


class Requests(NamedTuple):
    """Requests to an object store, by kind; HEAD counts as GET, as the stores bill it."""

    get: float = 0.0
    put: float = 0.0
    list: float = 0.0

    def plus(self, other: Requests) -> Requests:
        """The sum of both."""
        return Requests(self.get + other.get, self.put + other.put, self.list + other.list)


@dataclass(frozen=True)
class Workload:
    """The data of a run, and what its images hold."""

    images: int
    shards: int
    finetune_images: int
    held_out: int = 0
    held_out_shards: int = 0
    shard_rows: tuple[int, ...] | None = None  # of each shard in the order of their names; None: all alike
    held_out_shard_rows: tuple[int, ...] | None = None
    labels: int = 4585


@dataclass(frozen=True)
class Stage:
    """One stage, counted.

    Args:
        name: of its manifest.
        line: its row in the table of a run.
        runs_on: what its seconds are divided over: CPUs, the GPUs of actors, or those of training workers.
    """

    name: str
    line: str
    runs_on: Literal["cpu", "gpu"] = "cpu"
    rows_in: int = 0
    rows_out: int = 0
    passes: float = 0  # over all rows of the stage
    tasks: float = 0.0
    files: float = 0.0  # that it leaves
    work_files: float = 0.0  # that it writes and removes
    requests: Requests = Requests()
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    width: float = 0.0  # most CPUs or GPUs that it can use; 0: all
    starts: float = 0.0  # seconds that nothing can shorten
    store_bytes: float = 0.0  # of rows in Ray's object store at once
    disk_bytes: float = 0.0  # that it leaves, with what it removes
    driver_bytes: float = 0.0
    names_bytes: float = 0.0  # of names that captions mention, part of `driver_bytes`
    gpu_bytes: float = 0.0  # of a GPU
    blocks: float = 0.0  # that the driver keeps until the stage ends, part of `driver_bytes`
    references: float = 0.0  # to objects that the driver holds at once
    unit_rows: float = 0.0  # rows that its seconds grow with, for constants from an earlier run
    fewest_rows: int = 0  # rows that it cannot do without


@dataclass(frozen=True)
class Cost:
    """Seconds and dollars of a stage on a cluster."""

    stage: Stage
    wall_seconds: float
    dollars: float | None
    slowest: str  # what its seconds are: CPUs, GPUs, requests, driver, starts
    origin: Literal["constants", "run"] = "constants"


@dataclass(frozen=True)
class Plan:
    """A whole run."""

    workload: Workload
    cluster: Cluster
    costs: tuple[Cost, ...]
    constants: Constants = field(repr=False)

    @property
    def wall_seconds(self) -> float:
        """Of all stages, one after the other."""
        return sum(cost.wall_seconds for cost in self.costs)

    @property
    def dollars(self) -> float | None:
        """Of all stages; None if a machine has no price."""
        values = [cost.dollars for cost in self.costs]
        return None if None in values else sum(value or 0.0 for value in values)

    @property
    def passes_over_all(self) -> float:
        """Rows that all stages pass over, in units of the images of the run."""
        return sum(cost.stage.passes * cost.stage.rows_in for cost in self.costs) / max(1, self.workload.images)

    def total(self, name: str) -> float:
        """The sum of a field over all stages.

        Args:
            name: of a field of `Stage` that is a number.

        Returns:
            The sum.
        """
        assert name in {item.name for item in fields(Stage)}, name
        return float(sum(getattr(cost.stage, name) for cost in self.costs))
