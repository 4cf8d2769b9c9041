"""A training run of one or two workers on two nodes; a node is preempted after a notice. For test_drained.

    python -m tests.training.preempted_run FOLDER

A step takes 0.2 s, and no checkpoint is due before the end, so any checkpoint is caused by the notice.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.training.test_trainer import STEP, RecordingFeed, _job

STEPS, NOTICE_S = 200, 20


class SlowFeed(RecordingFeed):
    """A feed that waits before each batch."""

    def stream(self, *, num_cpus: float) -> Iterator[dict[str, np.ndarray]]:
        for batch in super().stream(num_cpus=num_cpus):
            time.sleep(0.2 / self.micro_batch_layout[1])
            yield batch


def drain(cluster, node, folder: Path) -> None:
    """After some steps announce that the node will be preempted, and remove it at the deadline."""
    import ray
    from ray.core.generated import autoscaler_pb2

    while len(list((folder / "records").iterdir())) < 30:
        time.sleep(0.2)
    deadline = time.time() + NOTICE_S
    client = ray._raylet.GcsClient(address=cluster.address)
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    print("drained:", client.drain_node(node.node_id, reason, "spot", int(deadline * 1000)), flush=True)
    time.sleep(NOTICE_S)
    cluster.remove_node(node, allow_graceful=False)


def main(folder: Path) -> None:
    """Train through the preemption, and check that all steps were made."""
    os.environ.update({"RAY_AUTH_MODE": "disabled", "RAY_TRAIN_V2_ENABLED": "1", "RAY_USAGE_STATS_ENABLED": "0"})
    import ray
    from ray.cluster_utils import Cluster

    from ram_ray.runtime.cluster import configure_data
    from ram_ray.training.trainer import fit

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "object_store_memory": 200_000_000})
    node = cluster.add_node(num_cpus=3, object_store_memory=200_000_000)
    ray.init(address=cluster.address)
    configure_data()
    job = _job(folder, steps=STEPS, workers=1)
    training = job.training.model_copy(update={"workers": (1, 2), "worker_cpus": 2.0, "max_failures": 0})
    job = replace(
        job,
        training=training,
        config=job.config.model_copy(update={"checkpoint_steps": 1000}),
        feed=SlowFeed(**vars(job.feed)),
    )
    threading.Thread(target=drain, args=(cluster, node, folder), daemon=True).start()
    result = fit(job, storage=f"{folder}/train")
    assert result.metrics["step"] == STEPS, result.metrics
    assert job.config.batch_size == STEP
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
