"""One stage on a head without CPUs whose autoscaler has two node types to start: `a100` with a GPU, and `decode`.

    python tests/cluster/autoscaled.py STAGE FOLDER BUNDLE

The nodes are processes of this machine (Ray's fake node provider). Prints one JSON object: the most nodes of each
type that were up at once, the most CPUs that were in use on each, and the types still up after the idle timeout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from ram_ray.config import load
from ram_ray.runtime.artifacts import Run, StageResult
from ram_ray.runtime.cluster import configure_data
from ram_ray.runtime.own_cluster import free_port
from tests.box.cluster import answers, die_too, kill_family
from tests.node_death import SETS, generate, parse

# By the way of other clouds: what the type "fake_multinode" takes its defaults from is not in the package.
FAKE = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
NODE = {"object_store_memory": 150_000_000}
TYPES = {"a100": {"CPU": 2, "GPU": 1, **NODE}, "decode": {"CPU": 2, **NODE}}
UNUSED = ("setup_commands", "head_setup_commands", "worker_setup_commands", "initialization_commands")
UNUSED += ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files")
MOST = 2  # nodes of a type
ROWS = {"parse": 6000, "generate": 600}
IDLE_S = 15
SECONDS = 240
GONE_S = 240  # a request of Ray Data for nodes holds for three minutes


def main(stage: str, folder: Path, bundle: str) -> None:
    """See the module."""
    # Ray's sockets lie below: the path has to be short.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as temp:
        head, address = start(folder, temp)
        try:
            ray.init(address=address, logging_level="WARNING")
            configure_data()
            run_stage(stage, folder, bundle)
        finally:
            ray.shutdown()
            kill_family(head)


def run_stage(stage: str, folder: Path, bundle: str) -> None:
    """Run the stage and watch the nodes; prints what the module says."""
    resources = ["resources.max_cpus=4"] if stage == "parse" else ["resources.actor_gpus=1", "resources.actors=2"]
    config, run = load(sets=[*SETS, *resources]), Run(str(folder / "run"))
    made: Callable[..., Callable[[], StageResult]] = {"parse": parse, "generate": generate}[stage]
    work = made(run, config, folder, bundle, ROWS[stage])
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    nodes, cpus = watch(lambda: thread.is_alive())
    watch(lambda: bool(up()), limit_s=GONE_S)
    print(json.dumps({"nodes": nodes, "cpus": cpus, "left": up()}), flush=True)


def start(folder: Path, temp: str) -> tuple[subprocess.Popen, str]:
    """Start the head with an autoscaler; its process, whose children all others are, and its address."""
    port = free_port()
    address = f"{ray.util.get_node_ip_address()}:{port}"
    provider = {"type": "external", "module": FAKE, "launch_multiple": True, "head_node_id": FAKE_HEAD_NODE_ID}
    config = {
        "cluster_name": "fake",
        "max_workers": MOST * len(TYPES),
        "idle_timeout_minutes": IDLE_S / 60,
        "provider": {**provider, "gcs_address": address},
        "head_node_type": "ray.head.default",
        **{name: [] for name in UNUSED},
        "file_mounts": {},
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            **{
                name: {"resources": dict(resources), "node_config": {}, "min_workers": 0, "max_workers": MOST}
                for name, resources in TYPES.items()
            },
        },
    }
    path = folder / "autoscaler.json"
    path.write_text(json.dumps(config))
    env = {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=0"]
    command += [f"--port={port}", f"--autoscaling-config={path}", f"--temp-dir={temp}", "--include-dashboard=false"]
    command += [f"--object-store-memory={NODE['object_store_memory']}"]
    head = subprocess.Popen(command, env={**os.environ, **env}, stdout=sys.stderr, preexec_fn=die_too)
    deadline = time.monotonic() + SECONDS
    while not answers(port, host=address.partition(":")[0]):
        assert head.poll() is None and time.monotonic() < deadline, "the head does not start"
        time.sleep(0.2)
    return head, address


def type_of(node: dict[str, Any]) -> str:
    """Name of a node's type."""
    return "a100" if node["Resources"].get("GPU") else "decode"


def up() -> dict[str, int]:
    """Nodes that are up, by type, less the head."""
    nodes = [node for node in ray.nodes() if node["Alive"] and "node:__internal_head__" not in node["Resources"]]
    return dict(Counter(map(type_of, nodes)))


def watch(goes_on: Callable[[], bool], *, limit_s: float = SECONDS) -> tuple[dict[str, int], dict[str, float]]:
    """The most nodes, and the most CPUs in use, by type, while `goes_on()`."""
    from ray._private.state import available_resources_per_node

    nodes: Counter[str] = Counter()
    cpus: Counter[str] = Counter()
    deadline = time.monotonic() + limit_s
    while goes_on() and time.monotonic() < deadline:
        nodes |= Counter(up())
        free = available_resources_per_node()
        used: Counter[str] = Counter()
        for node in ray.nodes():
            if node["Alive"] and node["Resources"].get("CPU") and node["NodeID"] in free:
                used[type_of(node)] += node["Resources"]["CPU"] - free[node["NodeID"]].get("CPU", 0)
        cpus |= used
        time.sleep(0.2)
    return dict(nodes), dict(cpus)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
