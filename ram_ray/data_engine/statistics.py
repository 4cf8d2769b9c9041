"""Count what the data engine did to each tag, and how much of it was right.

An annotation has both: the source of a tag, "said" if an original caption mentions it, else "added", and its fate,
"kept" or the reason of its removal. Where the truth of an image is known (human labels, drawn scenes, or hidden
captions by `data.measure`), each tag is right or wrong:

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
from ram_ray.label_system import LabelSystem
from ram_ray.results import Annotations, LabelSystemResult, Tally
from ram_ray.runtime.annotate import read_rows
from ram_ray.runtime.artifacts import Run, write_text
from ram_ray.settings.section import StageSettings

TALLY = pa.schema(
    [
        ("tag", pa.int32()),
        ("source", pa.string()),  # said (mentioned) | added; "true" for rows that count the truth
        ("fate", pa.string()),  # kept | a reason of removal; of the truth: said | unsaid (mentioned or not)
        ("images", pa.int64()),
        ("judged", pa.int64()),  # of these, images whose truth is known
        ("right", pa.int64()),  # of these, images on which the tag is true
    ]
)
KEYS = ["tag", "source", "fate"]


class TallyRow(TypedDict):
    """A TALLY row."""

    tag: int
    source: str
    fate: str
    images: int
    judged: int
    right: int


def count_block(block: pa.Table) -> pa.Table:
    """Count the tags of a block; rejected rows are skipped.

    Args:
        block: rows of `records.ANNOTATION`.

    Returns:
        TALLY rows, at most one for each tag, source and fate.
    """
    images: Counter[tuple[int, str, str]] = Counter()
    judged: Counter[tuple[int, str, str]] = Counter()
    right: Counter[tuple[int, str, str]] = Counter()
    for row in block.to_pylist():
        if row["reason"] is not None:
            continue
        truth = row["truth"]
        originals = [caption for caption in row["captions"] or () if caption["origin"] == "original"]
        mentioned = {id for caption in originals for id in caption["tags"]}
        fates = {removal["id"]: removal["reason"] for removal in row["removed"] or ()}
        fates |= {tag["id"]: "kept" for tag in row["tags"] or ()}
        keys = [(id, "said" if id in mentioned else "added", fate) for id, fate in fates.items()]
        keys += [(id, "true", "said" if id in mentioned else "unsaid") for id in truth or ()]
        images.update(keys)
        if truth is not None:
            judged.update(keys)
            right.update(key for key in keys if key[0] in truth)
    rows = [
        {**dict(zip(KEYS, key, strict=True)), "images": count, "judged": judged[key], "right": right[key]}
        for key, count in images.items()
    ]
    return pa.Table.from_pylist(rows, schema=TALLY)


def count_tags_by_fate(run: Run, config: RunConfig, annotations: Annotations, labels: LabelSystemResult) -> Tally:
    """Count the tags of an annotation stage.

    Args:
        run: the run that gets the stage.
        config: of the run.
        annotations: ANNOTATION rows.
        labels: the label system.

    Returns:
        The shares of the tags; `read_tag_counts` reads the rows.
    """
    inputs = [annotations, labels]
    stage = run.stage(f"tally_{annotations.stage}", Tally, settings=StageSettings(), inputs=inputs)
    if stage.result:
        return stage.result
    system, execution = LabelSystem.load(labels.uri), config.execution
    columns = ["captions", "tags", "removed", "truth", "reason"]
    summed = (
        read_rows(annotations.path, execution=execution, columns=columns)
        .map_batches(count_block, batch_format="pyarrow", batch_size=None, num_cpus=execution.task_cpus)
        .groupby(KEYS, num_partitions=execution.resources.shuffle_partitions)
        .sum(["images", "judged", "right"])
    )
    rows: list[TallyRow] = [
        {
            "tag": row["tag"],
            "source": row["source"],
            "fate": row["fate"],
            "images": int(row["sum(images)"]),
            "judged": int(row["sum(judged)"]),
            "right": int(row["sum(right)"]),
        }
        for row in summed.iter_rows()  # a few for each tag
    ]
    rows.sort(key=lambda row: (row["tag"], row["source"], row["fate"]))
    write_text(f"{stage.path}/tally.json", json.dumps(rows))
    objects = [row for row in rows if system[row["tag"]].kind == "object"]
    return stage.finish(images=annotations.rows_out, shares=tally_shares(rows), objects=tally_shares(objects))


def read_tag_counts(tally: Tally) -> list[TallyRow]:
    """Read the rows of a finished `tally`.

    Args:
        tally: result of the stage.

    Returns:
        TALLY rows as dicts, ordered by tag.
    """
    with fsspec.open(f"{tally.path}/tally.json", "r") as file:
        return json.load(file)


def tally_shares(rows: Iterable[TallyRow]) -> dict[str, float | None]:
    """The shares of the module's table.

    Args:
        rows: TALLY rows.

    Returns:
        Shares by name, 0 to 1; None where the denominator is 0.
    """
    total: Counter[str] = Counter()
    for row in rows:
        right, wrong = row["right"], row["judged"] - row["right"]
        if row["source"] == "true":
            total["unsaid"] += row["images"] if row["fate"] == "unsaid" else 0
            continue
        for prefix in ("", "said_") if row["source"] == "said" else ("",):
            total[f"{prefix}true"] += right
            total[f"{prefix}false"] += wrong
            total[f"{prefix}true_removed"] += right if row["fate"] != "kept" else 0
            total[f"{prefix}false_removed"] += wrong if row["fate"] != "kept" else 0
        if row["source"] == "added" and row["fate"] == "kept":
            total["added"] += row["judged"]
            total["added_right"] += right
    return {
        "added_precision": _share(total["added_right"], total["added"]),
        "recovered": _share(total["added_right"], total["unsaid"]),
        "false_removed": _share(total["false_removed"], total["false"]),
        "true_removed": _share(total["true_removed"], total["true"]),
        "said_false_removed": _share(total["said_false_removed"], total["said_false"]),
        "said_true_removed": _share(total["said_true_removed"], total["said_true"]),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
