"""What a bench of this machine is made of: the constants that it finds, and the time of a call."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ram_ray.planning.constants import Constant, shipped_constants


@dataclass
class Measured:
    """Constants by name, and what the user should know."""

    constants: dict[str, Constant] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, value: float, how: str) -> None:
        """Add a constant.

        Args:
            name: as in `constants.yaml`.
            value: in the unit that the shipped constant has.
            how: what was run.
        """
        unit = shipped_constants().origins[name].unit
        date, machine = datetime.date.today().isoformat(), machine_name()
        self.constants[name] = Constant(value, unit, "measured", how, date, machine)


def time_calls(call: Callable[[], object], *, seconds: float, clock: Callable[[], float] = time.process_time) -> float:
    """Seconds of a call, after one that is not counted.

    Args:
        call: what is measured.
        seconds: least seconds of all calls together.
        clock: CPU seconds of this process, or another clock.

    Returns:
        The mean.
    """
    call()
    calls, start, wall = 0, clock(), time.monotonic()
    while calls == 0 or time.monotonic() - wall < seconds:
        call()
        calls += 1
    return (clock() - start) / calls


def machine_name() -> str:
    """The processor of this machine, and how many cores it has."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{os.cpu_count()} cores of {name}"
