"""Contract: what a stage counts is at the Prometheus endpoint of its node, with the labels of its run and stage and the
right values, whichever of Ray's workers counted it; and without Ray nothing is counted and Ray is not imported."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from ram_ray.runtime import metrics
from ram_ray.runtime.artifacts import Run, StageResult
from ram_ray.runtime.metrics import METRICS, Labels
from ram_ray.settings.data import Limits
from ram_ray.settings.runtime import Execution, ResourcesConfig
from ram_ray.settings.section import StageSettings

NUM_ROWS, NUM_BYTES, FILE_BYTES = 60, 10, 600
DEADLINE_S = 120.0
SCHEMA = pa.schema([(name, pa.string()) for name in ("key", "shard", "reason")])


class Rows(StageResult):
    rows: int


def exported(run: str) -> dict[tuple[str, ...], float]:
    """Our metrics of a run at the endpoints of all nodes: (name, stage, further values) -> value."""
    import ray

    values: dict[tuple[str, ...], float] = {}
    for node in ray.nodes():
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        for line in lines:
            if not line.startswith(metrics.EXPORTED) or f'run="{run}"' not in line:
                continue
            name, _, rest = line.partition("{")
            text, _, value = rest.rpartition("} ")
            labels = dict(part.split("=", 1) for part in text.split(","))
            further = [labels[key].strip('"') for key in ("operation", "reason", "le") if key in labels]
            key = (name, labels["stage"].strip('"'), *further)
            values[key] = values.get(key, 0.0) + float(value)
    return values


def wait_for(run: str, is_there: Callable[[dict[tuple[str, ...], float]], bool]) -> dict[tuple[str, ...], float]:
    """The metrics of a run, once Ray has passed on what is asked for."""
    deadline = time.monotonic() + DEADLINE_S
    while not is_there(values := exported(run)):
        assert time.monotonic() < deadline, values
        time.sleep(0.5)
    return values


@pytest.mark.slow  # waits for the reports of each worker, every ten seconds
def test_a_stage_is_seen_at_the_metrics_port_of_its_node(ray_cluster: None, tmp_path: Path) -> None:
    from ram_ray.data.fetch import read_bytes
    from ram_ray.runtime.annotate import annotate
    from ram_ray.runtime.artifacts import write_table
    from ram_ray.runtime.tasks import Task

    images = tmp_path / "images"
    images.write_bytes(bytes(FILE_BYTES))
    rows = {"key": [f"{number:03d}" for number in range(NUM_ROWS)], "number": list(range(NUM_ROWS))}
    write_table(pa.table({**rows, "shard": ["00000"] * NUM_ROWS}), f"{tmp_path}/source/rows.parquet")
    run = Run(f"{tmp_path}/seen_{time.time_ns()}")
    stage = run.stage("scores", Rows, settings=StageSettings(), inputs=[])
    uri, failures = str(images), f"{tmp_path}/failed"

    def score(block: pa.Table) -> pa.Table:
        numbers = block["number"].to_pylist()
        offsets = [NUM_BYTES * number for number in numbers]
        assert all(
            isinstance(data, bytes) for data in read_bytes([uri] * len(numbers), offsets, [NUM_BYTES] * len(numbers))
        )
        reasons = ["too_small" if number % 3 == 0 else "blurred" if number == 1 else None for number in numbers]
        return block.append_column("reason", pa.array(reasons, pa.string()))

    def fail_once() -> None:
        if not Path(failures).exists():
            Path(failures).touch()
            raise OSError("the storage is away")
        time.sleep(0.2)

    execution = Execution(
        ResourcesConfig(task_cpus=0.5), 20, Limits(min_side=1, max_pixels=10**6, max_bytes=10**6), "fp32"
    )
    annotate(
        stage,
        lambda dataset: dataset.map_batches(score, batch_format="pyarrow", num_cpus=0.5, batch_size=None),
        source=f"{tmp_path}/source",
        schema=SCHEMA,
        execution=execution,
        rows_in=NUM_ROWS,
        partitioned=False,
    )
    Task(fail_once, num_cpus=0.5).run()
    result = stage.finish(rows=NUM_ROWS)
    assert metrics.labels() != Labels(run.label, "scores"), "a closed stage counts nothing"

    prefix = metrics.EXPORTED + "stage_"
    rejected = (f"{prefix}rejected_total", "scores")
    expected = {
        (f"{prefix}rows_total", "scores"): NUM_ROWS,
        (f"{prefix}retries_total", "scores"): 1,
        (*rejected, "blurred"): 1,
        (*rejected, "too_small"): NUM_ROWS // 3,
        (f"{prefix}bytes_total", "scores", "read"): FILE_BYTES,
    }
    # each worker reports by itself, every ten seconds
    values = wait_for(run.label, lambda values: all(values.get(key) == value for key, value in expected.items()))
    assert 1 <= values[f"{prefix}requests_total", "scores", "read"] <= NUM_ROWS, "near ranges share a request"
    assert values[f"{prefix}cpu_seconds_total", "scores"] >= 0.1
    assert {key[1] for key in values} == {"scores"}

    assert result.used, "what a stage used is in its manifest"
    assert result.used.cpu_seconds >= 0.1 and result.used.gpu_seconds == 0
    assert (
        result.used.cpu_node_seconds == pytest.approx(result.seconds, rel=0.5, abs=3)
        and result.used.gpu_node_seconds == 0
    )
    again = Run(run.uri).stage("scores", Rows, settings=StageSettings(), inputs=[])
    assert again.result == result


def test_without_ray_nothing_is_counted_and_ray_is_not_imported() -> None:
    script = """
import sys, threading
from ram_ray.runtime import metrics, usage
metrics.set_labels(metrics.Labels("run", "stage"))
metrics.count(metrics.ROWS, 5)
metrics.count_request("read", num_bytes=5)
metrics.observe(metrics.STEP, 1.0)
metrics.set_gauge(metrics.RATE, 1.0)
metrics.flush()
usage.open_stage(metrics.Labels("run", "stage"))
usage.add(cpus=1, gpus=1, seconds=1)
usage.send(wait=True)
assert usage.close_stage(metrics.Labels("run", "stage")) is None
assert threading.active_count() == 1 and "ray" not in sys.modules
"""
    completed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert completed.returncode == 0, completed.stderr


def test_a_count_costs_a_hot_loop_microseconds(ray_cluster: None) -> None:
    with metrics.labelled(Labels("bench", "bench")):
        started = time.thread_time()
        for _ in range(10_000):
            metrics.count(metrics.ROWS, 2)
        assert (time.thread_time() - started) / 10_000 < 50e-6


def test_names_and_labels_are_few() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert {label for metric in METRICS for label in metric.labels} == {"operation", "reason"}


def test_the_table_of_the_docs_is_that_of_the_code() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "cluster.md").read_text()
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        assert f"| `{metric.exported}` | {labels} | {metric.text} |\n" in page
    assert page.count("| `ray_ram_ray_") == len(METRICS)


def test_a_stage_has_used_what_the_stages_within_it_used(ray_cluster: None) -> None:
    from ram_ray.runtime import usage

    outer, inner = Labels("nested", "clean_1"), Labels("nested", "regions_1")
    usage.open_stage(outer)
    usage.open_stage(inner)
    usage.add(cpus=2, gpus=1, seconds=10)
    within = usage.close_stage(inner)
    usage.add(cpus=1, gpus=0, seconds=4)
    whole = usage.close_stage(outer)
    assert within and (within.cpu_seconds, within.gpu_seconds) == (20, 10)
    assert whole and (whole.cpu_seconds, whole.gpu_seconds) == (24, 10)
