"""Rows that training could not use, kept over restarts: each worker writes its own before each checkpoint.

    FOLDER/<step>-<rank>.parquet    what worker `rank` rejected since the checkpoint before the one of `step`

A run that goes on from a checkpoint meets later rows again, so it drops later files first. A row may be met in several
epochs and by several workers; `read` gives it once.
"""

from __future__ import annotations

import re

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ram_ray.records import REJECTED
from ram_ray.runtime.artifacts import write_table


class RejectedRows:
    """The rejected rows of one worker since its last checkpoint.

    Args:
        folder: URI, the same for all workers.
        stage: name that the rows bear.
        rank: of the worker.
    """

    def __init__(self, folder: str, *, stage: str, rank: int) -> None:
        self.folder, self._stage, self._rank = folder, stage, rank
        self._rows: dict[str, dict] = {}

    def add(self, batch: dict[str, np.ndarray]) -> None:
        """Note the rows of a feed's batch that have a reason; rows without a key only fill a share up.

        Args:
            batch: of `Feed.batch`.
        """
        for row in np.flatnonzero((batch["reason"] != "") & (batch["key"] != "")):
            columns = {name: str(batch[name][row]) for name in ("key", "shard", "reason", "detail")}
            self._rows.setdefault(columns["key"], {**columns, "stage": self._stage})

    @property
    def first(self) -> str:
        """The first one in words, or nothing."""
        row = next(iter(self._rows.values()), None)
        return f"{row['key']} of shard {row['shard']}: {row['reason']} ({row['detail']})" if row else ""

    def write(self, step: int) -> None:
        """Write and forget them; the checkpoint of this step must follow."""
        if self._rows:
            table = pa.Table.from_pylist(list(self._rows.values()), schema=REJECTED)
            write_table(table, f"{self.folder}/{step:09d}-{self._rank}.parquet")
            self._rows.clear()


def drop_after(folder: str, step: int) -> None:
    """Remove the files of later steps, which a run that goes on from this step makes again."""
    fs, _ = fsspec.url_to_fs(folder)
    for file, of_step in _files(folder):
        if of_step > step:
            fs.rm(file)


def read(folder: str) -> pa.Table:
    """The rejected rows of all workers (`records.REJECTED`), each key once, in the order of keys."""
    fs, _ = fsspec.url_to_fs(folder)
    rows: dict[str, dict] = {}
    for file, _ in _files(folder):
        with fs.open(file, "rb") as handle:
            for row in pq.read_table(handle, schema=REJECTED, partitioning=None).to_pylist():
                rows.setdefault(row["key"], row)
    return pa.Table.from_pylist([rows[key] for key in sorted(rows)], schema=REJECTED)


def _files(folder: str) -> list[tuple[str, int]]:
    """The files with their steps, in the order of steps."""
    fs, root = fsspec.url_to_fs(folder)
    files = fs.ls(root, detail=False) if fs.exists(root) else []
    names = [(file, re.fullmatch(r"(\d+)-\d+\.parquet", file.rpartition("/")[2])) for file in sorted(files)]
    return [(file, int(match[1])) for file, match in names if match]
