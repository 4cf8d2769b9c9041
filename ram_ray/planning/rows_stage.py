"""The one shape that most stages have: rows in, rows out, over Ray Data (`runtime.annotate`), and its counts.

Requests of such a stage are those of reading the files of its source once a pass, and of writing its own files once;
images are read by byte range, neighbours of a shard together (`data.fetch`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ram_ray.config import RunConfig
from ram_ray.data.fetch import MAX_REQUEST
from ram_ray.planning.cluster import Cluster
from ram_ray.planning.constants import Constants
from ram_ray.planning.layout import Files, Layout, Pass, Rows, choose_scale, even_shards, pass_over_parts
from ram_ray.planning.plan import Requests, Stage, Workload
from ram_ray.runtime.annotate import caption_rows_per_block

LISTED_AT_ONCE = 1000  # names that a request of a list gives
SHUFFLE_BATCH_BYTES = 1 << 30  # of a map task of a shuffle (`DataContext.shuffle_input_batch_bytes`)


@dataclass(frozen=True)
class Table:
    """Rows of a stage, as the next one reads them."""

    layout: Layout
    rows: int
    row_bytes: float  # in a file

    @property
    def num_files(self) -> int:
        """Files of all rows."""
        return self.layout.num_files

    @property
    def nbytes(self) -> float:
        """Bytes of all files."""
        return self.rows * self.row_bytes


@dataclass
class Planning:
    """What every stage is counted from, and the stages so far."""

    config: RunConfig
    workload: Workload
    cluster: Cluster
    constants: Constants
    stages: list[Stage] = field(default_factory=list)

    def shards(self, *, held_out: bool = False) -> tuple[Files, int]:
        """The rows of each shard, of one of a number of equal parts of the shards.

        Args:
            held_out: whether those of the held-out images.

        Returns:
            The shards, and the number of parts.
        """
        load = self.workload
        rows = load.held_out_shard_rows if held_out else load.shard_rows
        if rows:
            return tuple(Rows(index, count) for index, count in enumerate(rows)), 1
        images, shards = (load.held_out, load.held_out_shards) if held_out else (load.images, load.shards)
        scale = choose_scale(images, shards, rows_per_block=self.config.data.rows_per_block)
        return even_shards(images // scale, max(1, shards // scale)), scale

    def caption_pass(self, rows: int, row_bytes: float, *, batches: bool = True) -> Pass:
        """How a stage passes over captions without images.

        Args:
            rows: of the stage.
            row_bytes: of a row in a file.
            batches: whether it maps batches of `data.rows_per_block` (`annotate.map_captions`).

        Returns:
            The pass.
        """
        execution = self.config.execution
        sizes = (execution.rows_per_block,) if batches else ()
        return Pass(caption_rows_per_block(rows, execution=execution), sizes, self._in_memory(row_bytes))

    def image_pass(self, row_bytes: float, batch_sizes: Sequence[int] = ()) -> Pass:
        """How a stage passes over images.

        Args:
            row_bytes: of a row in a file.
            batch_sizes: of its steps, see `layout.Pass`.

        Returns:
            The pass.
        """
        return Pass(self.config.data.rows_per_block, tuple(batch_sizes), self._in_memory(row_bytes))

    def add(
        self,
        name: str,
        line: str,
        source: Table,
        step: Pass,
        *,
        row_bytes: float,
        work: float = 0.0,
        image_batch: int = 0,
        rejected: float = 0.0,
        files_each: int = 1,
        more_files: int = 0,
        **more: Any,
    ) -> Table:
        """Count a stage over rows, and add it.

        Args:
            name: of the stage.
            line: its row in the table of a run.
            source: that it reads.
            step: how it passes over the rows.
            row_bytes: of a row that it writes, in a file.
            work: CPU seconds for a row, beside reading and writing it.
            image_batch: images that are read at once; 0: no images are read.
            rejected: share of its rows that the next stage does not read.
            files_each: files that it leaves for each file of rows, that file included.
            more_files: files that it leaves beside these.
            more: fields of `Stage` that differ.

        Returns:
            The rows that it wrote.
        """
        constants, rows = self.constants, source.rows
        scale = source.layout.scale
        layout = pass_over_parts(source.layout.files, step, cpus=self.cluster.cpus, scale=scale)
        images = self.image_requests(source, batch=image_batch) if image_batch else Requests()
        written = layout.num_files * files_each + more_files
        tasks = layout.read_tasks + layout.blocks
        seconds = rows * (work + constants["read_row"] + constants["count_row"]) + tasks * constants["task"]
        self.stages.append(
            Stage(
                name,
                line,
                rows_in=rows,
                rows_out=round(rows * (1 - rejected)),
                passes=1,
                tasks=tasks,
                files=written,
                requests=self.read_requests(source.num_files).plus(self.write_requests(written)).plus(images),
                store_bytes=more.pop("store_bytes", self.waiting_bytes(step, source)),
                disk_bytes=rows * row_bytes,
                driver_bytes=constants["driver_base"] + layout.blocks * constants["driver_block"],
                blocks=layout.blocks,
                starts=more.pop("starts", 0.0) + constants["pass_start"],
                cpu_seconds=seconds,
                unit_rows=rows,
                **more,
            )
        )
        return Table(layout, round(rows * (1 - rejected)), row_bytes)

    def waiting_bytes(self, step: Pass, source: Table) -> float:
        """Bytes of rows that wait between the steps of a stage: two blocks a CPU, or `resources.buffer_mb`."""
        buffer = self.config.resources.buffer_mb
        waiting = 2 * self.cluster.cpus * step.rows_per_block * self._in_memory(source.row_bytes)
        return min(waiting, buffer * 1e6) if buffer else waiting

    def shuffle_references(self, nbytes: float, *, partitions: int) -> float:
        """References that the driver holds in a group-by or a sort: one for each map task and partition.

        Args:
            nbytes: bytes of the rows that are shuffled.
            partitions: number of partitions.

        Returns:
            Their number.
        """
        nodes = sum(machine.count for machine in self.cluster.workers)
        return (nodes + nbytes / SHUFFLE_BATCH_BYTES) * partitions

    def read_requests(self, files: float) -> Requests:
        """Requests of reading Parquet files once."""
        constants = self.constants
        get = files * (constants["get_read_file"] + constants["head_read_file"])
        return Requests(get=get, list=constants["list_pass"] + files / LISTED_AT_ONCE if files else 0.0)

    def write_requests(self, files: float) -> Requests:
        """Requests of writing files."""
        kinds = ("get", "put", "list")
        return Requests(**{kind: files * self.constants[f"{kind}_written_file"] for kind in kinds})

    def image_requests(self, rows: Table, *, batch: int) -> Requests:
        """Requests of reading the images of a stage in the order of their shards: one a batch and shard."""
        by_size = rows.rows * self.constants["image_bytes"] / MAX_REQUEST
        return Requests(get=max(rows.rows / batch + rows.layout.num_shards, by_size))

    def _in_memory(self, row_bytes: float) -> float:
        return row_bytes * self.constants["memory_ratio"]
