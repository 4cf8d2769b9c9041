"""What there is to look at of each class: its curve, how far its scores can be trusted, images, and confusions.

All of it is computed from a folder of scores in two passes: one over blocks of classes (curves, reliability, which
images), and one over parts (`confusions`, and the other tags of those images). A process holds one block or one part,
and the counts of pairs of classes; the driver holds what is written, a few kilobytes a class. What is left is one
Parquet file, the class with the lowest AP first, so the scores may be deleted.

Letters: N images, C classes, b classes of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ram_ray.evaluation.class_curves import Reliability, measure_reliability, precision_recall, thin_curve
from ram_ray.evaluation.confusions import NUM_TASKS, ImageTags, Together, count_together, find_confusions
from ram_ray.evaluation.metrics import average_precision
from ram_ray.evaluation.score_files import ClassBlock, num_blocks, part_files, read_block
from ram_ray.evaluation.sets.prepare import RunTasks, in_this_process
from ram_ray.label_system import is_present
from ram_ray.records import Json
from ram_ray.runtime.artifacts import write_bytes
from ram_ray.runtime.location import locate

Group = Literal["right", "missed", "wrong"]
GROUPS: tuple[Group, ...] = get_args(Group)
MAX_PER_GROUP = 6  # images of a class and group
MAX_IMAGES = 12_000  # of all classes; with more classes than that has room for, each still has one of each group
CLASSES_FILE = "classes.parquet"  # in the folder of a stage
ROWS_PER_GROUP = 100  # classes that a reader holds at once

_NAMED_SCORE = pa.struct([("class", pa.string()), ("score", pa.float32()), ("true", pa.bool_())])
CLASS_DETAIL = pa.schema(
    [
        ("index", pa.int32()),
        ("class", pa.string()),
        ("num_images", pa.int64()),  # that count for the class
        ("num_positives", pa.int64()),
        ("ap", pa.float64()),  # NaN without positives
        ("threshold", pa.float64()),
        ("tp", pa.int64()),
        ("fp", pa.int64()),
        ("fn", pa.int64()),
        ("recall", pa.list_(pa.float64())),  # of the drawn curve, with `precision`
        ("precision", pa.list_(pa.float64())),
        # Of each range of scores; null: the scores are no probabilities.
        ("counts", pa.list_(pa.int64())),
        ("score_sums", pa.list_(pa.float64())),
        ("positives", pa.list_(pa.int64())),
        (
            "images",
            pa.list_(
                pa.struct(
                    [
                        ("group", pa.string()),  # one of GROUPS
                        ("key", pa.string()),
                        ("score", pa.float32()),
                        ("predicted", pa.bool_()),
                        ("true", pa.list_(pa.string())),  # its other true classes
                        ("others", pa.list_(_NAMED_SCORE)),  # its other predicted classes; `true` null: not known
                    ]
                )
            ),
        ),
        (
            "confusions",
            pa.list_(
                pa.struct(
                    [("class", pa.string()), ("count", pa.int64()), ("right", pa.int64()), ("lift", pa.float64())]
                )
            ),
        ),
    ]
)


def images_per_group(num_classes: int) -> int:
    """How many images of a class and group are selected.

    Args:
        num_classes: C.

    Returns:
        1 to `MAX_PER_GROUP`.
    """
    return max(1, min(MAX_PER_GROUP, MAX_IMAGES // (len(GROUPS) * max(1, num_classes))))


def describe_classes(
    folder: str, *, names: Sequence[str], thresholds: np.ndarray, run_tasks: RunTasks = in_this_process
) -> list[Json]:
    """Describe each class of a folder of scores.

    Args:
        folder: path or URI; its manifest is not read.
        names: of the C classes, in the order of the columns.
        thresholds: (C,) float32, from which a class is predicted.
        run_tasks: runs the work on blocks and parts.

    Returns:
        CLASS_DETAIL rows in the order of the classes.
    """
    describe = partial(_describe_block, folder=folder, thresholds=thresholds)
    rows: list[Json] = [row for block in run_tasks(describe, range(num_blocks(len(names)))) for row in block]
    paths = part_files(folder)
    groups = [paths[start::NUM_TASKS] for start in range(min(NUM_TASKS, len(paths)))]
    keys = {image["key"] for row in rows for image in row["images"]}
    together = Together.of_classes(len(names))
    for counted in run_tasks(partial(count_together, thresholds=thresholds, keys=keys), groups):
        together.add(counted)
    for row in rows:
        row["class"] = names[row["index"]]
        row["confusions"] = [
            {"class": names[it.index], "count": it.count, "right": it.right, "lift": it.lift}
            for it in find_confusions(together, row["index"])
        ]
        for image in row["images"]:
            image |= _other_tags(together.tags[image["key"]], row["index"], names)
    return rows


def _describe_block(block: int, *, folder: str, thresholds: np.ndarray) -> list[Json]:
    content = read_block(folder, block, num_classes=len(thresholds))
    each = images_per_group(len(thresholds))
    return [
        describe_class(content, column, threshold=thresholds[content.first + column], per_group=each)
        for column in range(content.scores.shape[1])
    ]


def describe_class(block: ClassBlock, column: int, *, threshold: float, per_group: int) -> Json:
    """Describe one class of a block, by itself.

    Args:
        block: scores and targets of all images.
        column: of the class.
        threshold: from which it is predicted.
        per_group: most images of a group.

    Returns:
        A CLASS_DETAIL row without names, confusions and other tags.

    Raises:
        ValueError: if a score is NaN.
    """
    rows = np.flatnonzero(block.targets[:, column] >= 0)
    scores, targets = block.scores[rows, column], block.targets[rows, column] == 1
    predicted = is_present(scores, threshold)
    recall, precision, _ = precision_recall(scores, targets)
    points = thin_curve(recall)
    reliability = measure_reliability(scores, targets)
    tp = int((predicted & targets).sum())
    images = [
        {"group": group, "key": block.keys[rows[i]], "score": float(scores[i]), "predicted": bool(predicted[i])}
        for group, indices in select_images(scores, targets, predicted, per_group=per_group).items()
        for i in indices
    ]
    return {
        "index": block.first + column,
        "num_images": len(rows),
        "num_positives": int(targets.sum()),
        "ap": average_precision(scores, targets),
        "threshold": float(threshold),
        "tp": tp,
        "fp": int(predicted.sum()) - tp,
        "fn": int(targets.sum()) - tp,
        "recall": recall[points].tolist(),
        "precision": precision[points].tolist(),
        "counts": reliability and reliability.counts.tolist(),
        "score_sums": reliability and reliability.score_sums.tolist(),
        "positives": reliability and reliability.positives.tolist(),
        "images": images,
    }


def select_images(
    scores: np.ndarray, targets: np.ndarray, predicted: np.ndarray, *, per_group: int
) -> dict[Group, np.ndarray]:
    """Select the images of a class that say most; of equal scores, the first.

    Args:
        scores: (N,) float.
        targets: (N,) bool.
        predicted: (N,) bool.
        per_group: most images of a group.

    Returns:
        Indices: "right" has the positives with the highest scores that are predicted, "missed" those with the lowest
        scores that "right" does not have, "wrong" the negatives with the highest scores.
    """
    order = np.argsort(-scores, kind="stable")
    positives = order[targets[order]]
    right = positives[predicted[positives]][:per_group]
    missed = positives[np.argsort(scores[positives], kind="stable")]
    missed = missed[~np.isin(missed, right)][:per_group]
    return {"right": right, "missed": missed, "wrong": order[~targets[order]][:per_group]}


def _other_tags(tags: ImageTags, index: int, names: Sequence[str]) -> Json:
    return {
        "true": [names[other] for other in tags.true if other != index],
        "others": [
            {"class": names[other], "score": score, "true": true}
            for other, score, true in tags.predicted
            if other != index
        ],
    }


def reliability_of(row: Json) -> Reliability | None:
    """The reliability of a class.

    Args:
        row: of CLASS_DETAIL.

    Returns:
        The sums; None: its scores are no probabilities.
    """
    if row["counts"] is None:
        return None
    return Reliability(np.array(row["counts"]), np.array(row["score_sums"]), np.array(row["positives"]))


def write_details(rows: Sequence[Json], uri: str) -> None:
    """Write the rows as Parquet, the lowest AP first; classes without positives are last.

    Args:
        rows: of CLASS_DETAIL.
        uri: of the file.
    """
    ordered = sorted(rows, key=lambda row: (not row["num_positives"], row["ap"] if row["num_positives"] else 0.0))
    table, buffer = pa.Table.from_pylist(ordered, schema=CLASS_DETAIL), pa.BufferOutputStream()
    pq.write_table(table, buffer, row_group_size=ROWS_PER_GROUP)
    write_bytes(uri, buffer.getvalue().to_pybytes())


def read_details(uri: str, *, columns: list[str] | None = None) -> Iterator[Json]:
    """Read the rows that `write_details` wrote, a row group at a time.

    Args:
        uri: of the file.
        columns: that are read; None: all.

    Yields:
        CLASS_DETAIL rows.
    """
    fs, path = locate(uri)
    with fs.open(path, "rb") as file:
        parquet = pq.ParquetFile(file)
        for group in range(parquet.metadata.num_row_groups):
            yield from parquet.read_row_group(group, columns=columns).to_pylist()
