"""Contract: a stage counts what it writes while it writes it, each row once, whatever is tried again; a stage that was
ended after its first rows counts all its rows when it is run again."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from ram_ray.data.images import Limits
from ram_ray.runtime import annotate as module
from ram_ray.runtime.annotate import annotate
from ram_ray.runtime.artifacts import Run, Stage, StageResult, write_table
from ram_ray.runtime.rows import Counted
from ram_ray.settings.runtime import Execution, ResourcesConfig
from ram_ray.settings.section import StageSettings

NUM_ROWS, BLOCK = 60, 10
SCHEMA = pa.schema([(name, pa.string()) for name in ("key", "shard", "reason", "detail")] + [("number", pa.int64())])
EXECUTION = Execution(
    ResourcesConfig(task_cpus=0.5), BLOCK, Limits(min_side=1, max_pixels=10**6, max_bytes=10**6), "fp32"
)


class Rows(StageResult):
    """Rows of the test."""

    rows: int


def write_source(folder: Path) -> None:
    numbers = list(range(NUM_ROWS))
    columns = {"key": [f"{number:03d}" for number in numbers], "number": numbers}
    write_table(
        pa.table({**columns, "shard": [f"s{number % 2}" for number in numbers]}), f"{folder}/source/rows.parquet"
    )


def judge(block: pa.Table) -> pa.Table:
    """Reject a third of the rows."""
    numbers = block["number"].to_pylist()
    reasons = ["too_small" if number % 3 == 0 else "blurred" if number == 1 else None for number in numbers]
    block = block.append_column("reason", pa.array(reasons, pa.string()))
    return block.append_column("detail", pa.array([None] * len(block), pa.string()))


def count(block: pa.Table) -> dict[str, float]:
    return {"rows": len(block), "sum": sum(block["number"].to_pylist())}


def run_stage(stage: Stage[Rows], folder: Path, transform, counted: Counted | None = None) -> dict[str, float]:
    return annotate(
        stage,
        lambda dataset: dataset.map_batches(transform, batch_format="pyarrow", num_cpus=0.5, batch_size=None),
        source=f"{folder}/source",
        schema=SCHEMA,
        execution=EXECUTION,
        rows_in=NUM_ROWS,
        count=counted,
        partitioned=False,
    )


def new_stage(folder: Path, name: str) -> Stage[Rows]:
    return Run(f"{folder}/run").stage(name, Rows, settings=StageSettings(), inputs=[])


def written_keys(stage: Stage[Rows]) -> list[str]:
    return sorted(ds.dataset(stage.path, format="parquet").to_table(columns=["key"])["key"].to_pylist())


def test_rows_are_counted_where_they_are_written(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_pass(*args: object, **kwargs: object) -> None:
        raise AssertionError("a pass over the rows")

    monkeypatch.setattr(module, "sum_blocks", no_pass)
    write_source(tmp_path)
    marker = f"{tmp_path}/failed"

    def fail_once(block: pa.Table) -> pa.Table:
        if block["number"][0].as_py() == 20 and not Path(marker).exists():
            Path(marker).touch()
            raise OSError("the storage is away")  # Ray Data tries the task again
        return judge(block)

    stage = new_stage(tmp_path, "scores")
    counts = run_stage(stage, tmp_path, fail_once)
    assert Path(marker).exists() and written_keys(stage) == [f"{number:03d}" for number in range(NUM_ROWS)]
    assert counts.pop("rows") == NUM_ROWS and counts.pop("rejected") == 21
    assert sorted(counts.values()) == [1, 20], "one reason has one row, the other twenty"


def test_a_stage_that_was_ended_counts_all_its_rows_when_it_is_run_again(ray_cluster: None, tmp_path: Path) -> None:
    write_source(tmp_path)
    stage, counted = new_stage(tmp_path, "ended"), Counted(count, ("key", "number"))

    def end(block: pa.Table) -> pa.Table:
        if block["number"][0].as_py() >= 40:
            raise ValueError("the end")
        return judge(block)

    with pytest.raises(Exception, match="the end"):
        run_stage(stage, tmp_path, end, counted)
    first = written_keys(stage)
    assert 0 < len(first) < NUM_ROWS
    counts = run_stage(new_stage(tmp_path, "ended"), tmp_path, judge, counted)
    assert counts == {"rows": NUM_ROWS, "sum": sum(range(NUM_ROWS))}
    assert written_keys(stage) == [f"{number:03d}" for number in range(NUM_ROWS)], "every row once"
