"""The step `duplicates`: which rows show the same image, and what becomes of each of them.

    fingerprints of all sets -> a table of hashes -> pairs (tasks) -> decisions (one task) -> DUPLICATE rows

Pairs and decisions are numbers: about 50 bytes a pair in one task, and 27 bytes a decided row, which every node holds
once while the rows are written. Keys and captions of decided rows are shuffled by the row that stays in their place,
so that its captions meet, and then by shard, so that there is a file for each shard.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import Dataset

from ram_ray.config import RunConfig
from ram_ray.curation.embedding_pairs import find_embedding_pairs
from ram_ray.curation.groups import KINDS, LEFT_OUT, LISTED, MERGED, PLACEHOLDER, STAYS, Decisions, decide
from ram_ray.curation.hash_shuffle import MAX_SLICES, shuffle_pairs, write_distinct
from ram_ray.curation.hash_table import make_ids, plan_work, read_pairs, write_hashes, write_pairs
from ram_ray.data.texts import merge_texts
from ram_ray.records import DUPLICATE, Row, to_table
from ram_ray.results import Duplicates, Fingerprints
from ram_ray.runtime.artifacts import Run, Stage
from ram_ray.runtime.rows import drop_rejected, read_rows, write_counted_rows
from ram_ray.runtime.storage import remove_folder
from ram_ray.runtime.tasks import RETRIES, Task, wait_for
from ram_ray.settings.curation import DuplicatesConfig
from ram_ray.settings.runtime import Execution
from ram_ray.settings.section import StageSettings

ROWS_PER_PART = 100_000  # decided rows that a task brings together
ACTIONS = {STAYS: "gets", LISTED: "listed", MERGED: "merged", LEFT_OUT: "left_out", PLACEHOLDER: "placeholder"}
TRAIN = "train"  # name of the set 0
_LOCATION = ("set", "key", "shard", "uri", "offset", "nbytes")
_TEXTS = ("captions", "labels", "negative_labels", "given_tags")


class DuplicateSettings(StageSettings):
    """All that the decisions depend on, beside the fingerprints."""

    duplicates: DuplicatesConfig

    @classmethod
    def from_config(cls, config: RunConfig) -> DuplicateSettings:
        """Take the settings out of the configuration; without `prefer`, the shards of the finetuning are preferred."""
        duplicates, finetuned = config.data.duplicates, config.finetune.shards
        if not duplicates.prefer and finetuned != "*":
            duplicates = duplicates.model_copy(update={"prefer": [finetuned]})
        return cls(duplicates=duplicates)


def find_duplicates(
    run: Run, config: RunConfig, train: Fingerprints, held_out: Sequence[Fingerprints] = ()
) -> Duplicates:
    """Run the step `duplicates`.

    Args:
        run: the run; the step's folder is created in it.
        config: of the run.
        train: fingerprints of the training data.
        held_out: of each held-out set.

    Returns:
        The DUPLICATE rows.
    """
    settings, execution = DuplicateSettings.from_config(config), config.execution
    sets = [train, *held_out]
    stage = run.stage("duplicates", Duplicates, settings=settings, inputs=sets)
    if stage.result:
        return stage.result
    num_rows, decisions = search(stage, sets, settings.duplicates, execution=execution)
    counts: dict[str, int] = {}
    if num_rows:
        counts = write_duplicates(stage, sets, decisions, settings.duplicates, num_rows=num_rows, execution=execution)
    return stage.finish(rows=num_rows, counts=counts)


def set_name(fingerprints: Fingerprints) -> str:
    """Name of a set in `Duplicates.counts`.

    Args:
        fingerprints: of the set.

    Returns:
        "train", or what its stage's name adds: "eval".
    """
    name = fingerprints.stage
    for prefix in ("fingerprints", "image_scores", "similarity"):
        name = name.removeprefix(prefix)
    return name.lstrip("_") or TRAIN


def search(
    stage: Stage[Duplicates],
    sets: Sequence[Fingerprints],
    config: DuplicatesConfig,
    *,
    execution: Execution,
    rows_per_slice: int | None = None,
    max_slices: int = MAX_SLICES,
) -> tuple[int, ray.ObjectRef]:
    """Find pairs, and decide what becomes of their rows.

    Args:
        stage: its `work` folder has the hashes and the pairs.
        sets: fingerprints of the training data, then of the held-out sets.
        config: which rows are duplicates.
        execution: how the stages of the run are executed.
        rows_per_slice: rows that a task holds; None: as `plan_work` has it.
        max_slices: with more, rows are shuffled to their slices.

    Returns:
        The number of decided rows, and a reference to the `Decisions`.
    """
    hashes, folder = f"{stage.work}/hashes", f"{stage.work}/pairs"
    write_hashes([fingerprints.path for fingerprints in sets], hashes, prefer=config.prefer, execution=execution)
    num_rows = sum(fingerprints.rows_out for fingerprints in sets)
    more = {} if rows_per_slice is None else {"rows_per_slice": rows_per_slice}
    plan = plan_work(num_rows, kinds=config.same, near=config.near is not None, **more)
    options: dict[str, Any] = {"max_distance": config.near, "mirrored": config.mirrored}
    is_shuffled = any(work.num_slices > max_slices for work in plan)
    if is_shuffled:
        shuffle_pairs(plan, hashes, folder, **options, execution=execution)
    else:
        task = Task(write_pairs, num_cpus=execution.task_cpus)
        wait_for([task.start(work, hashes, f"{folder}/{work.name}.parquet", **options) for work in plan])
    if config.embedding is not None:
        find_embedding_pairs(stage, sets, config, folder=folder, num_rows=num_rows, execution=execution)
    if is_shuffled:
        found, folder = folder, f"{stage.work}/distinct_pairs"
        write_distinct(found, folder, execution=execution)
    last: Any = ray.remote(num_cpus=execution.task_cpus, num_returns=2, **RETRIES)(_decide)  # type: ignore[arg-type]
    number, decisions = last.remote(folder, config)
    return ray.get(number), decisions


def _decide(folder: str, config: DuplicatesConfig) -> tuple[int, Decisions]:
    decisions = decide(read_pairs(folder), config=config)
    return len(decisions.id), decisions


def write_duplicates(
    stage: Stage[Duplicates],
    sets: Sequence[Fingerprints],
    decisions: ray.ObjectRef,
    config: DuplicatesConfig,
    *,
    num_rows: int,
    execution: Execution,
    rows_per_part: int = ROWS_PER_PART,
) -> dict[str, int]:
    """Write the DUPLICATE rows of all sets, a file for each set and shard that has some.

    Args:
        stage: gets the rows.
        sets: fingerprints of the training data, then of the held-out sets.
        decisions: reference to the `Decisions`.
        config: which rows are duplicates.
        num_rows: number of decided rows.
        execution: how the stages of the run are executed.
        rows_per_part: decided rows that a task brings together.

    Returns:
        Their numbers, as of `count_duplicates`.
    """
    num_parts = math.ceil(num_rows / rows_per_part)
    columns = [*_LOCATION[1:], *_TEXTS, "reason"]

    def select(block: pa.Table, *, set_index: int) -> pa.Table:
        return select_decided(block, ray.get(decisions), set_index=set_index, prefer=config.prefer, num_parts=num_parts)

    parts = [
        read_rows(fingerprints.path, execution=execution, columns=columns, rows_per_block=4096).map_batches(
            partial(select, set_index=set_index),
            batch_format="pyarrow",
            batch_size=None,
            num_cpus=execution.task_cpus,
        )
        for set_index, fingerprints in enumerate(sets)
    ]
    rows: Dataset = parts[0].union(*parts[1:]) if parts[1:] else parts[0]
    mapping: dict[str, Any] = {"batch_format": "pyarrow", "num_cpus": execution.task_cpus}
    if num_parts == 1:
        rows = rows.repartition(1).map_batches(bring_together, batch_size=None, **mapping)
    else:
        partitions = min(num_parts, execution.resources.shuffle_partitions)
        rows = rows.groupby("part", num_partitions=partitions).map_groups(bring_together, **mapping)
        rows = rows.repartition(partitions, keys=["set", "shard"])
    fs, root = fsspec.url_to_fs(stage.path)
    remove_folder(fs, root)  # a run that was killed may have written a part
    sums = write_counted_rows(
        rows,
        stage.path,
        count=partial(count_duplicates, names=[set_name(fingerprints) for fingerprints in sets]),
        execution=execution,
        partition_cols=["set", "shard"],
    )
    return {name: int(number) for name, number in sorted(sums.items())}


def select_decided(
    block: pa.Table, decisions: Decisions, *, set_index: int, prefer: Sequence[str], num_parts: int
) -> pa.Table:
    """Select the rows of a block that something was decided about.

    Args:
        block: FINGERPRINT rows.
        decisions: about all rows.
        set_index: 0 for training, from 1 on for held-out sets.
        prefer: as of `hash_table.make_ids`.
        num_parts: number of parts.

    Returns:
        The rows with their decision; `part` is the same for all rows with one target.
    """
    block = drop_rejected(block)
    ids = make_ids(block["key"].to_pylist(), block["shard"].to_pylist(), set_index=set_index, prefer=prefer)
    positions, places = decisions.find(ids)
    block = block.take(pa.array(positions, pa.int64())).drop_columns(["reason"])
    columns = {
        "set": np.full(len(block), set_index, np.int32),
        **{name: getattr(decisions, name)[places] for name in ("id", "target", "action", "kind", "distance")},
        "part": decisions.target[places] % num_parts,
    }
    for name, values in columns.items():
        block = block.append_column(name, pa.array(values))
    return block


def bring_together(rows: pa.Table) -> pa.Table:
    """Bring the rows of each image together with the row that stays in their place.

    Args:
        rows: as `select_decided` gives them, all rows of each target.

    Returns:
        DUPLICATE rows: one for each row that has another target, and one for each row that gets captions.
    """
    table = rows.sort_by([("target", "ascending"), ("id", "ascending")])
    location = table.select(list(_LOCATION)).to_pylist()
    decided = table.select(["id", "target", "action", "kind", "distance"]).to_pylist()
    texts = table.select(list(_TEXTS)).to_pylist()
    by_id = {row["id"]: index for index, row in enumerate(decided)}
    merged: dict[int, list[int]] = {}
    made: list[Row] = []
    for index, row in enumerate(decided):
        target = by_id[row["target"]]
        if row["action"] == MERGED:
            merged.setdefault(target, [target]).append(index)
        if target == index and row["action"] != PLACEHOLDER:
            continue
        made.append(
            {
                **location[index],
                "action": ACTIONS[row["action"]],
                "kind": KINDS[row["kind"]],
                "distance": row["distance"],
                **{f"other_{name}": value for name, value in location[target].items()},
            }
        )
    for target, members in merged.items():
        made.append({**location[target], "action": ACTIONS[STAYS], **merge_rows([texts[row] for row in members])})
    return to_table(made, DUPLICATE)


def merge_rows(rows: Sequence[Row]) -> Row:
    """Merge what the rows of an image say.

    Args:
        rows: captions, labels, negative_labels and given_tags of each; the first is that of the row that stays.

    Returns:
        All captions, each once, and all labels. A label that one row names and another excludes is named.
    """
    captions = merge_texts(*(row["captions"] or [] for row in rows))
    labels = [row["labels"] for row in rows if row["labels"] is not None]
    named = list(dict.fromkeys(name for names in labels for name in names))
    excluded = [row["negative_labels"] for row in rows if row["negative_labels"] is not None]
    tags = []
    for row in rows:
        texts = row["captions"] or []
        for tag in row["given_tags"] or ():
            caption = None if tag["caption"] is None else captions.index(texts[tag["caption"]])
            tags.append((tag["id"], caption))
    return {
        "captions": captions,
        "labels": named if labels else None,
        "negative_labels": [name for name in dict.fromkeys(sum(excluded, [])) if name not in named]
        if excluded
        else None,
        "given_tags": [{"id": id, "caption": caption} for id, caption in dict.fromkeys(tags)] or None,
    }


def count_duplicates(block: pa.Table, *, names: Sequence[str]) -> dict[str, float]:
    """Count DUPLICATE rows.

    Args:
        block: DUPLICATE rows.
        names: of the sets.

    Returns:
        "SET/ACTION/KIND/OTHER_SET" -> number of rows; rows that get captions are not counted.
    """
    rows = block.filter(pc.not_equal(block["action"], ACTIONS[STAYS])).to_pylist()
    counts = Counter(
        f"{names[int(row['set'])]}/{row['action']}/{row['kind']}/{names[row['other_set']]}" for row in rows
    )
    return {name: float(count) for name, count in counts.items()}
