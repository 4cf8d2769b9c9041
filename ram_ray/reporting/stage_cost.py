"""What a stage used and cost, for report.json and the page.

    cost = node-hours without a GPU * resources.cpu_node_price + node-hours with a GPU * resources.gpu_node_price

Nodes cost while they run, so a stage pays for all of them, also for what it left idle. Without a price nothing is said.
"""

from __future__ import annotations

from typing import TypedDict

from ram_ray.runtime.usage import Used
from ram_ray.settings.runtime import ResourcesConfig


class UseRow(TypedDict):
    """What a stage used, in report.json; None: not known."""

    cpu_seconds: float | None
    gpu_seconds: float | None
    cpu_node_hours: float | None
    gpu_node_hours: float | None
    cost: float | None


def cost_of(used: Used | None, resources: ResourcesConfig) -> float | None:
    """The cost of a stage.

    Args:
        used: by the stage.
        resources: has the prices; nodes of a kind without a price cost nothing.

    Returns:
        In the currency of the prices; None without any price, or if it is not known what was used.
    """
    if used is None or (resources.cpu_node_price is None and resources.gpu_node_price is None):
        return None
    cpu_nodes = used.cpu_node_seconds * (resources.cpu_node_price or 0.0)
    gpu_nodes = used.gpu_node_seconds * (resources.gpu_node_price or 0.0)
    return (cpu_nodes + gpu_nodes) / 3600


def use_row(used: Used | None, cost: float | None) -> UseRow:
    """What a stage used, as report.json has it.

    Args:
        used: by the stage; None: not known.
        cost: of the stage; None: there is no price.

    Returns:
        The values.
    """
    return {
        "cpu_seconds": used.cpu_seconds if used else None,
        "gpu_seconds": used.gpu_seconds if used else None,
        "cpu_node_hours": round(used.cpu_node_seconds / 3600, 4) if used else None,
        "gpu_node_hours": round(used.gpu_node_seconds / 3600, 4) if used else None,
        "cost": None if cost is None else round(cost, 4),
    }
