"""The split of a step's rows over workers and over the micro batches of each worker."""

from __future__ import annotations


def split_step(batch_size: int, *, workers: int, limit: int | None) -> tuple[int, int]:
    """Split the rows of a step into micro batches of one size, the same on every worker.

    Args:
        batch_size: rows of the step.
        workers: number of workers.
        limit: maximum rows of a micro batch; None: no maximum.

    Returns:
        Rows of a micro batch, and micro batches of each worker. Their product is at least the worker's rows.
    """
    rows = -(-batch_size // workers)
    micro_batches = -(-rows // min(limit or rows, rows))
    return -(-rows // micro_batches), micro_batches
