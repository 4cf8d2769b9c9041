"""The stages of cleaning on Ray Data: one round in three or four stages.

    doubts     with `engine.clean.doubt_share`: the score below which a mention is in doubt (`data_engine.doubts`)
    regions    boxes, embeddings and the tagger's probabilities, a row an image (`data_engine.region_stage`)
    removals   regions grouped by label -> k-means and the decision, a task for each group of labels, the largest
               first -> which image loses which tag and why, in bins of shards; samples for the report; a row a label
    clean      annotations, joined with the removals of their shard -> annotations

Each has its own digest. `removals` also keeps each batch of files that is regrouped and each group that is decided, so
a killed run goes on there. It needs no GPU: most of its time is reading, and k-means sees at most `FIT_POINTS` crops.
"""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TypeVar

import fsspec
import pyarrow as pa

from ram_ray.config import RunConfig
from ram_ray.data_engine.clean import CLEANED_LABELS, REMOVALS, Decision, apply_removals, decide_removals
from ram_ray.data_engine.cleaned_labels import count_removals, read_label_rows, untouched_labels
from ram_ray.data_engine.co_occurrence import TagCounts
from ram_ray.data_engine.doubts import find_doubts
from ram_ray.data_engine.ray_counts import finish_counts
from ram_ray.data_engine.region_stage import find_regions
from ram_ray.data_engine.regions_by_label import (
    FileBatch,
    Group,
    RowCounts,
    count_tags,
    first_moves,
    list_file_batches,
    plan_groups,
    read_regions,
    second_moves,
    write_groups,
)
from ram_ray.data_engine.removal_bins import count_bins, read_bin, write_bins
from ram_ray.data_engine.stage_settings import CleanSettings
from ram_ray.label_system import LabelSystem
from ram_ray.labels.stages import counted_annotations
from ram_ray.records import ANNOTATION
from ram_ray.results import (
    Annotations,
    CleanedAnnotations,
    DualEncoderResult,
    LabelSystemResult,
    Regions,
    Removals,
    TrainedModel,
)
from ram_ray.runtime.annotate import annotate
from ram_ray.runtime.artifacts import Run, Stage, exists, write_table, write_text
from ram_ray.runtime.tasks import Task
from ram_ray.runtime.worker_log import send_to_driver
from ram_ray.settings.data_engine import CleanConfig
from ram_ray.settings.runtime import Execution

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 10.0  # between two lines
Item = TypeVar("Item")
Value = TypeVar("Value")


def clean(
    run: Run,
    config: RunConfig,
    annotations: Annotations,
    scoring_models: Sequence[TrainedModel],
    labels: LabelSystemResult,
    dual_encoder: DualEncoderResult,
    *,
    round: int,
) -> CleanedAnnotations:
    """Remove tags that do not look like their label, or that the model does not see (arXiv 2306.03514, section 3.3).

    Args:
        run: the run that gets the stages.
        config: of the run.
        annotations: ANNOTATION rows to clean.
        scoring_models: the model, or one for each fold (`data_engine.model_by_fold`).
        labels: the label system.
        dual_encoder: its image encoder embeds regions.
        round: number of the round of the data engine, part of the stages' names.

    Returns:
        The cleaned annotations.
    """
    system = LabelSystem.load(labels.uri)
    settings, execution = CleanSettings.from_config(config, labels=system), config.execution
    inputs = [annotations, *scoring_models, labels, dual_encoder]
    stage = run.stage(f"clean_{round}", CleanedAnnotations, settings=settings, inputs=inputs)
    if stage.result:
        return stage.result
    doubts = find_doubts(run, config, annotations, labels, round=round)
    regions = find_regions(run, config, annotations, scoring_models, labels, dual_encoder, doubts, round=round)
    removals = find_removals(run, config, regions, labels, round=round)

    def remove(block: pa.Table) -> pa.Table:
        shards = sorted(set(block["shard"].to_pylist()))
        parts = [read_bin(removals.path, shard, bins=removals.bins) for shard in shards]
        return apply_removals(block, pa.concat_tables(parts) if parts else REMOVALS.empty_table(), round=round)

    sums = annotate(
        stage,
        lambda dataset: dataset.map_batches(
            remove, batch_format="pyarrow", batch_size=None, num_cpus=execution.task_cpus
        ),
        source=annotations.path,
        schema=ANNOTATION,
        execution=execution,
        rows_in=annotations.rows_out,
        count=counted_annotations(),
    )
    counts = finish_counts(stage, sums, rows_in=annotations.rows_out, execution=execution)
    untouched = {
        "untouched_tags": annotations.tags - removals.decided_crops,
        "untouched_labels": len(system) - removals.decided,
    }
    logger.info(
        "%s: %s of %s tags and %s of %s labels were not cleaned; %s names the labels", stage.name,
        *(f"{number:,}" for number in (untouched["untouched_tags"], annotations.tags)),
        *(f"{number:,}" for number in (untouched["untouched_labels"], len(system))), removals.untouched,
    )  # fmt: skip
    return stage.finish(removals=removals.digest, samples=removals.samples, **untouched, **counts)


def find_removals(run: Run, config: RunConfig, regions: Regions, labels: LabelSystemResult, *, round: int) -> Removals:
    """Decide for each label which images lose the tag.

    Writes `removals_by_group/GROUP.parquet` and the same rows as `removals/BIN.parquet` (REMOVALS), for each group
    `samples/GROUP.parquet` (SAMPLE_ROWS) and `labels/GROUP.parquet` (CLEANED_LABELS), and `untouched.json`, the names
    of the labels that are not cleaned.

    Args:
        run: the run that gets the stage.
        config: of the run.
        regions: IMAGE_REGIONS rows.
        labels: the label system.
        round: number of the round of the data engine, part of the stage's name.

    Returns:
        What was removed, in numbers.

    Raises:
        ValueError: if a protected tag is not in the label system.
    """
    system = LabelSystem.load(labels.uri)
    settings, execution = CleanSettings.from_config(config, labels=system), config.execution
    stage = run.stage(f"removals_{round}", Removals, settings=settings, inputs=[regions, labels])
    if stage.result:
        return stage.result
    protected = protected_ids(settings.clean, system)
    batches, folder = list_file_batches(regions.path), f"{stage.work}/layout"
    groups, counts = _plan(stage, batches, execution=execution)
    decide = functools.partial(
        decide_removals,
        config=settings.clean.model_copy(update={"protect_labels": settings.trusts_labels}),
        counts=counts,
        seed=settings.seed,
        protected=protected,
    )
    regroup = functools.partial(write_groups, folder=folder)
    _run_tasks(first_moves(batches, groups), regroup, f"{stage.name}: file batches regrouped", execution=execution)
    if moves := second_moves(groups, folder=folder):
        _run_tasks(moves, regroup, f"{stage.name}: file batches regrouped again", execution=execution)
    _run_tasks(
        groups,
        functools.partial(_decide_group, path=stage.path, folder=folder, decide=decide),
        f"{stage.name}: groups of labels decided",
        execution=execution,
    )
    decided = read_label_rows(stage.path, [group.name for group in groups])
    untouched = untouched_labels(decided, system, selected=settings.labels)
    write_text(f"{stage.path}/untouched.json", json.dumps(untouched, indent=1, ensure_ascii=False) + "\n")
    totals = count_removals(decided)
    removed = totals["outliers"] + totals["disagreements"]
    bins = count_bins(removed)
    if removed:
        write_bins(_by_group(stage.path), stage.path, bins=bins, execution=execution)
    return stage.finish(bins=bins, **totals)


def protected_ids(settings: CleanConfig, labels: LabelSystem) -> frozenset[int]:
    """Ids of the tags that no image loses.

    Args:
        settings: section `engine.clean`, with names of tags.
        labels: the label system of the tag ids.

    Returns:
        The ids of `settings.protected`.

    Raises:
        ValueError: if a protected tag is not in the label system.
    """
    ids = {name: labels.find(name) for name in settings.protected}
    if unknown := [name for name, id in ids.items() if id is None]:
        raise ValueError(f"engine.clean.protected: no tag of the label system is called {', '.join(unknown)}")
    return frozenset(id for id in ids.values() if id is not None)


def _plan(
    stage: Stage[Removals], batches: Sequence[FileBatch], *, execution: Execution
) -> tuple[list[Group], TagCounts]:
    """The groups of labels, largest first, and the counts of tags; those of an unfinished call are read again."""
    uri = f"{stage.work}/plan.json"
    if not exists(uri):
        total = RowCounts()
        for batch_counts in _map_tasks(batches, count_tags, execution=execution):
            total.add(batch_counts)
        groups = plan_groups(total.rows, groups=execution.resources.shuffle_partitions)
        counts = {"images": total.images, "mentioned": sorted(total.mentioned.items())}
        write_text(uri, json.dumps({"groups": [asdict(group) for group in groups], **counts}))
    with fsspec.open(uri, "r") as file:
        plan = json.load(file)
    groups = [Group(group["name"], tuple(group["tags"]), group["rows"]) for group in plan["groups"]]
    return groups, TagCounts(plan["images"], dict(plan["mentioned"]))


def _decide_group(group: Group, *, path: str, folder: str, decide: Callable[..., Decision]) -> None:
    """Decide the labels of a group; its file in `labels/` is written last and marks it as finished."""
    marker = f"{path}/labels/{group.name}.parquet"
    if exists(marker):
        return
    decisions = [decide(chunks, tag=tag) for tag, chunks in read_regions(group, folder=folder)]
    removals = pa.concat_tables([decision.removals for decision in decisions])
    write_table(removals, f"{_by_group(path)}/{group.name}.parquet")
    write_table(pa.concat_tables([decision.samples for decision in decisions]), f"{path}/samples/{group.name}.parquet")
    write_table(pa.Table.from_pylist([decision.label_row for decision in decisions], schema=CLEANED_LABELS), marker)


def _map_tasks(items: Sequence[Item], work: Callable[[Item], Value], *, execution: Execution) -> Iterator[Value]:
    """Run `work(item)` as a task for each item, started in order; results come in the order of completion."""
    import ray

    def run(item: Item) -> Value:  # Ray takes functions, and `work` may be a partial
        send_to_driver()
        return work(item)

    task = Task(run, num_cpus=execution.task_cpus)
    waiting = [task.start(item) for item in items]
    while waiting:
        ready, waiting = ray.wait(waiting, num_returns=1)
        yield ray.get(ready[0])


def _run_tasks(
    items: Sequence[Item],
    work: Callable[[Item], None],
    what: str,
    *,
    execution: Execution,
) -> None:
    """`_map_tasks` without results, with a line of progress every `PROGRESS_SECONDS`; `what` is "STAGE: items done"."""
    stage, _, done = what.partition(": ")
    printed = time.monotonic()
    for finished, _ in enumerate(_map_tasks(items, work, execution=execution), start=1):
        if time.monotonic() - printed > PROGRESS_SECONDS:
            printed = time.monotonic()
            logger.info("%s: %s/%s %s", stage, f"{finished:,}", f"{len(items):,}", done)


def _by_group(path: str) -> str:
    return f"{path}/removals_by_group"
