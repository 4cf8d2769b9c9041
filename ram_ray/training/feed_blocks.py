"""How much of the object store the decoded batches of a training take, and in which blocks they wait there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ray.data

# Of the cluster's object store, for the waiting batches of all workers. Each worker has a dataset of its own, which by
# default takes half of the store for itself: with two, nearly all batches went to disk before they were trained on.
STORE_SHARE = 0.5
LARGE_BLOCK = 128 << 20  # bytes, Ray Data's own choice
BLOCKS = 16  # of a worker in a small store: some are made at once, some wait, and the worker holds one or two


def block_size(share: int, *, batch_bytes: int) -> int:
    """Choose the bytes of a block of batches.

    A task holds a block while it makes it. Where a few of them fill the store they go to disk. Where the store is large
    they are large, for the worker keeps some kilobytes of every block.

    Args:
        share: bytes of the object store for the batches of a worker.
        batch_bytes: of a batch, which is not cut.

    Returns:
        Bytes.
    """
    return max(batch_bytes, min(share // BLOCKS, LARGE_BLOCK))


def fit_into_store(dataset: ray.data.Dataset, *, workers: int, batch_bytes: int) -> None:
    """Give a worker's dataset its share of the object store, and blocks that fit into it.

    Args:
        dataset: of batches; its context is changed.
        workers: of the training.
        batch_bytes: of a batch.
    """
    import ray

    share, store_bytes = STORE_SHARE / workers, ray.cluster_resources().get("object_store_memory", 0)
    dataset.context.override_object_store_memory_limit_fraction = share
    dataset.context.target_max_block_size = block_size(int(share * store_bytes), batch_bytes=batch_bytes)
