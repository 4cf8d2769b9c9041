"""The stages of cleaning on Ray Data: one round in three stages.

    regions    decode tasks -> RegionEmbedder actors -> a row an image: boxes, embeddings, the tagger's probabilities
    removals   regions grouped by category -> k-means and the decision, a task for each group of categories, the largest
               first -> which image loses which tag and why; samples for the report; a row a category
    clean      annotations, joined with the removals of their shard -> annotations

Each has its own digest. `removals` also keeps each part that is moved and each group that is decided, so a killed run
goes on there.
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ram_ray.config import RunConfig
from ram_ray.data.pixels import with_pixels
from ram_ray.data_engine.categories import (
    Group,
    Part,
    RowCounts,
    categories,
    count_tags,
    exists,
    list_parts,
    plan_groups,
    write_groups,
)
from ram_ray.data_engine.clean import CATEGORIES, REMOVALS, Decision, apply_removals, decide_removals
from ram_ray.data_engine.co_occurrence import TagCounts
from ram_ray.data_engine.crops import IMAGE_REGIONS, RegionEmbedder
from ram_ray.data_engine.model_by_part import ByPart
from ram_ray.data_engine.ray_counts import count_annotations
from ram_ray.label_system import LabelSystem
from ram_ray.labels.stages import label_system_uri
from ram_ray.records import ANNOTATION
from ram_ray.runtime.actors import model_actors, predictor_options
from ram_ray.runtime.annotate import annotate
from ram_ray.runtime.artifacts import Manifest, Run, Stage, write_table, write_text
from ram_ray.runtime.screen import print_line
from ram_ray.runtime.storage import TASK_RETRIES
from ram_ray.settings.data_engine import CleanConfig

MAX_NEGATIVES = 4  # negatives an image, at most
PROGRESS_SECONDS = 10.0  # between two lines


def clean(
    run: Run,
    config: RunConfig,
    annotations: Manifest,
    scoring_models: Sequence[Manifest],
    labels: Manifest,
    teacher: Manifest,
    *,
    round: int,
) -> Manifest:
    """Remove tags that do not look like their category, or that the model does not see (arXiv 2306.03514, section 3.3).

    Args:
        run: the run that gets the stages.
        config: of the run.
        annotations: stage that wrote the ANNOTATION rows to clean.
        scoring_models: the model, or one for each part of the images (`data_engine.folds`).
        labels: stage that built the label system.
        teacher: `represent`'s manifest, whose image encoder embeds regions.
        round: number of the round of the data engine, part of the stages' names.

    Returns:
        The manifest of the cleaned annotations.
    """
    settings = config.engine.clean
    identity = {"clean": settings, "seed": config.seed, "trusted": trusts_labels(config)}
    inputs = [annotations, *scoring_models, labels, teacher]
    stage = run.stage(f"clean_{round}", kind="annotations", config=identity, inputs=inputs)
    if stage.manifest:
        return stage.manifest
    regions = find_regions(run, config, annotations, scoring_models, labels, teacher, round=round)
    removals = find_removals(run, config, regions, labels, round=round)

    def remove(block: pa.Table) -> pa.Table:
        shards = sorted(set(block["shard"].to_pylist()))
        parts = [_read_removals(removals.path, shard) for shard in shards]
        return apply_removals(block, pa.concat_tables(parts) if parts else REMOVALS.empty_table(), round=round)

    annotate(
        stage,
        lambda dataset: dataset.map_batches(
            remove, batch_format="pyarrow", batch_size=None, num_cpus=config.resources.task_cpus
        ),
        source=annotations.path,
        schema=ANNOTATION,
        run=config,
        rows_in=annotations.counts["rows_out"],
    )
    counts = count_annotations(stage, config, labels, rows_in=annotations.counts["rows_out"])
    return stage.finish(**counts, removals=removals.digest)


def samples_uri(run: Run, cleaned: Manifest) -> str:
    """Folder of the samples of a finished `clean`.

    Args:
        run: the run that has the stage.
        cleaned: manifest of `clean`.

    Returns:
        URI of the folder, with rows of `data_engine.clean.SAMPLE_ROWS`.
    """
    return run.path("annotations", cleaned.stage.replace("clean", "removals"), cleaned.counts["removals"], "samples")


def find_regions(
    run: Run,
    config: RunConfig,
    annotations: Manifest,
    scoring_models: Sequence[Manifest],
    labels: Manifest,
    teacher: Manifest,
    *,
    round: int,
) -> Manifest:
    """Compute boxes, embeddings and agreement of all tags of each image, and of some negatives.

    Args:
        run: the run that gets the stage.
        config: of the run.
        annotations: stage that wrote the ANNOTATION rows of the images.
        scoring_models: the model, or one for each part of the images (`data_engine.folds`).
        labels: stage that built the label system.
        teacher: `represent`'s manifest.
        round: number of the round of the data engine, part of the stage's name.

    Returns:
        The manifest of the IMAGE_REGIONS rows.
    """
    settings, images = config.engine.clean, annotations.counts["rows_out"]
    tags = len(LabelSystem.load(label_system_uri(labels.path)))
    num_negatives = min(MAX_NEGATIVES, math.ceil(settings.absent * tags / max(1, images)))
    identity = {
        **settings.model_dump(include={"detector", "revision", "detector_precision"}),
        "absent": num_negatives,
        "seed": config.seed,
    }
    stage = run.stage(
        f"regions_{round}", kind="annotations", config=identity, inputs=[annotations, *scoring_models, teacher]
    )
    if stage.manifest:
        return stage.manifest
    size = scoring_models[0].counts["image_size"]
    options = {"num_negatives": num_negatives, "seed": config.seed, "teacher_revision": teacher.counts["revision"]}
    annotate(
        stage,
        lambda dataset: with_pixels(dataset, size=size, batch_size=settings.batch_size, config=config).map_batches(
            ByPart,
            fn_constructor_args=(
                RegionEmbedder,
                [model.path for model in scoring_models],
                teacher.counts["source"],
                settings,
            ),
            fn_constructor_kwargs={**options, **predictor_options(config)},
            batch_format="numpy",
            batch_size=settings.batch_size,
            **model_actors(config.resources),
        ),
        source=annotations.path,
        schema=IMAGE_REGIONS,
        run=config,
        rows_in=images,
    )
    return stage.finish(images=images)


def find_removals(run: Run, config: RunConfig, regions: Manifest, labels: Manifest, *, round: int) -> Manifest:
    """Decide for each category which images lose the tag.

    Writes `removals/shard=SHARD/GROUP.parquet` (REMOVALS), `samples/GROUP.parquet` (SAMPLE_ROWS) and
    `categories/GROUP.parquet` (CATEGORIES).

    Args:
        run: the run that gets the stage.
        config: of the run.
        regions: stage that wrote IMAGE_REGIONS rows.
        labels: stage that built the label system.
        round: number of the round of the data engine, part of the stage's name.

    Returns:
        The stage's manifest.

    Raises:
        ValueError: if a protected tag is not in the label system.
    """
    settings, seed = config.engine.clean, config.seed
    identity = {"clean": settings, "seed": seed, "trusted": trusts_labels(config)}
    stage = run.stage(f"removals_{round}", kind="annotations", config=identity, inputs=[regions, labels])
    if stage.manifest:
        return stage.manifest
    protected = protected_ids(settings, LabelSystem.load(label_system_uri(labels.path)))
    settings = settings.model_copy(update={"protect_labels": trusts_labels(config)})
    parts, folder = list_parts(regions.path), f"{stage.work}/layout"
    groups, counts = _plan(stage, config, parts)
    decide_one = functools.partial(decide_removals, config=settings, counts=counts, seed=seed, protected=protected)
    _run_tasks(stage, config, parts, lambda part: write_groups(part, groups=groups, folder=folder), "parts moved")
    _run_tasks(
        stage,
        config,
        groups,
        functools.partial(_decide_group, path=stage.path, folder=folder, decide_one=decide_one),
        "groups of categories decided",
        num_gpus=config.resources.actor_gpus or None,
    )
    return stage.finish(**_count_removals(stage.path, groups))


def trusts_labels(config: RunConfig) -> bool:
    """Whether human labels protect their tags: not if they are the truth that the engine is evaluated on.

    Args:
        config: of the run.

    Returns:
        Whether tags that a human label confirms stay.
    """
    scored = (
        not config.data.train or config.data.measure.is_enabled
    )  # drawn scenes, or hidden captions and planted tags
    return config.engine.clean.protect_labels and not scored


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


def _plan(stage: Stage, config: RunConfig, parts: Sequence[Part]) -> tuple[list[Group], TagCounts]:
    """The groups of categories, largest first, and the counts of tags; those of an unfinished call are read again."""
    uri = f"{stage.work}/plan.json"
    if not exists(uri):
        total = RowCounts()
        for part_counts in _map_tasks(parts, count_tags, config):
            total.add(part_counts)
        groups = plan_groups(total.rows, groups=config.resources.shuffle_partitions)
        counts = {"images": total.images, "said": sorted(total.mentioned.items())}
        write_text(uri, json.dumps({"groups": [asdict(group) for group in groups], **counts}))
    with fsspec.open(uri, "r") as file:
        plan = json.load(file)
    groups = [Group(group["name"], tuple(group["tags"]), group["rows"]) for group in plan["groups"]]
    return groups, TagCounts(plan["images"], dict(plan["said"]))


def _decide_group(group: Group, *, path: str, folder: str, decide_one: Callable[..., Decision]) -> None:
    """Decide the categories of a group; its file in `categories/` is written last and marks it as finished."""
    marker = f"{path}/categories/{group.name}.parquet"
    if exists(marker):
        return
    decisions = [decide_one(chunks, tag=tag) for tag, chunks in categories(group, folder=folder)]
    removals = pa.concat_tables([decision.removals for decision in decisions])
    removals = removals.sort_by([("shard", "ascending"), ("key", "ascending")])
    for shard in pc.unique(removals["shard"]).to_pylist():
        rows = removals.filter(pc.equal(removals["shard"], shard))
        write_table(rows, f"{_shard_folder(path, shard)}/{group.name}.parquet")
    write_table(pa.concat_tables([decision.samples for decision in decisions]), f"{path}/samples/{group.name}.parquet")
    write_table(pa.Table.from_pylist([decision.category for decision in decisions], schema=CATEGORIES), marker)


def _map_tasks(items: Sequence[Any], work: Callable[[Any], Any], config: RunConfig, **options: Any) -> Iterator[Any]:
    """Run `work(item)` as a task for each item, started in order; results come in the order of completion."""
    import ray

    def run(item: Any) -> Any:  # Ray takes functions, and `work` may be a partial
        return work(item)

    task: Any = ray.remote(num_cpus=config.resources.task_cpus, **TASK_RETRIES, **options)(run)
    waiting = [task.remote(item) for item in items]
    while waiting:
        ready, waiting = ray.wait(waiting, num_returns=1)
        yield ray.get(ready[0])


def _run_tasks(
    stage: Stage, config: RunConfig, items: Sequence[Any], work: Callable[[Any], None], what: str, **options: Any
) -> None:
    """`_map_tasks` without results, with a line of progress every `PROGRESS_SECONDS`."""
    printed = time.monotonic()
    for finished, _ in enumerate(_map_tasks(items, work, config, **options), start=1):
        if time.monotonic() - printed > PROGRESS_SECONDS:
            printed = time.monotonic()
            print_line(f"{stage.name}: {finished:,}/{len(items):,} {what}")


def _count_removals(path: str, groups: Iterable[Group]) -> dict[str, int]:
    """Sum the CATEGORIES rows."""
    names = ("crops", "outliers", "disagreements", "protected")
    total = dict.fromkeys(("categories", "judged", *names), 0)
    for group in groups:
        with fsspec.open(f"{path}/categories/{group.name}.parquet", "rb") as file:
            rows = pq.read_table(file, columns=["clusters", *names])
        total["categories"] += len(rows)
        total["judged"] += pc.sum(pc.greater(rows["clusters"], 0)).as_py() or 0
        for name in names:
            total[name] += pc.sum(rows[name]).as_py() or 0
    return total


def _shard_folder(path: str, shard: str) -> str:
    return f"{path}/removals/shard={quote(shard, safe='')}"


@functools.lru_cache(maxsize=64)
def _read_removals(path: str, shard: str) -> pa.Table:
    """REMOVALS rows of a shard."""
    fs, root = fsspec.url_to_fs(_shard_folder(path, shard))
    try:
        files = sorted(file for file in fs.ls(root, detail=False) if file.endswith(".parquet"))
    except FileNotFoundError:  # nothing was removed in this shard
        files = []
    parts = [REMOVALS.empty_table()]
    for file in files:
        with fs.open(file, "rb") as handle:
            parts.append(pq.read_table(handle, columns=REMOVALS.names, partitioning=None))
    return pa.concat_tables(parts)
