"""The stages `parse` and `labels`: captions to tags by name, names to a label system, names to ids.

Counting is a Ray Data aggregation, so what the driver receives grows with the vocabulary and not with the
captions.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from ram_ray.annotate import annotate, read_rows, sum_blocks
from ram_ray.artifacts import Manifest, Run
from ram_ray.config import LabelsConfig, RunConfig
from ram_ray.evaluation.evaluate import tag_counts
from ram_ray.label_system import LabelSystem
from ram_ray.labels.build import build_label_system
from ram_ray.labels.parser import CaptionParser
from ram_ray.records import ANNOTATION, PARSED, to_table


class ParseActor:
    """Ray Data actor: `records.SAMPLE` rows to `records.PARSED` rows."""

    def __init__(self, config: LabelsConfig) -> None:
        self._parser = CaptionParser(config.parser, max_chars=config.max_caption_chars)

    def __call__(self, block: pa.Table) -> pa.Table:
        rows = block.to_pylist()
        captions = [text for row in rows for text in row["captions"]]
        tags = iter(self._parser.parse(captions))
        for row in rows:
            row["parsed"] = [
                {"caption": place, "name": tag.name, "kind": tag.kind}
                for place in range(len(row["captions"]))
                for tag in dict.fromkeys(next(tags))
            ]
        return to_table(rows, PARSED)


def parse(run: Run, config: RunConfig, samples: Manifest, *, name: str = "parse") -> Manifest:
    """Tags of every caption, by name and kind."""
    identity = {"parser": config.labels.parser, "max_caption_chars": config.labels.max_caption_chars}
    stage = run.stage(name, kind="annotations", config=identity, inputs=[samples])
    if stage.manifest:
        return stage.manifest
    CaptionParser(config.labels.parser)  # a missing pipeline is the user's mistake: say so before any task starts
    resources = config.resources
    annotate(
        stage,
        lambda dataset: dataset.map_batches(
            ParseActor,
            fn_constructor_args=(config.labels,),
            batch_format="pyarrow",
            batch_size=config.data.rows_per_block,
            num_cpus=resources.actor_cpus,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=resources.actors),
        ),
        source=samples.path,
        schema=PARSED,
        run=config,
        rows_in=samples.counts["rows_out"],
    )
    counts = sum_blocks(read_rows(stage.path, run=config), _count_parsed, run=config)
    images = int(counts["rows"])
    _balance(stage.name, rows_in=samples.counts["rows_out"], rows_out=images, rejected=0)
    return stage.finish(rows_in=images, rows_out=images, rejected=0, images=images, tags=int(counts["tags"]))


def build_labels(run: Run, config: RunConfig, parsed: Manifest) -> Manifest:
    """A frozen label system from the counts of parsed tags, at `labels/label_system.json` and in the run's root."""
    identity = config.labels.model_dump(mode="json", include={"max_labels", "min_count", "kinds"})
    stage = run.stage("label_system", kind="annotations", config=identity, inputs=[parsed])
    if stage.manifest:
        return stage.manifest
    counts = (
        read_rows(parsed.path, run=config, columns=["parsed", "reason"])
        .map_batches(_count_names, batch_format="pyarrow", batch_size=None, num_cpus=config.resources.task_cpus)
        .groupby(["name", "kind"], num_partitions=config.resources.shuffle_partitions)
        .sum("count")
    )
    system = build_label_system(
        ((row["name"], row["kind"], row["sum(count)"]) for row in counts.iter_rows()),
        max_labels=config.labels.max_labels,
        min_count=config.labels.min_count,
        kinds=config.labels.kinds,
    )
    run.fs.makedirs(run.fs._strip_protocol(stage.path), exist_ok=True)
    system.save(label_system_uri(stage.path))
    run.write_text("label_system.json", system.to_json())
    return stage.finish(labels=len(system), version=system.version)


def label_system_uri(path: str) -> str:
    """Where a `label_system` stage keeps it."""
    return f"{path}/label_system.json"


def label(run: Run, config: RunConfig, parsed: Manifest, labels: Manifest, *, name: str = "labels") -> Manifest:
    """Parsed names to ids of the label system: the first annotations."""
    stage = run.stage(name, kind="annotations", config={}, inputs=[parsed, labels])
    if stage.manifest:
        return stage.manifest
    system = ray.put(LabelSystem.load(label_system_uri(labels.path)))

    def to_ids(block: pa.Table) -> pa.Table:
        return to_annotations(block, ray.get(system))

    annotate(
        stage,
        lambda dataset: dataset.map_batches(
            to_ids, batch_format="pyarrow", batch_size=None, num_cpus=config.resources.task_cpus
        ),
        source=parsed.path,
        schema=ANNOTATION,
        run=config,
        rows_in=parsed.counts["rows_out"],
    )
    counts = annotation_counts(stage.path, config=config, system=ray.get(system))
    _balance(stage.name, rows_in=parsed.counts["rows_out"], rows_out=counts["images"], rejected=0)
    return stage.finish(rows_in=counts["images"], rows_out=counts["images"], rejected=0, **counts)


def to_annotations(block: pa.Table, system: LabelSystem) -> pa.Table:
    """`records.PARSED` rows to `records.ANNOTATION` rows; names outside the label system are left out."""
    rows = []
    for row in block.to_pylist():
        ids: list[list[int]] = [[] for _ in row["captions"]]
        for tag in row.pop("parsed"):
            id = system.find(tag["name"], tag["kind"])
            if id is not None and id not in ids[tag["caption"]]:
                ids[tag["caption"]].append(id)
        captions = [
            {"text": text, "origin": "original", "tags": found}
            for text, found in zip(row["captions"], ids, strict=True)
        ]
        union = list(dict.fromkeys(id for found in ids for id in found))
        kept = {name: row[name] for name in ANNOTATION.names if name in row}
        tags = [{"id": id, "origin": "parsed", "score": 1.0} for id in union]
        rows.append({**kept, "captions": captions, "tags": tags, "removed": []})
    return to_table(rows, ANNOTATION)


def annotation_counts(path: str, *, config: RunConfig, system: LabelSystem) -> dict[str, Any]:
    """Images, tags and, where rows carry human labels, how true the tags are: tp, fp, fn."""
    reference = ray.put(system)

    def count(block: pa.Table) -> dict[str, float]:
        return {
            "rejected_rows": len(block) - block["reason"].null_count,
            **tag_counts(block, system=ray.get(reference)).to_pylist()[0],
        }

    columns = ["captions", "tags", "labels", "reason"]
    sums = sum_blocks(read_rows(path, run=config, columns=columns), count, run=config)
    return {name: int(value) for name, value in sums.items()}


def _count_parsed(block: pa.Table) -> dict[str, float]:
    tags = [{(tag["name"], tag["kind"]) for tag in row} for row in block["parsed"].to_pylist()]
    return {"rows": len(block), "tags": sum(len(one) for one in tags)}


def _count_names(block: pa.Table) -> pa.Table:
    counts = Counter(
        (tag["name"], tag["kind"])
        for row, reason in zip(block["parsed"].to_pylist(), block["reason"].to_pylist(), strict=True)
        if reason is None
        for tag in row
    )
    names, kinds = zip(*counts, strict=True) if counts else ((), ())
    return pa.table(
        {
            "name": pa.array(names, pa.string()),
            "kind": pa.array(kinds, pa.string()),
            "count": pa.array(np.array(list(counts.values()), dtype=np.int64)),
        }
    )


def _balance(stage: str, *, rows_in: int, rows_out: int, rejected: int) -> None:
    assert rows_in == rows_out + rejected, f"{stage}: {rows_in} rows in, {rows_out} out, {rejected} rejected"
