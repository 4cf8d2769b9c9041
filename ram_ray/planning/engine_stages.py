"""The stages of a round of the data engine: scores, thresholds, generate, regions, removals, clean."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ram_ray.data_engine.combine_stage import weights_share
from ram_ray.data_engine.doubts import MAX_IMAGES
from ram_ray.data_engine.regions_by_label import GROUP_ROWS
from ram_ray.data_engine.stage_settings import MAX_NEGATIVES, calibration_fold
from ram_ray.planning.arithmetic import encoder_gflop
from ram_ray.planning.plan import Stage
from ram_ray.planning.regrouping import count_regrouping
from ram_ray.planning.rows_stage import Planning, Table
from ram_ray.planning.training_stages import actor_gpus, actor_seconds, score_gflop, teacher_gflop
from ram_ray.runtime.rows import COUNTED_ROWS
from ram_ray.settings.data_engine import OWN_DETECTORS
from ram_ray.settings.training import TrainConfig


def add_round(planning: Planning, annotations: Table, train: TrainConfig, *, round: int) -> Table:
    """Count a round up to the cleaned annotations.

    Args:
        planning: gets the stages.
        annotations: that the round begins with.
        train: section of the training of the scoring models.
        round: its number.

    Returns:
        The cleaned annotations.
    """
    scores = _add_scores(planning, annotations, train, round=round)
    _add_thresholds(planning, scores, round=round)
    constants = planning.constants
    step = planning.image_pass(scores.row_bytes)
    generated = planning.add(
        f"generate_{round}", f"generate_{round}", scores, step, row_bytes=_tagged_bytes(planning), more_files=1
    )
    if planning.config.engine.clean.doubt_share is not None:
        _add_doubts(planning, scores, round=round)
    regions = _add_regions(planning, generated, train, round=round)
    _add_removals(planning, regions, round=round)
    step = planning.image_pass(generated.row_bytes)
    return planning.add(
        f"clean_{round}",
        f"clean_{round}",
        generated,
        step,
        row_bytes=_tagged_bytes(planning),
        work=constants["read_row"],
    )


def tags_an_image(planning: Planning, *, generated: bool) -> float:
    """Tags of an image, before or after generation."""
    constants = planning.constants
    tags = constants["captions_an_image"] * constants["tags_a_caption"]
    return tags * constants["tag_growth"] if generated else tags


def _tagged_bytes(planning: Planning) -> float:
    """Bytes of an annotation with generated tags: about 12 a tag beside those of its captions."""
    return planning.constants["annotation_bytes"] + 12 * tags_an_image(planning, generated=True)


def _add_scores(planning: Planning, annotations: Table, train: TrainConfig, *, round: int) -> Table:
    constants, config = planning.constants, planning.config
    generate = config.engine.generate
    batch = generate.batch_size
    gflop = score_gflop(planning, train, captions=generate.captions)
    cpu, gpu = actor_seconds(planning, gflop, images=annotations.rows)
    parse = generate.captions * (constants["parse_caption"] + constants["label_caption"])
    step = planning.image_pass(annotations.row_bytes, (batch, batch, config.data.rows_per_block))
    return planning.add(
        f"scores_{round}",
        f"generate_{round}",
        annotations,
        step,
        row_bytes=constants["score_bytes"],
        work=constants["decode_image"] + parse + cpu / max(1, annotations.rows),
        image_batch=batch,
        runs_on="gpu" if gpu else "cpu",
        gpu_seconds=gpu,
        width=actor_gpus(planning) if gpu else 0.0,
        starts=constants["model_start"],
        store_bytes=_pixel_bytes(planning, train.image_size**2 * 3, batch=batch),
    )


def _pixel_bytes(planning: Planning, image_bytes: float, *, batch: int) -> float:
    """Decoded images that wait for the actors: two batches for each CPU, or `resources.buffer_mb`."""
    buffer = planning.config.resources.buffer_mb
    waiting = 2 * planning.cluster.cpus * batch * image_bytes
    return min(waiting, buffer * 1e6) if buffer else waiting


def _add_thresholds(planning: Planning, scores: Table, *, round: int) -> None:
    constants, config = planning.constants, planning.config
    calibrated = config.engine.generate.precision is not None
    labels, partitions = planning.workload.labels, config.resources.shuffle_partitions
    blocks = scores.rows / config.data.rows_per_block
    steps = [(f"thresholds_{round}", 1.0, 1, 3 if calibrated else 1, 0)]
    if calibrated:
        fold = calibration_fold(config, num_models=max(1, config.engine.folds), round=round)
        share = weights_share(scores.rows, fold=fold)
        steps = [(f"score_weights_{round}", 1 + share, 2, 1, partitions), *steps]
    for name, passes, executions, files, sums in steps:
        tasks = passes * blocks + executions * partitions + sums
        planning.stages.append(
            Stage(
                name,
                f"generate_{round}",
                rows_in=scores.rows,
                passes=passes,
                tasks=tasks,
                files=files,
                work_files=sums,
                requests=planning.read_requests(passes * scores.num_files + sums).plus(
                    planning.write_requests(files + sums)
                ),
                cpu_seconds=passes * scores.rows * constants["read_row"] + tasks * constants["task"],
                starts=executions * constants["pass_start"],
                driver_bytes=constants["driver_base"] + blocks * constants["driver_block"],
                blocks=blocks,
                references=planning.shuffle_references(blocks * labels * 20, partitions=partitions),
                store_bytes=blocks * labels * 20,
                unit_rows=scores.rows,
            )
        )


@dataclass(frozen=True)
class Regions:
    """Rows of the stage `regions`, an image each, and its rows of tags."""

    table: Table
    crops: float


def _add_regions(planning: Planning, annotations: Table, train: TrainConfig, *, round: int) -> Regions:
    constants, config = planning.constants, planning.config
    clean, rows = config.engine.clean, annotations.rows
    labels = min(planning.workload.labels, clean.max_labels or planning.workload.labels)
    negatives = min(MAX_NEGATIVES, math.ceil(clean.negatives_per_tag * labels / max(1, rows)))
    share = labels / planning.workload.labels if clean.max_labels else 1.0
    crops = rows * (tags_an_image(planning, generated=True) * share + negatives)
    detects = clean.detector not in OWN_DETECTORS
    gflop, *_ = encoder_gflop(config, image_size=train.image_size, window_size=train.window_size)  # few labels
    passes = 1 + crops / max(1, rows) * (1 + teacher_gflop(planning) / gflop)  # the image, and each of its crops
    cpu, gpu = actor_seconds(planning, gflop * passes, images=rows)
    if detects:
        seconds = rows * _share_detected(planning, tags=crops / max(1, rows) - negatives) * constants["detector_gpu"]
        cpu, gpu = (cpu, gpu + seconds) if gpu else (cpu + 30 * seconds, gpu)
    step = planning.image_pass(annotations.row_bytes, (clean.batch_size, clean.batch_size))
    image_bytes = clean.image_bounds[0] * clean.image_bounds[1] * 3 if detects else 500 * 375 * 3
    table = planning.add(
        f"regions_{round}",
        f"clean_{round}",
        annotations,
        step,
        row_bytes=constants["region_bytes"] * crops / max(1, rows),
        work=constants["decode_image"] + cpu / max(1, rows),
        image_batch=clean.batch_size,
        runs_on="gpu" if gpu else "cpu",
        gpu_seconds=gpu,
        width=actor_gpus(planning) if gpu else 0.0,
        starts=constants["model_start"],
        store_bytes=_pixel_bytes(planning, image_bytes, batch=clean.batch_size),
    )
    return Regions(table, crops)


def _share_detected(planning: Planning, *, tags: float) -> float:
    """Share of the images that the detector sees, if the tags of an image are in doubt independently of each other."""
    doubt = planning.config.engine.clean.doubt_share
    return 1.0 if doubt is None else 1 - (1 - doubt) ** tags


def _add_doubts(planning: Planning, scores: Table, *, round: int) -> None:
    """One pass over the scores of some shards."""
    constants, partitions = planning.constants, planning.config.resources.shuffle_partitions
    share = min(1.0, MAX_IMAGES / max(1, scores.rows))
    blocks = share * scores.rows / COUNTED_ROWS
    tasks = blocks + partitions
    planning.stages.append(
        Stage(
            f"doubts_{round}",
            f"clean_{round}",
            rows_in=scores.rows,
            passes=share,
            tasks=tasks,
            files=1,
            requests=planning.read_requests(share * scores.num_files).plus(planning.write_requests(1)),
            cpu_seconds=share * scores.rows * constants["read_row"] + tasks * constants["task"],
            starts=constants["pass_start"],
            driver_bytes=constants["driver_base"] + blocks * constants["driver_block"],
            blocks=blocks,
            references=planning.shuffle_references(blocks * partitions, partitions=partitions),
            unit_rows=scores.rows,
        )
    )


def _add_removals(planning: Planning, regions: Regions, *, round: int) -> None:
    constants, config = planning.constants, planning.config
    table, crops = regions.table, regions.crops
    removed = table.rows * tags_an_image(planning, generated=True) * constants["removed_share"]
    partitions = config.resources.shuffle_partitions
    counts = count_regrouping(
        crops=crops,
        nbytes=table.nbytes,
        num_files=table.num_files,
        labels=min(planning.workload.labels, config.engine.clean.max_labels or planning.workload.labels),
        partitions=partitions,
        removed=removed,
    )
    moves = 2 if counts.sets else 1
    tasks = counts.batches * (1 + moves) + counts.groups + counts.bins
    reads = planning.read_requests(2 * table.num_files + counts.moved_files * moves)
    files = counts.removal_files + counts.bins + 1
    planning.stages.append(
        Stage(
            f"removals_{round}",
            f"clean_{round}",
            rows_in=table.rows,
            rows_out=round_number(removed),
            passes=1 + moves + 1,
            tasks=tasks,
            files=files,
            work_files=counts.moved_files + counts.batches * moves,
            requests=reads.plus(planning.write_requests(files + counts.moved_files + counts.batches * moves)),
            cpu_seconds=crops * (constants["count_row"] + moves * constants["count_row"] + constants["read_row"])
            + tasks * constants["task"],
            width=float(max(counts.batches, counts.groups)),
            starts=3 * constants["pass_start"],
            store_bytes=min(planning.cluster.cpus, counts.groups) * GROUP_ROWS * constants["region_bytes"],
            disk_bytes=(1 + moves) * table.nbytes,
            driver_bytes=constants["driver_base"] + planning.workload.labels * 1000.0,
            unit_rows=table.rows,
        )
    )


def round_number(value: float) -> int:
    """The nearest whole number; `round` is the number of a round here."""
    return int(value + 0.5)
