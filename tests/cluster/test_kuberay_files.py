"""Contract: the pods of the KubeRay files can be scheduled on the machines that they name, and may do their work.

A request above a machine's allocatable CPUs or memory stays pending for ever, without an error; a pod without the
service account is refused by the storage minutes later. Both are rules over the files, and every rule is also shown a
file that breaks it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
FILES = {"kuberay-job.yaml": "rayClusterSpec", "kuberay-service.yaml": "rayClusterConfig"}
MACHINES = {  # CPUs, GB, GPUs
    "a2-ultragpu-8g": (96, 1360, 8),
    "a2-highgpu-1g": (12, 85, 1),
    "n2-standard-32": (32, 128, 0),
    "n2-standard-8": (8, 32, 0),
    "n2-highmem-8": (8, 64, 0),
}
SYSTEM_PODS = (1.0, 2.0)  # CPUs and GiB of what GKE runs on every node
UNITS = {"Ki": 2**-20, "Mi": 2**-10, "Gi": 1.0, "Ti": 2.0**10}


def allocatable(machine: str) -> tuple[float, float, int]:
    """CPUs, GiB and GPUs that pods may ask for on a GKE node, by the formula of "Plan GKE Standard node sizes"."""
    cpus, gigabytes, gpus = MACHINES[machine]
    memory = gigabytes * 1e9 / 2**30  # as small as the label can mean
    for_cpu = reserved(cpus, [(1, 0.06), (1, 0.01), (2, 0.005), (cpus, 0.0025)])
    for_memory = reserved(memory, [(4, 0.25), (4, 0.20), (8, 0.10), (112, 0.06), (memory, 0.02)])
    return cpus - for_cpu, memory - for_memory - 0.1, gpus  # 0.1 GiB: the eviction threshold


def reserved(whole: float, steps: list[tuple[float, float]]) -> float:
    """A share of each step of `whole`."""
    amount = 0.0
    for size, share in steps:
        part = min(whole, size)
        amount, whole = amount + part * share, whole - part
    return amount


def cpus(text: str) -> float:
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def gib(text: str) -> float:
    return float(text[:-2]) * UNITS[text[-2:]]


def groups(cluster: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and body of the head's group and of the workers' groups."""
    yield "head", cluster["headGroupSpec"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group


def problems(cluster: dict[str, Any], account: str) -> list[str]:
    """What would go wrong with a RayCluster's specification, a line each."""
    violations = []
    if cluster.get("authOptions", {}).get("mode") != "token":
        violations.append("no token: whoever reaches the head's ports runs code")
    for name, group in groups(cluster):
        pod = group["template"]["spec"]
        machine = pod.get("nodeSelector", {}).get("node.kubernetes.io/instance-type")
        if pod.get("serviceAccountName") != account:
            violations.append(f"{name}: not the service account {account}, so the data cannot be read")
        if machine is None:
            violations.append(f"{name}: no machine is named, so nobody knows whether the pod fits")
            continue
        parts = [container["resources"] for container in pod["containers"]]
        parts += [cluster["autoscalerOptions"]["resources"]] if name == "head" else []
        violations += [f"{name}: {line}" for line in too_much(parts, machine)]
        shared = [
            volume["emptyDir"] for volume in pod.get("volumes", []) if volume["emptyDir"].get("medium") == "Memory"
        ]
        if sum(gib(volume["sizeLimit"]) for volume in shared) > 0.5 * gib(parts[0]["limits"]["memory"]):
            violations.append(f"{name}: shared memory counts as the pod's memory and takes more than half of it")
    return violations


def too_much(parts: list[dict[str, Any]], machine: str) -> list[str]:
    """What the containers of a pod ask for and a machine does not have."""
    violations = []
    free_cpus, free_memory, gpus = allocatable(machine)
    asked_cpus = sum(cpus(part["requests"]["cpu"]) for part in parts)
    asked_memory = sum(gib(part["requests"]["memory"]) for part in parts)
    if asked_cpus > free_cpus - SYSTEM_PODS[0]:
        violations.append(f"{asked_cpus:g} CPUs do not fit the {free_cpus:.1f} of a {machine} beside the system's pods")
    if asked_memory > free_memory - SYSTEM_PODS[1]:
        violations.append(
            f"{asked_memory:g} GiB do not fit the {free_memory:.0f} of a {machine} beside the system's pods"
        )
    if any(int(part[kind].get("nvidia.com/gpu", 0)) != gpus for part in parts[:1] for kind in ("requests", "limits")):
        violations.append(f"the GPUs asked for are not the {gpus} of a {machine}")
    return violations


def specification(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text())["spec"][FILES[name]]


@pytest.fixture(scope="module")
def account() -> str:
    """The service account that `kuberay-access.yaml` makes."""
    made = yaml.safe_load((CLUSTER / "kuberay-access.yaml").read_text())
    assert (made["apiVersion"], made["kind"]) == ("v1", "ServiceAccount")
    return str(made["metadata"]["name"])


def test_allocatable_is_what_gke_says() -> None:
    # of the page's own example: 4 vCPUs keep 80 millicores; 16 GiB keep 2.6 and the eviction threshold
    assert reserved(4, [(1, 0.06), (1, 0.01), (2, 0.005), (4, 0.0025)]) == pytest.approx(0.08)
    assert reserved(16, [(4, 0.25), (4, 0.20), (8, 0.10), (112, 0.06)]) == pytest.approx(2.6)
    assert allocatable("a2-ultragpu-8g")[0] > 95 and 1200 < allocatable("a2-ultragpu-8g")[1] < 1300


@pytest.mark.parametrize("name", FILES)
def test_the_files_break_no_rule(name: str, account: str) -> None:
    assert problems(specification(name), account) == []


def pod(cluster: Any, group: int | None = None) -> Any:
    """The pod of the head, or of a group of workers."""
    return (cluster["headGroupSpec"] if group is None else cluster["workerGroupSpecs"][group])["template"]["spec"]


def ask(spec: Any, name: str, amount: str) -> None:
    for kind in ("requests", "limits"):
        spec["containers"][0]["resources"][kind][name] = amount


BREAK: dict[str, Callable[[Any], Any]] = {
    "head: not the service account": lambda c: pod(c).pop("serviceAccountName"),
    "a100: not the service account": lambda c: pod(c, 0).update(serviceAccountName="default"),
    "decode: no machine": lambda c: pod(c, 1).pop("nodeSelector"),
    "head: 8.5 CPUs do not fit": lambda c: ask(pod(c), "cpu", "8"),
    "a100: 95 CPUs do not fit": lambda c: ask(pod(c, 0), "cpu", "95"),
    "decode: 32 CPUs do not fit": lambda c: ask(pod(c, 1), "cpu", "32"),
    "decode: 128 GiB do not fit": lambda c: ask(pod(c, 1), "memory", "128Gi"),
    "a100: the GPUs": lambda c: pod(c, 0)["containers"][0]["resources"]["limits"].pop("nvidia.com/gpu"),
    "a100: shared memory": lambda c: pod(c, 0)["volumes"][0]["emptyDir"].update(sizeLimit="600Gi"),
    "no token": lambda c: c.pop("authOptions"),
}


@pytest.mark.parametrize("name", BREAK)
def test_a_broken_file_is_seen(name: str, account: str) -> None:
    broken = copy.deepcopy(specification("kuberay-job.yaml"))
    BREAK[name](broken)
    assert any(line.startswith(name) for line in problems(broken, account))


@pytest.mark.parametrize("name", FILES)
def test_objects_are_spilled_to_a_volume(name: str) -> None:
    for group_name, group in groups(specification(name)):
        if folder := group["rayStartParams"].get("object-spilling-directory"):
            mounts = group["template"]["spec"]["containers"][0]["volumeMounts"]
            assert folder in {mount["mountPath"] for mount in mounts}, group_name
        else:
            assert name == "kuberay-service.yaml", f"{group_name} of {name} spills into its container"
