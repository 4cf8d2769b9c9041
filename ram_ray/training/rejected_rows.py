"""Rows that training could not use, kept over restarts: each worker writes its rows before a checkpoint.

    FOLDER/<step>-<rank>.parquet    rows that worker `rank` rejected between the previous checkpoint and that of `step`

A run that resumes from a checkpoint reads later rows again, so it removes later files first (`step_files`). Several
epochs and several workers may reject the same row; `read` returns it once.
"""

from __future__ import annotations

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ram_ray.records import REJECTED
from ram_ray.runtime.artifacts import write_table
from ram_ray.runtime.metrics import REJECTED as REJECTED_ROWS
from ram_ray.runtime.metrics import count
from ram_ray.training.step_files import list_step_files


class RejectedRows:
    """The rejected rows of one worker since its last checkpoint.

    Args:
        folder: URI, the same for all workers.
        stage: written into each row.
        rank: rank of the worker.
    """

    def __init__(self, folder: str, *, stage: str, rank: int) -> None:
        self.folder, self._stage, self._rank = folder, stage, rank
        self._rows: dict[str, dict] = {}

    def add(self, batch: dict[str, np.ndarray]) -> None:
        """Record the rows of a batch that have a reason; padding rows have no key and are skipped.

        Args:
            batch: batch of `Feed.batch`.
        """
        for row in np.flatnonzero((batch["reason"] != "") & (batch["key"] != "")):
            columns = {name: str(batch[name][row]) for name in ("key", "shard", "reason", "detail")}
            self._rows.setdefault(columns["key"], {**columns, "stage": self._stage})
            count(REJECTED_ROWS, reason=columns["reason"])

    @property
    def first_message(self) -> str:
        """Text about the first rejected row; empty if there is none."""
        row = next(iter(self._rows.values()), None)
        return f"{row['key']} of shard {row['shard']}: {row['reason']} ({row['detail']})" if row else ""

    def write(self, step: int) -> None:
        """Write the recorded rows and clear them. The checkpoint of this step must follow.

        Args:
            step: step of the checkpoint.
        """
        if self._rows:
            table = pa.Table.from_pylist(list(self._rows.values()), schema=REJECTED)
            write_table(table, f"{self.folder}/{step:09d}-{self._rank}.parquet")
            self._rows.clear()


def read(folder: str) -> pa.Table:
    """Read the rejected rows of all workers.

    Args:
        folder: URI of the rejected rows.

    Returns:
        Rows of `records.REJECTED`, each key once, sorted by key.
    """
    fs, _ = fsspec.url_to_fs(folder)
    rows: dict[str, dict] = {}
    for file, _ in list_step_files(folder):
        with fs.open(file, "rb") as handle:
            for row in pq.read_table(handle, schema=REJECTED, partitioning=None).to_pylist():
                rows.setdefault(row["key"], row)
    return pa.Table.from_pylist([rows[key] for key in sorted(rows)], schema=REJECTED)
