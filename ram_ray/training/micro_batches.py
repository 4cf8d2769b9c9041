"""How the rows of a step are shared: over workers, and over the forwards of each."""

from __future__ import annotations


def share(batch_size: int, *, workers: int, limit: int | None) -> tuple[int, int]:
    """How a worker takes its share of a step: (rows of a micro batch, micro batches), the same on every worker.

    Args:
        batch_size: rows of the step.
        workers: number of workers.
        limit: most rows of a micro batch; None: as many as there are.
    """
    rows = -(-batch_size // workers)
    micro_batches = -(-rows // min(limit or rows, rows))
    return -(-rows // micro_batches), micro_batches
