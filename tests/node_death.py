"""One stage on a head without CPUs and two nodes of which the larger is killed in the middle; then a third one comes.

    python tests/node_death.py STAGE FOLDER [BUNDLE]

Prints one JSON object: rows that the stage left, whether each key is there once, and whether the third node worked.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.cluster_utils import Cluster

from ram_ray.config import RunConfig, load
from ram_ray.label_system import Label, LabelSystem
from ram_ray.records import ANNOTATION, SAMPLE, to_table
from ram_ray.results import Annotations, DualEncoderResult, LabelSystemResult
from ram_ray.runtime.artifacts import Run, StageResult
from ram_ray.runtime.cluster import configure_data
from tests import tiny
from tests.stage_results import annotations_result, label_system_result, samples_result, trained_model

SETS = ["data.rows_per_block=25", "data.min_side=16", "resources.actors=2", "resources.shuffle_partitions=8"]
ROWS = {"parse": 3000, "generate": 600, "clean": 600}
FILES_BEFORE = {"parse": 3, "generate": 2, "clean": 2}  # of the stage's output, when the node is killed
SECONDS = 240


def main(stage: str, folder: Path, bundle: str) -> None:
    """See the module."""
    rows = ROWS[stage]
    node = {"object_store_memory": 200_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **node})
    cluster.add_node(num_cpus=1, **node)
    larger = cluster.add_node(num_cpus=2, **node)
    ray.init(address=cluster.address, logging_level="WARNING")
    configure_data()
    config, run = load(sets=SETS), Run(str(folder / "run"))
    work: Callable[[], StageResult] = {"parse": parse, "generate": generate, "clean": clean}[stage](
        run, config, folder, bundle, rows
    )
    result: list[StageResult] = []
    thread = threading.Thread(target=lambda: result.append(work()), daemon=True)
    thread.start()
    wait_for(lambda: len(list(folder.glob("run/annotations/*/*/shard=*/*.parquet"))) >= FILES_BEFORE[stage], thread)
    cluster.remove_node(larger, allow_graceful=False)
    cut_off = thread.is_alive()
    third = cluster.add_node(num_cpus=2, **node)
    worked = wait_for(lambda: is_busy(third.node_id), thread)
    thread.join(SECONDS)
    assert result, "the stage did not end"
    print(json.dumps({**summary(result[0]), "cut_off": cut_off, "third_node_worked": worked}), flush=True)
    ray.shutdown()
    cluster.shutdown()


def wait_for(condition: Callable[[], bool], thread: threading.Thread) -> bool:
    """Wait until it holds or the stage has ended; whether it holds."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and thread.is_alive():
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def is_busy(node: str) -> bool:
    """Whether some of the node's CPUs are in use."""
    from ray._private.state import available_resources_per_node

    resources = available_resources_per_node().get(node)
    return resources is not None and resources.get("CPU", 0) < 2


def summary(stage_result: StageResult) -> dict[str, Any]:
    """Rows of a stage, and whether their keys differ."""
    files = sorted(Path(stage_result.path).rglob("*.parquet"))
    keys = [key for file in files for key in pq.read_table(file, columns=["key"], partitioning=None)["key"].to_pylist()]
    return {"rows": len(keys), "once": len(set(keys)) == len(keys), "rows_out": getattr(stage_result, "rows_out", None)}


def parse(run: Run, config: RunConfig, folder: Path, _: str, rows: int) -> Callable[[], StageResult]:
    """Captions to parse."""
    from ram_ray.labels import parse_stage

    text = "a brown dog and two small children are running on the wet beach behind an old red boat"
    path = write(folder, [{**place(number), "captions": [f"{text} {number}"]} for number in range(rows)], SAMPLE)
    samples = samples_result(path, num_rows=rows)
    return lambda: parse_stage.parse(run, config, samples)


def generate(run: Run, config: RunConfig, folder: Path, bundle: str, rows: int) -> Callable[[], StageResult]:
    """Images to write captions for."""
    from ram_ray.data_engine.score_stage import score

    annotations, labels = write_images(folder, rows)
    scoring_models = [trained_model(bundle, image_size=32)]
    return lambda: score(run, config, annotations, scoring_models, labels, round=1)


def clean(run: Run, config: RunConfig, folder: Path, bundle: str, rows: int) -> Callable[[], StageResult]:
    """Images whose tags are measured; then the decision in plain tasks."""
    from ram_ray.data_engine.clean_stages import clean as stage

    annotations, labels = write_images(folder, rows)
    scoring_models = [trained_model(bundle, image_size=32)]
    source = f"{Path(bundle).parent}/teacher"
    teacher = DualEncoderResult(stage="represent", digest="2", path="", seconds=0.0, source=source, revision=None)
    return lambda: stage(run, config, annotations, scoring_models, labels, teacher, round=1)


def write_images(folder: Path, rows: int) -> tuple[Annotations, LabelSystemResult]:
    """Annotations of JPEGs in one file, and a label system."""
    data = [tiny.jpeg(seed) for seed in range(20)]
    (folder / "images.bin").write_bytes(b"".join(data))
    starts = [sum(map(len, data[:number])) for number in range(20)]
    made = []
    for number in range(rows):
        where = {"uri": str(folder / "images.bin"), "offset": starts[number % 20], "nbytes": len(data[number % 20])}
        tags = [{"id": number % 6, "origin": "parsed", "score": 1.0}]
        caption = {"text": "a dog", "origin": "original", "tags": [number % 6], "sources": ["parsed"]}
        made.append({**place(number), **where, "captions": [caption], "tags": tags, "removed": []})
    annotations = annotations_result(write(folder, made, ANNOTATION), num_rows=rows)
    system = folder / "labels"
    labels = LabelSystem(Label(number, name, "object") for number, name in enumerate(tiny.NAMES))
    labels.save(str(system / "label_system.json"))
    return annotations, label_system_result(str(system), num_labels=len(tiny.NAMES))


def place(number: int) -> dict[str, Any]:
    """The columns that every row has."""
    shard = f"part{number % 4}"
    return {"key": f"{shard}/{number}", "shard": shard, "uri": "", "offset": 0, "nbytes": 1}


def write(folder: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> str:
    """Write rows as a stage leaves them; the path of their folder."""
    path = folder / "input"
    for shard in sorted({row["shard"] for row in rows}):
        part = to_table([row for row in rows if row["shard"] == shard], schema).drop_columns(["shard"])
        (path / f"shard={shard}").mkdir(parents=True)
        pq.write_table(part, path / f"shard={shard}" / "rows.parquet")
    return str(path)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:4] or [""])
