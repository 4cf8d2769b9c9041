"""The stages of generation on Ray Data, one round in four steps.

    scores       decode tasks -> Generator actors (tagger, captions) -> CaptionTags tasks (parser) -> a row an image
    weighed      what a tag's company tells beside its score (`data_engine.weigh_stage`), where scores are calibrated
    thresholds   scores counted by tag, on pictures that their model did not see -> thresholds.json, curve.json
    generate     scores, merged by the thresholds -> annotations

Each step is a stage of its own with its own digest, so a run that is killed in one goes on there, and asking for
another precision looks at no picture again.
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
from ram_ray.data_engine.calibrate import BINS, Calibration, calibrate, edge_of, thresholds
from ram_ray.data_engine.curve import by_score, make_curve
from ram_ray.data_engine.evidence import CELLS, MAX_VOTES, Cells, count_cells, gather
from ram_ray.data_engine.folds import ByPart
from ram_ray.data_engine.generate import SCORES, Calibrated, CaptionTags, Generator, Threshold, merge, own_logits
from ram_ray.data_engine.implied import implied_rate
from ram_ray.data_engine.on_ray import sum_rows, tally
from ram_ray.data_engine.weigh import Weigher
from ram_ray.data_engine.weigh_stage import load_weigher, weigh
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
    run: Run, config: RunConfig, annotations: Manifest, judges: list[Manifest], labels: Manifest, *, round: int
) -> Manifest:
    """Add the captions and tags that the model sees and no caption says (arXiv 2306.03514, section 3.3).

    Args:
        run: gets the stages' folders.
        config: of the run.
        annotations: rows to add to.
        judges: the model, or one for each part of the pictures (`data_engine.folds`).
        labels: stage that built the label system.
        round: number of the round of the data engine, part of the stages' names.

    Returns:
        The manifest of the annotations with what was added.
    """
    scores = score(run, config, annotations, judges, labels, round=round)
    return add_likely(run, config, scores, labels, num_judges=len(judges), round=round)


def add_likely(
    run: Run, config: RunConfig, scores: Manifest, labels: Manifest, *, num_judges: int, round: int
) -> Manifest:
    """Add to each picture what its scores, and where they are calibrated its captions' tags, make likely enough.

    Args:
        run: gets the stages' folders.
        config: of the run.
        scores: stage that left SCORES rows.
        labels: stage that built the label system.
        num_judges: number of models that scored.
        round: number of the round of the data engine, part of the stages' names.

    Returns:
        The manifest of the annotations with what was added.
    """
    settings, unseen = config.engine.generate, unseen_part(config, num_judges)
    weighed = weigh(run, config, scores, labels, unseen=unseen, round=round) if settings.precision is not None else None
    limits = find_thresholds(run, config, scores, weighed, labels, num_judges=num_judges, round=round)
    identity = settings.model_dump(include={"caption_threshold"})
    stage = run.stage(f"generate_{round}", kind="annotations", config=identity, inputs=[scores, limits, labels])
    if stage.manifest:
        return stage.manifest
    threshold, agreed = settings.threshold, settings.caption_threshold
    weigher = ray.put(load_weigher(weighed)) if weighed else None

    def add(block: pa.Table) -> pa.Table:
        rule = (
            Threshold(threshold, of_caption=agreed) if threshold is not None else read_rule(f"{limits.path}/rule.npz")
        )
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
    counts = tally(stage, config, labels, rows_in=scores.counts["rows_out"], also=count_origins)
    with fsspec.open(f"{limits.path}/curve.json", "r") as file:
        write_text(f"{stage.path}/curve.json", file.read())
    kept = {name: scores.counts[name] for name in ("rows_in", "rejected")}  # pictures are read, and rejected, there
    steps = [one for one in (scores, weighed, limits) if one]
    return stage.finish(*steps, **{**counts, **kept}, **count_added(scores.counts, counts))


def unseen_part(config: RunConfig, num_judges: int) -> Part | None:
    """The pictures that scores are calibrated on: those that their model did not see; None: all.

    Args:
        config: of the run.
        num_judges: number of models that score; several score what they did not see.
    """
    calibrated = config.engine.generate.precision is not None
    return Part.share(config.engine.holdout) if num_judges == 1 and calibrated else None


def count_added(before: dict[str, Any], after: dict[str, Any]) -> dict[str, int]:
    """What the round added, by origin, and, of pictures whose truth is known, how much of it is right.

    Args:
        before: counts of the annotations that were added to.
        after: counts of those with what was added.
    """
    added = {name: after[name] - before[name] for name in ("tags", "tp", "fp")}
    origins = {f"added_{name}": after[name] - before[name] for name in ORIGINS}
    return {"added": added["tags"], **origins, "added_right": added["tp"], "added_wrong": added["fp"]}


def count_origins(block: pa.Table) -> dict[str, float]:
    """Tags of the good rows of a block that the engine added, by origin; for `annotate.sum_blocks`."""
    good = block.filter(pc.is_null(block["reason"])).combine_chunks()
    origins = pc.struct_field(pc.list_flatten(good["tags"]), "origin")
    return {name: pc.sum(pc.equal(origins, name)).as_py() or 0 for name in ORIGINS}


def score(
    run: Run, config: RunConfig, annotations: Manifest, judges: list[Manifest], labels: Manifest, *, round: int
) -> Manifest:
    """What the models say of every picture: captions with their tags, and the likeliest tags with their scores.

    Args:
        run: gets the stage's folder.
        config: of the run.
        annotations: rows of the pictures.
        judges: the model, or one for each part of the pictures (`data_engine.folds`).
        labels: stage that built the label system.
        round: number of the round of the data engine, part of the stage's name.

    Returns:
        The manifest of the SCORES rows.
    """
    settings = config.engine.generate
    identity = settings.model_dump(exclude={"precision", "caption_threshold", "batch_size"})
    identity |= {"seed": config.seed} if settings.decoding == "nucleus" else {}
    stage = run.stage(f"scores_{round}", kind="annotations", config=identity, inputs=[annotations, *judges, labels])
    if stage.manifest:
        return stage.manifest

    reading = {"max_caption_chars": config.labels.max_caption_chars, "match": config.labels.match}
    read_tags = PerProcess(CaptionTags, config.labels.parser, label_system_uri(labels.path), **reading)

    def transform(dataset: Dataset) -> Dataset:
        pixels = with_pixels(
            dataset, size=judges[0].counts["image_size"], batch_size=settings.batch_size, config=config
        )
        return pixels.map_batches(
            ByPart,
            fn_constructor_args=(Generator, [one.path for one in judges], settings),
            fn_constructor_kwargs={"seed": config.seed + round, **predictor_options(config)},
            batch_format="numpy",
            batch_size=settings.batch_size,
            **model_actors(config.resources),
        ).map_batches(read_tags, **caption_tasks(config))

    rows_in = annotations.counts["rows_out"]
    annotate(stage, transform, source=annotations.path, schema=SCORES, run=config, rows_in=rows_in)
    return stage.finish(**tally(stage, config, labels, rows_in=rows_in, also=count_origins))


def find_thresholds(
    run: Run,
    config: RunConfig,
    scores: Manifest,
    weighed: Manifest | None,
    labels: Manifest,
    *,
    num_judges: int,
    round: int,
) -> Manifest:
    """What each tag must score to be added, and what could be added at all: `thresholds.json` and `curve.json`.

    Counted are the pictures that their model did not see: all, where there is a model for each part; else those of
    `engine.holdout`, or all where nothing is calibrated.

    Args:
        run: gets the stage's folder.
        config: of the run.
        scores: stage that left SCORES rows.
        weighed: of `weigh_stage`, where scores are calibrated; the scores are then the weighed ones.
        labels: stage that built the label system.
        num_judges: number of models that scored, see `generate`.
        round: number of the round of the data engine, part of the stage's name.

    Returns:
        The stage's manifest.
    """
    settings, part = config.engine.generate, unseen_part(config, num_judges)
    identity = {"precision": settings.precision, "holdout": config.engine.holdout if part else None}
    inputs = [scores, labels, *([weighed] if weighed else [])]
    stage = run.stage(f"thresholds_{round}", kind="annotations", config=identity, inputs=inputs)
    if stage.manifest:
        return stage.manifest
    system = LabelSystem.load(label_system_uri(labels.path))
    weigher = load_weigher(weighed) if weighed else None
    cells = read_cells(scores.path, config=config, system=system, part=part, weigher=weigher)
    curve: dict[str, Any] = {"held_out": part is not None or num_judges > 1, **cells.totals}
    if settings.precision is None or weigher is None:
        write_text(f"{stage.path}/curve.json", json.dumps({**curve, "points": make_curve(cells, by_score(cells))}))
        return stage.finish(images=cells.totals["pictures"])
    found = calibrate(cells.evidence(implied_rate(weigher.company.pairs)))
    least = thresholds(found, cells.open, precision=settings.precision)
    points = make_curve(cells, found.right, right=found.right)
    write_text(f"{stage.path}/curve.json", json.dumps({**curve, "points": points}))
    lines = tag_lines(cells, found, least, system)
    table = {"vote_odds": found.vote.tolist(), "weights": asdict(weigher.weights), "tags": lines}
    write_text(f"{stage.path}/thresholds.json", json.dumps(table, indent=1))
    write_rule(f"{stage.path}/rule.npz", least, found.right)
    reached = sum(line["thresholds"] != [None] * len(found.vote) for line in lines)
    return stage.finish(images=cells.totals["pictures"], calibrated=len(lines), reached=reached)


def read_cells(
    path: str, *, config: RunConfig, system: LabelSystem, part: Part | None, weigher: Weigher | None = None
) -> Cells:
    """SCORES rows at `path`, counted; of one part of the pictures, or of all; by their own scores, or weighed ones.

    Args:
        path: folder of SCORES rows.
        config: of the run.
        system: the label system that ids are of.
        part: of the pictures, that is counted; None: all.
        weigher: gives the scores; None: the tagger's own.
    """
    votes = min(config.engine.generate.captions, MAX_VOTES)
    reference, weighing = ray.put(system), ray.put(weigher) if weigher else None

    def count(block: pa.Table) -> pa.Table:
        chosen = part.holds if part else lambda key: True
        logits = ray.get(weighing) if weighing else own_logits
        return count_cells(block, system=ray.get(reference), votes=votes, chosen=chosen, logits=logits)

    return gather(sum_rows(read_rows(path, run=config), count, CELLS, config=config), num_tags=len(system), votes=votes)


def tag_lines(cells: Cells, found: Calibration, least: np.ndarray, system: LabelSystem) -> list[dict[str, Any]]:
    """A line a tag for people: what it was calibrated on, its say rate, and thresholds of its weighed score.

    `thresholds`, as probabilities, has one for each number of generated captions that name the tag, from none on;
    null: never added.

    Args:
        cells: counts of pictures.
        found: how likely an addition is right, in each cell.
        least: (V, T) int, the lowest bin from which the tag is added.
        system: the label system that ids are of.

    Returns:
        JSON values: id, tag, kind, said, rate and thresholds of each tag.
    """
    chances = 1 / (1 + np.exp(-edge_of(least)))  # (V, T)
    chances[least == 0] = 0.0  # the lowest bin has no lower end
    lines = []
    for tag, label in enumerate(system.labels):
        limits = [
            None if least[vote, tag] >= BINS else round(float(chances[vote, tag]), 4) for vote in range(len(least))
        ]
        lines.append(
            {
                "id": tag,
                "tag": label.name,
                "kind": label.kind,
                "said": int(cells.said[:, tag].sum()),
                "rate": round(float(found.rate[tag]), 4),
                "thresholds": limits,
            }
        )
    return lines


def write_rule(uri: str, least: np.ndarray, right: np.ndarray) -> None:
    """Keep what `generate` merges by.

    Args:
        uri: of the .npz file.
        least: (V, T) int, the lowest bin from which the tag is added.
        right: (V, T, B) float, how likely it then is right.
    """
    data = io.BytesIO()
    np.savez_compressed(data, least=least.astype(np.int32), right=right.astype(np.float32))
    fs, path = fsspec.url_to_fs(uri)
    make_folder(fs, fs._parent(path))
    fs.pipe_file(path, data.getvalue())


@functools.lru_cache(maxsize=2)
def read_rule(uri: str) -> Calibrated:
    """What `write_rule` kept."""
    with fsspec.open(uri, "rb") as file, np.load(io.BytesIO(file.read()), allow_pickle=False) as arrays:
        return Calibrated(arrays["least"], arrays["right"])
