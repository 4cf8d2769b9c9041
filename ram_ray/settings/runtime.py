"""Settings of how stages run on Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator

from ram_ray.settings.data import Limits
from ram_ray.settings.section import Section


class ResourcesConfig(Section):
    """Resources that the steps of a stage ask Ray for.

    Tasks read, decode, parse and write, on all CPUs of the cluster. Actors hold a model; they ask for a GPU and a small
    share of a CPU, so that CPUs stay free for tasks. An actor that asks for no CPU could run on a head node with none.
    """

    task_cpus: float = Field(1.0, gt=0, description="CPUs of a task that reads, decodes or parses.")
    max_cpus: float | None = Field(
        None,
        gt=0,
        description="Most CPUs of a stage. `null`: all of the cluster, and those that an autoscaler may add.",
    )
    actor_cpus: float = Field(0.1, gt=0, description="CPUs of an actor that holds a model.")
    actor_gpus: float = Field(0.0, ge=0, description="GPUs of an actor that holds a model; a share is possible.")
    actors: int | tuple[int, int] = Field(1, description="Most actors of one step, or `[fewest, most]`.")
    threads: int = Field(1, ge=1, description="CPU threads of an actor's model.")
    shuffle_partitions: int = Field(200, ge=1, description="Partitions of a group-by over tags or names.")
    num_cpus: int | None = Field(
        None, ge=1, description="CPUs of a cluster that the run itself starts. `null`: the machine's."
    )
    object_store_gb: float | None = Field(
        None, gt=0, description="Object store, in GB, of a cluster that the run itself starts. `null`: Ray's default."
    )
    buffer_mb: int | None = Field(
        None,
        ge=16,
        description="Most MB of rows that wait between the steps of a stage. `null`: Ray's share of its store.",
    )
    cpu_node_price: float | None = Field(
        None, ge=0, description="Price of an hour of a node without a GPU, for the cost of each stage in the report."
    )
    gpu_node_price: float | None = Field(
        None, ge=0, description="Price of an hour of a node with GPUs. `null`: such nodes are not in the cost."
    )

    @field_validator("actors")
    @classmethod
    def _check_actors(cls, actors: int | tuple[int, int]) -> int | tuple[int, int]:
        fewest, most = actors if isinstance(actors, tuple) else (1, actors)
        if not 1 <= fewest <= most:
            raise ValueError("write a number from 1 on, or [fewest, most]")
        return actors

    @property
    def fewest_actors(self) -> int:
        """Least actors of a step."""
        return self.actors[0] if isinstance(self.actors, tuple) else 1

    @property
    def most_actors(self) -> int:
        """Most actors of a step; it has them if there is work and room."""
        return self.actors[1] if isinstance(self.actors, tuple) else self.actors


@dataclass(frozen=True)
class Execution:
    """How the stages of a run are executed; it is not part of any digest.

    `limits` belong to the digest of the stage `shards`, from which all images come, and `precision` to that of the
    training of each model.
    """

    resources: ResourcesConfig
    rows_per_block: int  # images that one task reads and decodes
    limits: Limits  # of a usable image
    precision: Literal["auto", "fp32", "bf16"]  # of models

    @property
    def task_cpus(self) -> float:
        """CPUs of a task that reads, decodes or parses."""
        return self.resources.task_cpus
