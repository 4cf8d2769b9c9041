"""Settings of how stages run on Ray."""

from __future__ import annotations

from pydantic import Field, field_validator

from ram_ray.settings.section import Section


class ResourcesConfig(Section):
    """What the steps of a stage ask Ray for.

    Tasks read, decode, parse and write, on every CPU that the cluster has. Actors hold a model; they ask for a GPU and
    next to no CPU, so that tasks always find one. None at all would bring them to a head node that should hold none.
    """

    task_cpus: float = Field(1.0, gt=0)
    max_cpus: float | None = Field(None, gt=0)  # of a stage; None: all there are, and what an autoscaler may still add
    actor_cpus: float = Field(0.1, gt=0)
    actor_gpus: float = Field(0.0, ge=0)
    actors: int | tuple[int, int] = 1  # most actors of one step, or [fewest, most]
    threads: int = Field(1, ge=1)  # of an actor's model on a CPU
    shuffle_partitions: int = Field(200, ge=1)  # of a group-by: tags, names
    num_cpus: int | None = None  # only for a cluster that the run itself starts; None: the machine's
    object_store_gb: float | None = None  # only for a cluster that the run itself starts
    buffer_mb: int | None = Field(None, ge=16)  # rows that wait between a stage's steps; None: Ray's share of its store

    @field_validator("actors")
    @classmethod
    def _some_actors(cls, actors: int | tuple[int, int]) -> int | tuple[int, int]:
        fewest, most = actors if isinstance(actors, tuple) else (1, actors)
        if not 1 <= fewest <= most:
            raise ValueError("write a number from 1 on, or [fewest, most]")
        return actors

    @property
    def fewest_actors(self) -> int:
        """Actors of a step from its start to its end."""
        return self.actors[0] if isinstance(self.actors, tuple) else 1

    @property
    def most_actors(self) -> int:
        """Actors of a step where there is work and room for them."""
        return self.actors[1] if isinstance(self.actors, tuple) else self.actors
