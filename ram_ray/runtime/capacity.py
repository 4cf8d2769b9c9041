"""Resources of a machine or a cluster: the nodes that run, and those that its autoscaler may start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from ram_ray.records import Json
from ram_ray.runtime import ray_internals

_ROUNDING = 1e-6


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of one kind: the resources of each, and how many there can be."""

    resources: Mapping[str, float]
    count: int = 1


@dataclass(frozen=True)
class Capacity:
    """The most nodes that a run can have.

    Args:
        groups: the nodes.
        where: name of the machine or cluster, for messages.
        complete: False if an autoscaler may start nodes that are not known here.
    """

    groups: tuple[NodeGroup, ...]
    where: str = "this machine"
    complete: bool = True

    def fit(self, request: Mapping[str, float]) -> int:
        """Count how many bundles of resources fit at the same time.

        Args:
            request: resources of a bundle, such as `{"CPU": 1, "GPU": 1}`.

        Returns:
            Number of bundles; a bundle does not span nodes.
        """
        return sum(group.count * _fit(group.resources, request) for group in self.groups)

    def total(self, name: str) -> float:
        """The amount of a resource on all nodes together.

        Args:
            name: of the resource, such as "CPU".

        Returns:
            The amount; 0 if no node has it.
        """
        return sum(group.count * group.resources.get(name, 0) for group in self.groups)


def machine_capacity(*, num_cpus: float) -> Capacity:
    """Capacity of a cluster that this process starts on this machine.

    Args:
        num_cpus: CPUs of the cluster.

    Returns:
        A single node with these CPUs and the machine's GPUs.
    """
    import torch

    return Capacity((NodeGroup({"CPU": num_cpus, "GPU": torch.cuda.device_count()}),))


def cluster_capacity() -> Capacity:
    """Capacity of the cluster that this process has joined, with all nodes that its autoscaler may start.

    Returns:
        The capacity; it is not `complete` if the autoscaler runs on another node.
    """
    import ray

    nodes = tuple(NodeGroup(node["Resources"]) for node in ray.nodes() if node["Alive"])
    command = ray_internals.autoscaler_command(ray.get_runtime_context().gcs_address)
    if command is None:  # another node, or KubeRay's operator, runs the autoscaler
        return Capacity(nodes, "this cluster", complete=False)
    config = next((part.partition("=")[2] for part in command if part.startswith("--autoscaling-config=")), None)
    if config is None:
        return Capacity(nodes, "this cluster")
    return Capacity(node_groups(yaml.safe_load(Path(config).expanduser().read_text())), "this cluster's autoscaler")


def node_groups(config: Json) -> tuple[NodeGroup, ...]:
    """Read the node types of an autoscaler's configuration (`ray up`), the head's type included.

    Args:
        config: the configuration, as YAML has it.

    Returns:
        A group for each node type.
    """
    groups = []
    for name, kind in config["available_node_types"].items():
        most = kind.get("max_workers", config.get("max_workers", 0)) + (name == config.get("head_node_type"))
        groups.append(NodeGroup(kind.get("resources", {}), min(most, config.get("max_workers", most) + 1)))
    return tuple(groups)


def _fit(resources: Mapping[str, float], request: Mapping[str, float]) -> int:
    wanted = {name: amount for name, amount in request.items() if amount}
    return min((int((resources.get(name, 0) + _ROUNDING) // amount) for name, amount in wanted.items()), default=1)
