"""What the package uses of Ray Data outside its public API; see `ray_internals`, whose version this file shares."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import DataContext, Dataset


class SchedulingPause:
    """A short sleep after every round of Ray Data's scheduling loop, nine times as long as the CPU time of the round.

    The loop does not wait while finished blocks are not yet read: if training is slower than its feed, the loop runs
    without pause in the trainer's process and holds the interpreter lock that training needs; beside a parser it takes
    half a CPU. The first rounds of an execution have no sleep: a stage over little data would wait more than it works.

    Missing in the public API of 2.60: the length of a round. The methods are those of Ray Data's `ExecutionCallback`.
    """

    FREE_SECONDS, MIN_SECONDS, MAX_SECONDS = 0.5, 0.01, 0.1  # CPU time of the first rounds; of a sleep

    def __init__(self) -> None:
        self._busy = 0.0  # CPU time of the loop's thread

    def before_execution_starts(self, executor: Any) -> None:
        """No effect."""

    def on_execution_step(self, executor: Any) -> None:
        """Sleep, so that other threads run."""
        busy = time.thread_time()
        if busy > self.FREE_SECONDS:
            time.sleep(min(self.MAX_SECONDS, max(self.MIN_SECONDS, 9 * (busy - self._busy))))
        self._busy = busy

    def after_execution_succeeds(self, executor: Any) -> None:
        """No effect."""

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        """No effect."""


def execution_state(executor: Any) -> tuple[float, float, list[tuple[str, int, int]]]:
    """The CPUs and GPUs that a dataset holds now, and its operators. Missing in the public API of 2.60: all of it.

    Args:
        executor: as `ExecutionCallback` gets it.

    Returns:
        CPUs, GPUs; and in the order of the data the name, waiting blocks and tasks of each operator.
    """
    manager = executor._resource_manager  # "running" is what was asked for, also by actors that wait for a node
    usage = manager.get_global_running_usage().subtract(manager.get_global_pending_usage())
    operators = executor._topology.values()
    states = [(each.op.name, each.total_enqueued_input_blocks(), each.op.num_active_tasks()) for each in operators]
    return max(0.0, usage.cpu), max(0.0, usage.gpu), states


def tune_data(context: DataContext, *, callback: type) -> None:
    """Set options that Ray Data has for its own developers only.

    Missing in the public API of 2.60: stable names for these fields of `DataContext`, whose types are private classes,
    and a switch for the messages of the logger `ray.data`.

    Args:
        context: Ray Data's context of this process.
        callback: class that is told of every round of the scheduling loop, as `SchedulingPause` is.
    """
    context.autoscaling_config.actor_pool_util_downscaling_threshold = 0.0  # a model takes longer to load than a lull
    context.use_datasource_v2 = False  # its extra listing operator takes a whole CPU, half of a small machine
    context.custom_execution_callback_classes = [SchedulingPause, callback]  # type: ignore[list-item]
    context.issue_detectors_config.detectors = []  # advice about memory requests, every 30 seconds
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def write_counted_parquet(
    dataset: Dataset,
    uri: str,
    *,
    partition_cols: list[str] | None,
    try_create_dir: bool,
    count: Callable[[pa.Table], dict[str, float]],
    num_cpus: float,
) -> dict[str, float]:
    """Write a dataset as `Dataset.write_parquet` does, and count its blocks in the tasks that write them.

    A task that ran several times is counted once, as its files are there once.

    Missing in the public API of 2.60: what the tasks of `write_parquet` return. A sink of another kind than Ray's own
    would lose the two-phase commit of Ray Data's checkpoints.

    Args:
        dataset: dataset to write; its blocks are Arrow tables.
        uri: folder or URI; its files stay.
        partition_cols: columns that become folders.
        try_create_dir: whether the folder is made.
        count: function from a block to numbers by name.
        num_cpus: CPUs of a task.

    Returns:
        The sums by name over the rows that were written now.
    """
    from ray.data import SaveMode
    from ray.data._internal.datasource.parquet_datasink import ParquetDatasink

    returned: list[str | None] = []

    class CountingSink(ParquetDatasink):
        def write(self, blocks: Iterable[Any], ctx: Any) -> Any:
            tables = list(blocks)
            super().write(tables, ctx)
            return json.dumps(_add_up(count(table) for table in tables if len(table)))

        def on_write_complete(self, write_result: Any) -> None:
            super().on_write_complete(write_result)
            returned.extend(write_result.write_returns)

    sink = CountingSink(
        uri,
        partition_cols=partition_cols,
        try_create_dir=try_create_dir,
        dataset_uuid=uuid.uuid4().hex,
        mode=SaveMode.APPEND,
    )
    dataset.write_datasink(sink, ray_remote_args={"num_cpus": num_cpus})
    return _add_up(json.loads(counts) for counts in returned if counts)


def _add_up(counts: Iterable[dict[str, float]]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for numbers in counts:
        total.update(numbers)
    return dict(total)
