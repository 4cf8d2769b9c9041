"""What the data engine did to each tag, and how much of it was right: counts by where a tag came from and went.

An annotation tells both. A tag is "said" if an original caption says it, whichever way it was read, else "added"; and
it is kept, or removed for a reason. Where the truth of a picture is known (human labels, a drawn scene, or hidden
captions by `data.measure`), each of these was right or wrong, and of what is true some was said and some was not:

    precision of what was added   added and kept, and true            / added and kept
    recovered                     added and kept, and true            / true, and not said
    false removed                 removed, and false                  / false, said or added
    true removed                  removed, and true                   / true, said or added
    said false removed            of the above what captions said: planted tags and false mentions; and so for true

A block counts in one pass; Ray Data adds blocks up by tag, so the driver meets rows of the label system's length.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import fsspec
import pyarrow as pa

from ram_ray.config import RunConfig
from ram_ray.data.ground_truth import truth_ids
from ram_ray.label_system import LabelSystem
from ram_ray.labels.stages import label_system_uri
from ram_ray.runtime.annotate import read_rows
from ram_ray.runtime.artifacts import Manifest, Run, write_text

TALLY = pa.schema(
    [
        ("tag", pa.int32()),
        ("source", pa.string()),  # said | added; "true" for rows that count the truth
        ("fate", pa.string()),  # kept | a reason of removal; of the truth: said | unsaid
        ("images", pa.int64()),
        ("judged", pa.int64()),  # of these, images whose truth is known
        ("right", pa.int64()),  # of these, images of which the tag is true
    ]
)
KEYS = ["tag", "source", "fate"]


def count_block(block: pa.Table, *, system: LabelSystem) -> pa.Table:
    """TALLY rows of a block of `records.ANNOTATION` rows; rejected rows are passed over.

    Args:
        block: ANNOTATION rows.
        system: the label system that ids are of.
    """
    images: Counter[tuple[int, str, str]] = Counter()
    judged: Counter[tuple[int, str, str]] = Counter()
    right: Counter[tuple[int, str, str]] = Counter()
    for row in block.to_pylist():
        if row["reason"] is not None:
            continue
        truth, _ = truth_ids(row["labels"], None, system)
        said = {id for one in row["captions"] or () if one["origin"] == "original" for id in one["tags"]}
        fates = {one["id"]: one["reason"] for one in row["removed"] or ()}
        fates |= {tag["id"]: "kept" for tag in row["tags"] or ()}
        keys = [(id, "said" if id in said else "added", fate) for id, fate in fates.items()]
        keys += [(id, "true", "said" if id in said else "unsaid") for id in truth or ()]
        images.update(keys)
        if truth is not None:
            judged.update(keys)
            right.update(key for key in keys if key[0] in truth)
    rows = [
        {**dict(zip(KEYS, key, strict=True)), "images": count, "judged": judged[key], "right": right[key]}
        for key, count in images.items()
    ]
    return pa.Table.from_pylist(rows, schema=TALLY)


def tally(run: Run, config: RunConfig, annotations: Manifest, labels: Manifest) -> Manifest:
    """Count an annotation stage by tag; the manifest has the figures, `read_tally` gives the rows.

    Args:
        run: gets the stage's folder.
        config: of the run.
        annotations: stage that left ANNOTATION rows.
        labels: stage that built the label system.
    """
    stage = run.stage(f"tally_{annotations.stage}", kind="evaluation", config={}, inputs=[annotations, labels])
    if stage.manifest:
        return stage.manifest
    system, cpus = LabelSystem.load(label_system_uri(labels.path)), config.resources.task_cpus
    columns = ["captions", "tags", "removed", "labels", "reason"]
    summed = (
        read_rows(annotations.path, run=config, columns=columns)
        .map_batches(
            lambda block: count_block(block, system=system), batch_format="pyarrow", batch_size=None, num_cpus=cpus
        )
        .groupby(KEYS, num_partitions=config.resources.shuffle_partitions)
        .sum(["images", "judged", "right"])
    )
    rows = [
        {
            **{key: row[key] for key in KEYS},
            **{name: int(row[f"sum({name})"]) for name in ("images", "judged", "right")},
        }
        for row in summed.iter_rows()  # some a tag
    ]
    rows.sort(key=lambda row: [row[key] for key in KEYS])
    write_text(f"{stage.path}/tally.json", json.dumps(rows))
    objects = [row for row in rows if system[row["tag"]].kind == "object"]
    return stage.finish(images=annotations.counts["rows_out"], **figures(rows), objects=figures(objects))


def read_tally(manifest: Manifest) -> list[dict[str, Any]]:
    """TALLY rows of a finished `tally`, ordered by tag."""
    with fsspec.open(f"{manifest.path}/tally.json", "r") as file:
        return json.load(file)


def figures(rows: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
    """The shares of TALLY rows; None where there is nothing to have a share of."""
    total: Counter[str] = Counter()
    for row in rows:
        right, wrong = row["right"], row["judged"] - row["right"]
        if row["source"] == "true":
            total["unsaid"] += row["images"] if row["fate"] == "unsaid" else 0
            continue
        for of in ("", "said_") if row["source"] == "said" else ("",):
            total[f"{of}true"] += right
            total[f"{of}false"] += wrong
            total[f"{of}true_gone"] += right if row["fate"] != "kept" else 0
            total[f"{of}false_gone"] += wrong if row["fate"] != "kept" else 0
        if row["source"] == "added" and row["fate"] == "kept":
            total["added"] += row["judged"]
            total["added_right"] += right
    return {
        "added_precision": _share(total["added_right"], total["added"]),
        "recovered": _share(total["added_right"], total["unsaid"]),
        "false_removed": _share(total["false_gone"], total["false"]),
        "true_removed": _share(total["true_gone"], total["true"]),
        "said_false_removed": _share(total["said_false_gone"], total["said_false"]),
        "said_true_removed": _share(total["said_true_gone"], total["said_true"]),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
