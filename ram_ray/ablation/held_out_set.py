"""A run's held-out images as an evaluation set, and the benchmark of several models on it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

import fsspec
import pyarrow as pa

from ram_ray.config import RunConfig
from ram_ray.data.ground_truth import true_tags
from ram_ray.evaluation.benchmark import SetResult
from ram_ray.evaluation.benchmark_report import build_tree, to_markdown
from ram_ray.evaluation.measure_scores import Measuring
from ram_ray.evaluation.sets.prepare import EvalSet
from ram_ray.evaluation.sets.rows import SET_ROW
from ram_ray.label_system import LabelSystem
from ram_ray.reporting.benchmark_page import benchmark_page
from ram_ray.results import Annotations
from ram_ray.runtime.artifacts import write_text
from ram_ray.runtime.rows import read_rows, write_rows
from ram_ray.runtime.storage import remove_folder

logger = logging.getLogger(__name__)

SET_NAME = "held_out"


def make_set(held_out: Annotations, labels: LabelSystem, folder: str, *, config: RunConfig) -> EvalSet:
    """Make an evaluation set of a run's held-out images, with its labels as classes.

    Args:
        held_out: rows of the stage `labels_eval`.
        labels: of the run.
        folder: for the rows; what an earlier call left is replaced.
        config: of the run.

    Returns:
        The set.
    """
    import ray.data

    execution, names = config.execution, class_names(labels)

    def to_set_rows(block: pa.Table) -> pa.Table:
        rows = []
        for row in block.to_pylist():
            true = None if row["reason"] else true_tags(row["truth"], row["captions"])
            if true is not None:
                columns = {name: row[name] for name in ("key", "uri", "offset", "nbytes")}
                rows.append({**columns, "truth": [names[id] for id in sorted(true)], "ignored": []})
        return pa.Table.from_pylist(rows, schema=SET_ROW)

    remove_folder(*fsspec.url_to_fs(folder))
    rows = read_rows(held_out.path, execution=execution).map_batches(
        to_set_rows, batch_format="pyarrow", batch_size=None, num_cpus=execution.task_cpus
    )
    write_rows(rows, folder, execution=execution)
    images = ray.data.read_parquet(f"{folder}/", file_extensions=["parquet"]).count()
    return EvalSet(
        name=SET_NAME,
        folder=folder,
        identity=f"{held_out.digest}-{labels.version}",
        images=images,
        rejected=held_out.rows_out - images,
        has_images=True,
        classes=names,
        synonyms=[[] for _ in names],
    )


def class_names(labels: LabelSystem) -> list[str]:
    """Name the classes: labels of several kinds that share a name have it with their kind, as "orange (object)".

    Args:
        labels: of a run.

    Returns:
        Different names, in the order of ids.
    """
    shared = [label.name for label in labels.labels]
    return [f"{label.name} ({label.kind})" if shared.count(label.name) > 1 else label.name for label in labels.labels]


def write_benchmark(results: Sequence[SetResult], measuring: Measuring, folder: str) -> None:
    """Write benchmark.json, benchmark.md and benchmark.html.

    Args:
        results: of the sets.
        measuring: how they were measured.
        folder: path or URI.
    """
    tree = build_tree(results, measuring)
    write_text(f"{folder}/benchmark.json", json.dumps(tree, indent=1, ensure_ascii=False))
    write_text(f"{folder}/benchmark.md", to_markdown(tree))
    write_text(f"{folder}/benchmark.html", benchmark_page(tree))
    logger.info("written: %s/benchmark.html, benchmark.md, benchmark.json", folder)
