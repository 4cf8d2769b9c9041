"""The machines of a plan: how many of which kind, what each has, and what an hour of it costs.

A kind is written `KIND=COUNT[,FIELD=VALUE...]`. Kinds that ship with the package are in `machines.yaml`, with the date
and the origin of each price; any other name is a kind of the user's own, whose fields are then all written out.
"""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import yaml

HEAD = "head"  # kind of the machine that drives a run and does no work
STORE_SHARE = 0.3  # of a machine's memory: Ray's object store
MOST_STORE_GB = 200.0  # of a machine (`object_store_memory` of Ray, by default)
GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """Machines of one kind; memory in GiB, disk in GB, price in dollars an hour."""

    kind: str
    count: int = 1
    cpus: float = 0
    gpus: float = 0
    memory: float = 0
    gpu_memory: float = 0
    gpu_tflops: float = 0  # of a GPU, peak in bf16 without sparsity
    disk: float = 0
    price: float | None = None
    price_origin: str = "given"

    @property
    def store_bytes(self) -> float:
        """Object store of all of them."""
        return self.count * min(STORE_SHARE * self.memory * GIB, MOST_STORE_GB * 1e9)


@dataclass(frozen=True)
class Cluster:
    """All machines of a run; without a head the first machine drives."""

    machines: tuple[Machine, ...]

    @property
    def workers(self) -> tuple[Machine, ...]:
        """Machines that do work."""
        return tuple(machine for machine in self.machines if machine.kind != HEAD)

    @property
    def cpus(self) -> float:
        """CPUs of all workers."""
        return sum(machine.count * machine.cpus for machine in self.workers)

    @property
    def gpus(self) -> float:
        """GPUs of all workers."""
        return sum(machine.count * machine.gpus for machine in self.workers)

    @property
    def store_bytes(self) -> float:
        """Object store of all workers."""
        return sum(machine.store_bytes for machine in self.workers)

    @property
    def disk_bytes(self) -> float:
        """Disks of all workers, to which the object store spills."""
        return sum(machine.count * machine.disk * 1e9 for machine in self.workers)

    @property
    def driver_bytes(self) -> float:
        """Memory of the machine that drives the run, without its object store."""
        head = next((machine for machine in self.machines if machine.kind == HEAD), self.machines[0])
        return head.memory * GIB * (1 - STORE_SHARE)

    @property
    def gpu(self) -> Machine | None:
        """The first kind of machine with GPUs."""
        return next((machine for machine in self.workers if machine.gpus), None)

    def price(self, *, gpu_hours: bool) -> float | None:
        """Dollars an hour while a stage runs; an autoscaler stops machines with GPUs in stages without them.

        Args:
            gpu_hours: whether the stage uses GPUs.

        Returns:
            The price; None if a machine has none.
        """
        used = [machine for machine in self.machines if gpu_hours or not machine.gpus or not self._has_cpu_machines]
        if any(machine.price is None for machine in used):
            return None
        return sum(machine.count * (machine.price or 0.0) for machine in used)

    @property
    def stage_cpus(self) -> float:
        """CPUs of the machines without GPUs, or of all if there are only machines with GPUs."""
        plain = sum(machine.count * machine.cpus for machine in self.workers if not machine.gpus)
        return plain or self.cpus

    @property
    def _has_cpu_machines(self) -> bool:
        return any(not machine.gpus for machine in self.workers)


def read_cluster(texts: Sequence[str]) -> Cluster:
    """Read machines as the command line names them.

    Args:
        texts: `KIND=COUNT[,FIELD=VALUE...]` each; empty: this machine.

    Returns:
        The cluster.

    Raises:
        ValueError: if one has another form, an unknown field or kind, or no CPUs do the work.
    """
    cluster = Cluster(tuple(_read(text) for text in texts) or (this_machine(),))
    if not cluster.cpus:
        raise ValueError("--nodes: no machine has CPUs for work; add one, such as --nodes c6i.16xlarge=4")
    return cluster


MAX_CPUS = 500_000  # of a kind of machine; counting takes seconds for each 100,000
MAX_MACHINES = 2000  # of a kind; Ray is tested with as many


def this_machine() -> Machine:
    """This machine, without GPUs and without a price."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    stats = os.statvfs(os.getcwd())
    disk = stats.f_bavail * stats.f_frsize / 1e9
    return Machine("this machine", 1, cpus=os.cpu_count() or 1, memory=memory, disk=disk, price=0.0)


@functools.cache
def known_machines() -> dict[str, Machine]:
    """The kinds of `machines.yaml`."""
    text = Path(__file__).with_name("machines.yaml").read_text(encoding="utf-8")
    data = yaml.safe_load(text)
    return {
        kind: Machine(kind, price_origin=data["price_origin"], **{name: value for name, value in entry.items()})
        for kind, entry in data["machines"].items()
    }


def _read(text: str) -> Machine:
    first, *options = text.split(",")
    kind, separator, count = first.partition("=")
    if not separator or not kind or not re.fullmatch("[0-9]{1,9}", count) or not int(count):
        raise ValueError(
            f"--nodes {text}: write KIND=COUNT[,FIELD=VALUE...], such as c6i.16xlarge=4 or mine=1,cpus=8,memory=32"
        )
    if int(count) > MAX_MACHINES:
        raise ValueError(
            f"--nodes {text}: a Ray cluster has at most some thousand machines; write {MAX_MACHINES} or fewer"
        )
    known = known_machines()
    machine = replace(known.get(kind, Machine(kind)), count=int(count))
    names = [field.name for field in fields(Machine) if field.name not in ("kind", "count", "price_origin")]
    for option in options:
        name, _, value = option.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if name not in names or not (math.isfinite(number) and number >= 0):
            raise ValueError(f"--nodes {text}: {option!r} is no field with a number; fields are {', '.join(names)}")
        changes: dict[str, float] = {name: number}
        machine = replace(machine, **changes)  # type: ignore[arg-type]
        if name == "price":
            machine = replace(machine, price_origin="given")
    if machine.cpus * machine.count > MAX_CPUS:
        raise ValueError(f"--nodes {text}: {machine.cpus * machine.count:g} CPUs; write at most {MAX_CPUS:,}")
    if not machine.memory:
        raise ValueError(
            f"--nodes {text}: {kind} is not in the list ({', '.join(known)}); write at least its cpus and memory in "
            "GiB, such as mine=2,cpus=32,memory=128"
        )
    return machine
