"""What every system is to the protocol: which classes it answers for, what of an image it needs, and its scores.

A system has two parts. `System` is small, is made on the driver without weights, and travels to the actors. `Scorer` is
what it loads there. Adding a system is a class of each, and a line in `registry.py`.

Letters: B images of a batch, C classes that the system answers for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ram_ray.labels.lists import Entry
from ram_ray.records import Json

Batch = Mapping[str, np.ndarray]
NEVER = 2.0  # threshold of a muted label


@dataclass(frozen=True)
class PlannedClass:
    """How a system answers for one class."""

    index: int  # of the class in the set
    name: str
    matched_by: str  # of `class_mapping.MATCHED_BY`
    text: str  # what a text encoder is asked for
    labels: tuple[int, ...] = ()  # of the system; their highest score counts
    threshold: float | None = None  # of its own


@dataclass(frozen=True)
class Plan:
    """The classes of a set that a system answers for, and those that it does not."""

    classes: tuple[PlannedClass, ...]
    unsupported: tuple[str, ...] = ()

    @property
    def thresholds(self) -> list[float] | None:
        """Of each class, where the system has its own."""
        values = [planned.threshold for planned in self.classes]
        return None if None in values or not values else [float(value or 0) for value in values]


class Scorer(Protocol):
    """A loaded system."""

    def __call__(self, batch: Batch, rows: Sequence[int]) -> np.ndarray:
        """Score images.

        Args:
            batch: numpy columns, as `data.pixels.add_pixels` makes them.
            rows: indices of the images that can be used.

        Returns:
            (len(rows), C) float; higher is more likely.
        """
        ...


class System(ABC):
    """A system by its name.

    Args:
        name: in tables and folders.
    """

    bounds: tuple[int, int] | None = None  # of images in their own proportions, as `data.pixels.add_pixels` has it

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Pixels a side of the square images that it takes."""

    @abstractmethod
    def identity(self) -> Json:
        """All that its scores depend on beside the images and the classes."""

    @abstractmethod
    def plan(self, classes: Sequence[Entry], mapping: Mapping[str, str] | None, *, exact: bool = False) -> Plan:
        """Decide how it answers for each class.

        Args:
            classes: of the set.
            mapping: class -> its labels, from the user's file.
            exact: a class is answered by a label of its very name, or by a text.

        Returns:
            The plan.
        """

    @abstractmethod
    def load(self, plan: Plan, *, device: str, precision: str, threads: int | None) -> Scorer:
        """Load the weights, in an actor.

        Args:
            plan: of the set.
            device: of torch.
            precision: "fp32" or "bf16".
            threads: number of torch's threads; None: as many as it takes.

        Returns:
            What scores batches.
        """


def open_plan(classes: Sequence[Entry]) -> Plan:
    """Plan for a system that takes any text: each class is asked for by its name.

    Args:
        classes: of the set.

    Returns:
        The plan.
    """
    from ram_ray.evaluation.class_mapping import query_text

    return Plan(
        tuple(PlannedClass(index, entry.name, "open", query_text(entry.name)) for index, entry in enumerate(classes))
    )
