"""What the stage `removals` decided on each label: reads its CLEANED_LABELS rows, and counts them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ram_ray.data_engine.clean import CLEANED_LABELS
from ram_ray.label_system import LabelSystem


def read_label_rows(path: str, groups: Iterable[str]) -> pa.Table:
    """Read what was decided on each label.

    Args:
        path: of the stage `removals`.
        groups: names of the groups of labels.

    Returns:
        CLEANED_LABELS rows.
    """
    tables = [CLEANED_LABELS.empty_table()]
    for group in groups:
        with fsspec.open(f"{path}/labels/{group}.parquet", "rb") as file:
            tables.append(pq.read_table(file))
    return pa.concat_tables(tables)


def count_removals(label_rows: pa.Table) -> dict[str, int]:
    """Sum the counts of labels.

    Args:
        label_rows: CLEANED_LABELS rows.

    Returns:
        Fields of `Removals`.
    """
    names = ("crops", "outliers", "disagreements", "protected")
    decided = label_rows.filter(pc.greater(label_rows["clusters"], 0))
    return {
        "labels": len(label_rows),
        "decided": len(decided),
        "decided_crops": pc.sum(decided["crops"]).as_py() or 0,
        **{name: pc.sum(label_rows[name]).as_py() or 0 for name in names},
    }


def untouched_labels(
    label_rows: pa.Table, labels: LabelSystem, *, selected: Sequence[int] | None
) -> dict[str, list[str]]:
    """Names of the labels that cleaning left as they are, by reason.

    Args:
        label_rows: CLEANED_LABELS rows.
        labels: the label system of the ids.
        selected: ids of the labels that `engine.clean` selects; None: all.

    Returns:
        "not_selected": labels that the settings do not select; "too_few_images": selected ones with fewer images than
        `min_images`. The order is that of ids.
    """
    decided = set(label_rows.filter(pc.greater(label_rows["clusters"], 0))["tag"].to_pylist())
    ids = set(range(len(labels))) if selected is None else set(selected)
    return {
        "not_selected": [label.name for label in labels.labels if label.id not in ids],
        "too_few_images": [label.name for label in labels.labels if label.id in ids and label.id not in decided],
    }
