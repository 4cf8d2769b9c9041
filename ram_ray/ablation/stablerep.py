"""The table of StableRep: what an image encoder learns from the captions of a run, by several methods.

    SimCLR, real images         two crops of an image are positives
    CLIP, real pairs            an image and its caption
    SimCLR, synthetic images    as above, on images that a generator makes of the captions
    CLIP, synthetic pairs
    StableRep, m = 2, 4, 6      m images of a caption are positives of each other
    StableRep+, m = M           and of the caption; M is `represent.views_per_caption`

All rows have the same captions (`represent.num_captions`, the first of each image), the same encoder and settings of
training, the same number of images in a batch and the same number of images seen. With m images of a caption a batch
has fewer captions. The features of each encoder are then judged by a linear probe and by k-NN (`evaluation.probe`) on
the held-out images and on each named set, with an interval and a paired test against the first row.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection

from ram_ray.ablation.held_out_set import SET_NAME, make_set, write_benchmark
from ram_ray.ablation.variants import Changes, Figures, vary
from ram_ray.config import RunConfig, dump
from ram_ray.evaluation.benchmark import SetResult
from ram_ray.evaluation.bootstrap import Resampling
from ram_ray.evaluation.measure_scores import Measured, Measuring, measure_scores, on_cluster
from ram_ray.evaluation.probe import PROBES, Probe, probe_set
from ram_ray.evaluation.sets.prepare import EvalSet, read_prepared
from ram_ray.label_system import LabelSystem
from ram_ray.pipeline import Inputs, find_data, prepare
from ram_ray.reporting.run_log import RunLog

logger = logging.getLogger(__name__)

VIEWS = (2, 4, 6)
BASE = "SimCLR, real images"
TITLES: dict[Probe, str] = {"linear": "linear probe", "knn": "k-NN"}


def stablerep_variants(config: RunConfig, only: Collection[str] = ()) -> dict[str, RunConfig]:
    """The rows as configurations.

    Args:
        config: of a run.
        only: names of rows; empty: all.

    Returns:
        Configuration of each row, in their order.

    Raises:
        ValueError: if the configuration names published encoders, for a row that there is not, or naming the row that
            would not be a valid run.
    """
    represent = config.represent
    if not represent.is_trained:
        raise ValueError(
            "the table of StableRep trains the encoders of represent: remove represent.clip and represent.text_encoder"
        )
    own, train = represent.views_per_caption, represent.train
    all_views = sorted({*VIEWS, own})
    samples = train.epochs * represent.num_views  # of a caption
    images = batch_images(train.batch_size * represent.num_views, workers=config.training.max_workers, views=all_views)
    rows = {
        BASE: ("simclr", "real", 2),
        "CLIP, real pairs": ("clip", "real", 1),
        "SimCLR, synthetic images": ("simclr", "synthetic", 2),
        "CLIP, synthetic pairs": ("clip", "synthetic", 1),
        **{f"StableRep, m = {views}": ("stablerep", "synthetic", views) for views in all_views},
        f"StableRep+, m = {own}": ("stablerep_plus", "synthetic", own),
    }
    if unknown := sorted(set(only) - rows.keys()):
        raise ValueError(f"there is no row {unknown[0]!r}; use {', '.join(map(repr, rows))}")
    variants = {}
    for name, (method, source, views) in rows.items():
        if only and name not in only:
            continue
        fields = {
            "method": method,
            "images": source,
            "real_pairs": "selected",
            "images_per_caption": max(represent.images_per_caption, *all_views),
            "views_per_caption": max(2, views),
            "train": train.model_copy(update={"epochs": samples / views, "batch_size": images // views}),
        }
        no_tagger = {name: {"distill_loss": False} for name in ("pretrain", "retrain", "finetune")}  # none is run
        changes: Changes = {"represent": fields, **no_tagger}
        variants[name] = vary(config, changes, what=f"row {name!r}")
    return variants


def batch_images(images: int, *, workers: int, views: list[int]) -> int:
    """Images of a batch that every row can have: whole captions for each worker.

    Args:
        images: of the configuration's batch.
        workers: of the training.
        views: of a caption, of all rows.

    Returns:
        At least `images`.
    """
    unit = workers * math.lcm(*views)
    return -(-images // unit) * unit


def measure_stablerep(config: RunConfig, run_uri: str, only: Collection[str] = ()) -> dict[str, Figures]:
    """The rows for the configuration's seed; the benchmark of the probes is written to the folder `stablerep`.

    Args:
        config: of the run, with its seed.
        run_uri: its folder.
        only: names of rows; empty: all.

    Returns:
        Row -> figure -> number.
    """
    folder, run_tasks = f"{run_uri}/stablerep", on_cluster(config.execution.task_cpus)
    evaluate = config.evaluate
    measuring = Measuring(resampling=Resampling(evaluate.replicates), min_positives=evaluate.min_positives)
    rows: dict[str, Figures] = {}
    sets: list[EvalSet] = []
    measured: dict[tuple[str, Probe], dict[str, Measured]] = {}
    folders: dict[tuple[str, Probe], dict[str, str]] = {}
    numbers = {name: number for number, name in enumerate(stablerep_variants(config))}
    for name, variant in stablerep_variants(config, only).items():
        run = RunLog().open(run_uri)
        run.write_text("config.yaml", dump(variant))
        _, inputs = prepare(run, variant, *find_data(run, variant))
        encoder = inputs.dual_encoder
        sets = sets or find_sets(inputs, folder, config=variant)
        rows[name] = {
            "steps": encoder.steps,
            "images_seen": (encoder.images_seen or 0) * variant.represent.num_views,
        }
        for eval_set in sets:
            where = f"{folder}/scores/{eval_set.name}/{numbers[name]}"
            probe_set(
                encoder.source,
                name,
                eval_set,
                where,
                batch_size=evaluate.batch_size,
                execution=config.execution,
            )
            for probe in PROBES:
                key = (eval_set.name, probe)
                result = measure_scores(f"{where}/{probe}", measuring, run_tasks=run_tasks)
                measured.setdefault(key, {})[name] = result
                folders.setdefault(key, {})[name] = f"{where}/{probe}"
                figure = probe if eval_set.name == SET_NAME else f"{eval_set.name} {probe}"
                value = result.summary(min_positives=evaluate.min_positives)["mAP"]["value"]
                rows[name][figure] = value
                logger.info("%s, %s on %s: mAP %.4f", name, TITLES[probe], eval_set.name, value or math.nan)
    results = [
        SetResult(
            eval_set.model_copy(update={"name": f"{eval_set.name}, {TITLES[probe]}"}),
            measured[eval_set.name, probe],
            folders[eval_set.name, probe],
            {},
        )
        for eval_set in sets
        for probe in PROBES
    ]
    write_benchmark(results, measuring, folder)
    return rows


def find_sets(inputs: Inputs, folder: str, *, config: RunConfig) -> list[EvalSet]:
    """The labelled sets that features are judged on: the held-out images with the run's labels, and the named sets.

    Args:
        inputs: of the run.
        folder: for the set of held-out images.
        config: of the run.

    Returns:
        The sets.
    """
    named = [read_prepared(prepared.path, name=prepared.set_name) for prepared in inputs.sets]
    if not inputs.held_out:
        return named
    labels = LabelSystem.load(inputs.labels.uri)
    return [make_set(inputs.held_out, labels, f"{folder}/sets/{SET_NAME}", config=config), *named]
