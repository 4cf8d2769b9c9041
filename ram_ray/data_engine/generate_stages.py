"""The stages of generation on Ray Data: one round in four stages.

    scores       decode tasks -> Generator actors (tagger, captions) -> CaptionTags tasks (parser) -> a row an image
    weighed      weights of score and co-occurrence (`data_engine.weigh_stage`), where scores are calibrated
    thresholds   calibration of each tag on images that the model did not learn from -> thresholds.json, curve.json
    generate     scores, merged by the thresholds -> annotations

Each has its own digest, so a killed run goes on at the stage where it was, and another precision needs no new scores.
"""

from __future__ import annotations

import functools
import io
import json
from dataclasses import asdict
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.data import Dataset

from ram_ray.config import RunConfig
from ram_ray.data.parts import Part
from ram_ray.data.pixels import with_pixels
from ram_ray.data_engine.addition_curve import make_curve, uncalibrated_scores
from ram_ray.data_engine.calibrate import BINS, Calibration, calibrate, edge_of, thresholds
from ram_ray.data_engine.combine_scores import Weigher
from ram_ray.data_engine.combine_stage import load_weigher, weigh
from ram_ray.data_engine.generate import SCORES, Calibrated, CaptionTags, Generator, Threshold, merge, own_logits
from ram_ray.data_engine.mention_counts import CELLS, MAX_VOTES, Cells, count_cells, gather_cells
from ram_ray.data_engine.mention_rate_bound import implied_rate
from ram_ray.data_engine.model_by_part import ByPart
from ram_ray.data_engine.ray_counts import count_annotations, sum_rows
from ram_ray.label_system import LabelSystem
from ram_ray.labels.stages import caption_tasks, label_system_uri
from ram_ray.records import ANNOTATION, to_table
from ram_ray.runtime.actors import model_actors, predictor_options
from ram_ray.runtime.annotate import annotate, read_rows
from ram_ray.runtime.artifacts import Manifest, Run, write_text
from ram_ray.runtime.per_process import PerProcess
from ram_ray.runtime.storage import make_folder

ORIGINS = ("generated_caption", "tagger")  # of tags that the engine adds


def generate(
    run: Run, config: RunConfig, annotations: Manifest, scoring_models: list[Manifest], labels: Manifest, *, round: int
) -> Manifest:
    """Add captions, and tags that the model sees and no caption mentions (arXiv 2306.03514, section 3.3).

    Args:
        run: the run that gets the stages.
        config: of the run.
        annotations: stage that wrote the ANNOTATION rows to add to.
        scoring_models: the model, or one for each part of the images (`data_engine.folds`).
        labels: stage that built the label system.
        round: number of the round of the data engine, part of the stages' names.

    Returns:
        The manifest of the annotations with the additions.
    """
    scores = score(run, config, annotations, scoring_models, labels, round=round)
    return add_likely(run, config, scores, labels, num_models=len(scoring_models), round=round)


def add_likely(
    run: Run, config: RunConfig, scores: Manifest, labels: Manifest, *, num_models: int, round: int
) -> Manifest:
    """Add to each image the tags over the threshold, or over those of the calibration.

    Args:
        run: the run that gets the stages.
        config: of the run.
        scores: stage that wrote SCORES rows.
        labels: stage that built the label system.
        num_models: number of scoring models.
        round: number of the round of the data engine, part of the stages' names.

    Returns:
        The manifest of the annotations with the additions.
    """
    settings, unseen = config.engine.generate, unseen_part(config, num_models)
    weighed = weigh(run, config, scores, labels, unseen=unseen, round=round) if settings.precision is not None else None
    calibrated = find_thresholds(run, config, scores, weighed, labels, num_models=num_models, round=round)
    identity = settings.model_dump(include={"caption_threshold"})
    stage = run.stage(f"generate_{round}", kind="annotations", config=identity, inputs=[scores, calibrated, labels])
    if stage.manifest:
        return stage.manifest
    threshold, caption_threshold = settings.threshold, settings.caption_threshold
    weigher = ray.put(load_weigher(weighed)) if weighed else None

    def add(block: pa.Table) -> pa.Table:
        if threshold is not None:
            rule: Threshold | Calibrated = Threshold(threshold, caption_threshold=caption_threshold)
        else:
            rule = read_rule(f"{calibrated.path}/rule.npz")
        logits = ray.get(weigher) if weigher else own_logits
        return to_table([merge(row, rule=rule, logits=logits) for row in block.to_pylist()], ANNOTATION)

    annotate(
        stage,
        lambda dataset: dataset.map_batches(
            add, batch_format="pyarrow", batch_size=None, num_cpus=config.resources.task_cpus
        ),
        source=scores.path,
        schema=ANNOTATION,
        run=config,
        rows_in=scores.counts["rows_out"],
    )
    counts = count_annotations(stage, config, labels, rows_in=scores.counts["rows_out"], extra_counts=count_origins)
    with fsspec.open(f"{calibrated.path}/curve.json", "r") as file:
        write_text(f"{stage.path}/curve.json", file.read())
    read = {name: scores.counts[name] for name in ("rows_in", "rejected")}  # `scores` reads and rejects images
    steps = [step for step in (scores, weighed, calibrated) if step]
    return stage.finish(*steps, **{**counts, **read}, **count_added(scores.counts, counts))


def unseen_part(config: RunConfig, num_models: int) -> Part | None:
    """The images that scores are calibrated on: those that the model did not learn from.

    Args:
        config: of the run.
        num_models: number of scoring models; with several, each scores images that it did not learn from.

    Returns:
        The part of the images; None: all.
    """
    calibrated = config.engine.generate.precision is not None
    return Part.share(config.engine.holdout) if num_models == 1 and calibrated else None


def count_added(before: dict[str, Any], after: dict[str, Any]) -> dict[str, int]:
    """Count the additions of a round, and on images whose truth is known how many are right.

    Args:
        before: counts of the annotations without the additions.
        after: counts of the annotations with them.

    Returns:
        Counts by name: all, by origin, right and wrong.
    """
    added = {name: after[name] - before[name] for name in ("tags", "tp", "fp")}
    origins = {f"added_{name}": after[name] - before[name] for name in ORIGINS}
    return {"added": added["tags"], **origins, "added_right": added["tp"], "added_wrong": added["fp"]}


def count_origins(block: pa.Table) -> dict[str, float]:
    """Count the tags of a block that the engine added, by origin; for `annotate.sum_blocks`.

    Args:
        block: ANNOTATION rows; rejected rows do not count.

    Returns:
        Number of tags by origin.
    """
    usable = block.filter(pc.is_null(block["reason"])).combine_chunks()
    origins = pc.struct_field(pc.list_flatten(usable["tags"]), "origin")
    return {name: pc.sum(pc.equal(origins, name)).as_py() or 0 for name in ORIGINS}


def score(
    run: Run, config: RunConfig, annotations: Manifest, scoring_models: list[Manifest], labels: Manifest, *, round: int
) -> Manifest:
    """Score every image: generated captions with their tags, and the likeliest tags with their scores.

    Args:
        run: the run that gets the stage.
        config: of the run.
        annotations: stage that wrote the ANNOTATION rows of the images.
        scoring_models: the model, or one for each part of the images (`data_engine.folds`).
        labels: stage that built the label system.
        round: number of the round of the data engine, part of the stage's name.

    Returns:
        The manifest of the SCORES rows.
    """
    settings = config.engine.generate
    identity = settings.model_dump(exclude={"precision", "caption_threshold", "batch_size"})
    identity |= {"seed": config.seed} if settings.decoding == "nucleus" else {}
    inputs = [annotations, *scoring_models, labels]
    stage = run.stage(f"scores_{round}", kind="annotations", config=identity, inputs=inputs)
    if stage.manifest:
        return stage.manifest

    options = {"max_caption_chars": config.labels.max_caption_chars, "match": config.labels.match}
    read_tags = PerProcess(CaptionTags, config.labels.parser, label_system_uri(labels.path), **options)

    def transform(dataset: Dataset) -> Dataset:
        size = scoring_models[0].counts["image_size"]
        pixels = with_pixels(dataset, size=size, batch_size=settings.batch_size, config=config)
        return pixels.map_batches(
            ByPart,
            fn_constructor_args=(Generator, [model.path for model in scoring_models], settings),
            fn_constructor_kwargs={"seed": config.seed + round, **predictor_options(config)},
            batch_format="numpy",
            batch_size=settings.batch_size,
            **model_actors(config.resources),
        ).map_batches(read_tags, **caption_tasks(config))

    rows_in = annotations.counts["rows_out"]
    annotate(stage, transform, source=annotations.path, schema=SCORES, run=config, rows_in=rows_in)
    return stage.finish(**count_annotations(stage, config, labels, rows_in=rows_in, extra_counts=count_origins))


def find_thresholds(
    run: Run,
    config: RunConfig,
    scores: Manifest,
    weighed: Manifest | None,
    labels: Manifest,
    *,
    num_models: int,
    round: int,
) -> Manifest:
    """Calibrate the threshold of each tag, and write `thresholds.json` and `curve.json`.

    Images that the model did not learn from are counted: all, if each part has a scoring model; else those of
    `engine.holdout`, or all if nothing is calibrated.

    Args:
        run: the run that gets the stage.
        config: of the run.
        scores: stage that wrote SCORES rows.
        weighed: stage of `weigh_stage`, whose logits are then the scores; None: nothing is calibrated.
        labels: stage that built the label system.
        num_models: number of scoring models, see `generate`.
        round: number of the round of the data engine, part of the stage's name.

    Returns:
        The stage's manifest.
    """
    settings, part = config.engine.generate, unseen_part(config, num_models)
    identity = {"precision": settings.precision, "holdout": config.engine.holdout if part else None}
    inputs = [scores, labels, *([weighed] if weighed else [])]
    stage = run.stage(f"thresholds_{round}", kind="annotations", config=identity, inputs=inputs)
    if stage.manifest:
        return stage.manifest
    system = LabelSystem.load(label_system_uri(labels.path))
    weigher = load_weigher(weighed) if weighed else None
    cells = read_cells(scores.path, config=config, system=system, part=part, weigher=weigher)
    curve: dict[str, Any] = {"held_out": part is not None or num_models > 1, **cells.totals}
    if settings.precision is None or weigher is None:
        points = make_curve(cells, uncalibrated_scores(cells))
        write_text(f"{stage.path}/curve.json", json.dumps({**curve, "points": points}))
        return stage.finish(images=cells.totals["pictures"])
    calibration = calibrate(cells.mention_counts(implied_rate(weigher.co_occurrence.pairs)))
    min_bins = thresholds(calibration, cells.open, precision=settings.precision)
    points = make_curve(cells, calibration.right, right=calibration.right)
    write_text(f"{stage.path}/curve.json", json.dumps({**curve, "points": points}))
    rows = threshold_rows(cells, calibration, min_bins, system)
    table = {"vote_odds": calibration.vote_odds.tolist(), "weights": asdict(weigher.weights), "tags": rows}
    write_text(f"{stage.path}/thresholds.json", json.dumps(table, indent=1))
    write_rule(f"{stage.path}/rule.npz", min_bins, calibration.right)
    reached = sum(row["thresholds"] != [None] * len(calibration.vote_odds) for row in rows)
    return stage.finish(images=cells.totals["pictures"], calibrated=len(rows), reached=reached)


def read_cells(
    path: str, *, config: RunConfig, system: LabelSystem, part: Part | None, weigher: Weigher | None = None
) -> Cells:
    """Count SCORES rows by votes, tag and score.

    Args:
        path: folder of SCORES rows.
        config: of the run.
        system: the label system of the tag ids.
        part: part of the images that is counted; None: all.
        weigher: computes the scores; None: the tagger's.

    Returns:
        The counts.
    """
    votes = min(config.engine.generate.captions, MAX_VOTES)
    system_ref, weigher_ref = ray.put(system), ray.put(weigher) if weigher else None

    def count(block: pa.Table) -> pa.Table:
        selected = part.holds if part else lambda key: True
        logits = ray.get(weigher_ref) if weigher_ref else own_logits
        return count_cells(block, system=ray.get(system_ref), votes=votes, selected=selected, logits=logits)

    tables = sum_rows(read_rows(path, run=config), count, CELLS, config=config)
    return gather_cells(tables, num_tags=len(system), votes=votes)


def threshold_rows(
    cells: Cells, calibration: Calibration, min_bins: np.ndarray, system: LabelSystem
) -> list[dict[str, Any]]:
    """The rows of `thresholds.json`: how many images mention each tag, its mention rate, and its thresholds.

    `thresholds`, as probabilities, has a value for each number of votes, from 0 on; null: never added.

    Args:
        cells: counts of images.
        calibration: estimates for each tag.
        min_bins: (V, T) int, lowest bin from which the tag is added.
        system: the label system of the tag ids.

    Returns:
        JSON values: id, tag, kind, said, rate and thresholds of each tag.
    """
    probabilities = 1 / (1 + np.exp(-edge_of(min_bins)))  # (V, T)
    probabilities[min_bins == 0] = 0.0  # the lowest bin has no lower end
    rows = []
    for tag, label in enumerate(system.labels):
        tag_thresholds = [
            None if bins[tag] >= BINS else round(float(values[tag]), 4)
            for bins, values in zip(min_bins, probabilities, strict=True)
        ]
        row = {"id": tag, "tag": label.name, "kind": label.kind, "said": int(cells.said[:, tag].sum())}
        rate = round(float(calibration.mention_rate[tag]), 4)
        rows.append({**row, "rate": rate, "thresholds": tag_thresholds})
    return rows


def write_rule(uri: str, min_bins: np.ndarray, right: np.ndarray) -> None:
    """Write the rule that `generate` merges by.

    Args:
        uri: of the .npz file.
        min_bins: (V, T) int, lowest bin from which the tag is added.
        right: (V, T, B) float, probability that an addition is right.
    """
    data = io.BytesIO()
    np.savez_compressed(data, least=min_bins.astype(np.int32), right=right.astype(np.float32))
    fs, path = fsspec.url_to_fs(uri)
    make_folder(fs, fs._parent(path))
    fs.pipe_file(path, data.getvalue())


@functools.lru_cache(maxsize=2)
def read_rule(uri: str) -> Calibrated:
    """Read the rule that `write_rule` wrote.

    Args:
        uri: of the .npz file.

    Returns:
        The rule.
    """
    with fsspec.open(uri, "rb") as file, np.load(io.BytesIO(file.read()), allow_pickle=False) as arrays:
        return Calibrated(arrays["least"], arrays["right"])
