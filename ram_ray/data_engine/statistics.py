"""Count what the data engine did to each tag, and how much of it was correct.

An annotation has both: the source of a tag, "mentioned" if an original caption or a person names it, else "added", and
its status, "kept" or the reason of its removal. Where the truth of an image is known (human labels, drawn scenes, or
hidden captions by `data.measure`), each tag is correct or wrong:

    precision of added tags   added, kept and true                    / added and kept
    recovered                 added, kept and true                    / true and unmentioned
    false removed             removed and false                       / false, mentioned or added
    true removed              removed and true                        / true, mentioned or added

The last two are also given for mentioned tags alone. Ray Data sums the counts of blocks by tag.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import TypedDict

import fsspec
import pyarrow as pa

from ram_ray.config import RunConfig
from ram_ray.evaluation_results import TagStatistics
from ram_ray.label_system import LabelSystem
from ram_ray.records import HUMAN
from ram_ray.results import Annotations, LabelSystemResult
from ram_ray.runtime.artifacts import Run, write_text
from ram_ray.runtime.rows import read_rows
from ram_ray.settings.section import StageSettings

TAG_STATISTICS = pa.schema(
    [
        ("tag", pa.int32()),
        ("source", pa.string()),  # mentioned | added; "truth" for rows that count the truth
        ("status", pa.string()),  # kept | a reason of removal; of the truth: mentioned | unmentioned
        ("images", pa.int64()),
        ("labelled", pa.int64()),  # of these, images whose truth is known
        ("correct", pa.int64()),  # of these, images on which the tag is true
    ]
)
KEYS = ["tag", "source", "status"]


class TagStatisticsRow(TypedDict):
    """A TAG_STATISTICS row."""

    tag: int
    source: str
    status: str
    images: int
    labelled: int
    correct: int


def count_block(block: pa.Table) -> pa.Table:
    """Count the tags of a block; rejected rows are skipped.

    Args:
        block: rows of `records.ANNOTATION`.

    Returns:
        TAG_STATISTICS rows, at most one for each tag, source and status.
    """
    images: Counter[tuple[int, str, str]] = Counter()
    labelled: Counter[tuple[int, str, str]] = Counter()
    correct: Counter[tuple[int, str, str]] = Counter()
    for row in block.to_pylist():
        if row["reason"] is not None:
            continue
        truth = row["truth"]
        originals = [caption for caption in row["captions"] or () if caption["origin"] == "original"]
        mentioned = {id for caption in originals for id in caption["tags"]}
        mentioned |= {tag["id"] for tag in row["tags"] or () if tag["origin"] == HUMAN}
        statuses = {removal["id"]: removal["reason"] for removal in row["removed"] or ()}
        statuses |= {tag["id"]: "kept" for tag in row["tags"] or ()}
        keys = [(id, "mentioned" if id in mentioned else "added", status) for id, status in statuses.items()]
        keys += [(id, "truth", "mentioned" if id in mentioned else "unmentioned") for id in truth or ()]
        images.update(keys)
        if truth is not None:
            labelled.update(keys)
            correct.update(key for key in keys if key[0] in truth)
    rows = [
        {**dict(zip(KEYS, key, strict=True)), "images": count, "labelled": labelled[key], "correct": correct[key]}
        for key, count in images.items()
    ]
    return pa.Table.from_pylist(rows, schema=TAG_STATISTICS)


def count_tag_statistics(
    run: Run, config: RunConfig, annotations: Annotations, labels: LabelSystemResult
) -> TagStatistics:
    """Count the tags of an annotation stage.

    Args:
        run: the run that gets the stage.
        config: of the run.
        annotations: ANNOTATION rows.
        labels: the label system.

    Returns:
        The shares of the tags; `read_tag_statistics` reads the rows.
    """
    inputs = [annotations, labels]
    stage = run.stage(f"tag_statistics_{annotations.stage}", TagStatistics, settings=StageSettings(), inputs=inputs)
    if stage.result:
        return stage.result
    system, execution = LabelSystem.load(labels.uri), config.execution
    columns = ["captions", "tags", "removed", "truth", "reason"]
    summed = (
        read_rows(annotations.path, execution=execution, columns=columns)
        .map_batches(count_block, batch_format="pyarrow", batch_size=None, num_cpus=execution.task_cpus)
        .groupby(KEYS, num_partitions=execution.resources.shuffle_partitions)
        .sum(["images", "labelled", "correct"])
    )
    rows: list[TagStatisticsRow] = [
        {
            "tag": row["tag"],
            "source": row["source"],
            "status": row["status"],
            "images": int(row["sum(images)"]),
            "labelled": int(row["sum(labelled)"]),
            "correct": int(row["sum(correct)"]),
        }
        for row in summed.iter_rows()  # a few for each tag
    ]
    rows.sort(key=lambda row: (row["tag"], row["source"], row["status"]))
    write_text(f"{stage.path}/statistics.json", json.dumps(rows))
    objects = [row for row in rows if system[row["tag"]].kind == "object"]
    return stage.finish(images=annotations.rows_out, shares=tag_shares(rows), objects=tag_shares(objects))


def read_tag_statistics(statistics: TagStatistics) -> list[TagStatisticsRow]:
    """Read the rows of a finished stage `tag_statistics`.

    Args:
        statistics: result of the stage.

    Returns:
        TAG_STATISTICS rows as dicts, ordered by tag.
    """
    with fsspec.open(f"{statistics.path}/statistics.json", "r") as file:
        return json.load(file)


def tag_shares(rows: Iterable[TagStatisticsRow]) -> dict[str, float | None]:
    """The shares of the module's table.

    Args:
        rows: TAG_STATISTICS rows.

    Returns:
        Shares by name, 0 to 1; None where the denominator is 0.
    """
    total: Counter[str] = Counter()
    for row in rows:
        correct, wrong = row["correct"], row["labelled"] - row["correct"]
        if row["source"] == "truth":
            total["unmentioned"] += row["images"] if row["status"] == "unmentioned" else 0
            continue
        for prefix in ("", "mentioned_") if row["source"] == "mentioned" else ("",):
            total[f"{prefix}true"] += correct
            total[f"{prefix}false"] += wrong
            total[f"{prefix}true_removed"] += correct if row["status"] != "kept" else 0
            total[f"{prefix}false_removed"] += wrong if row["status"] != "kept" else 0
        if row["source"] == "added" and row["status"] == "kept":
            total["added"] += row["labelled"]
            total["added_correct"] += correct
    return {
        "added_precision": _share(total["added_correct"], total["added"]),
        "recovered": _share(total["added_correct"], total["unmentioned"]),
        "false_removed": _share(total["false_removed"], total["false"]),
        "true_removed": _share(total["true_removed"], total["true"]),
        "mentioned_false_removed": _share(total["mentioned_false_removed"], total["mentioned_false"]),
        "mentioned_true_removed": _share(total["mentioned_true_removed"], total["mentioned_true"]),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
