"""The trainings, the tables that they read, and the scores of their models, as `training.tagger_stage` runs them.

A table is sorted as a whole, so its rows are in the object store at once, twice while they are shuffled. In training a
bucket is read by the workers that have rows in its lane. Each image costs a request, or in large tables a part of one.
"""

from __future__ import annotations

import math

from ram_ray.planning.arithmetic import count_weights, encoder_gflop, forward_gflop, training_gflop
from ram_ray.planning.layout import count_read_tasks
from ram_ray.planning.plan import Requests, Stage
from ram_ray.planning.rows_stage import Planning, Table
from ram_ray.settings.training import TrainConfig
from ram_ray.training.copies import copies_name
from ram_ray.training.feed import DECODED_ROWS
from ram_ray.training.order import count_lanes, keeps_neighbours
from ram_ray.training.rows import NEIGHBOUR_BYTES
from ram_ray.training.table import count_buckets

GIGA = 1e9
CHECKPOINT_BYTES_A_WEIGHT = 16  # weight, and AdamW's state
BUNDLE_FILES, TEACHER_FILES = 9, 4  # of a model's folder, and more in it if its teacher is a published model
TABLE_COPIES = 2  # of a table while it is sorted


def add_training(
    planning: Planning, name: str, train: TrainConfig, source: Table, *, rows: int | None = None, views: int = 1
) -> None:
    """Count a training: its table, and its steps.

    Args:
        planning: gets the stage.
        name: of the stage.
        train: section of the training.
        source: the annotations.
        rows: rows that it is trained on; None: all.
        views: images of a row in a step.
    """
    constants, config, cluster = planning.constants, planning.config, planning.cluster
    rows = source.rows if rows is None else rows
    buckets, workers = count_buckets(source.rows), config.training.max_workers
    lanes = count_lanes(buckets)
    steps = int(train.epochs * rows / train.batch_size)
    seen = steps * train.batch_size
    images = seen * views
    visits = min(buckets, rows) * min(train.epochs, rows and seen / rows)  # of buckets that have rows
    blocks = source.rows / config.data.rows_per_block
    table_bytes = rows * constants["table_bytes"]
    partitions, _ = count_read_tasks(source.num_files, source.nbytes * constants["memory_ratio"], cpus=cluster.cpus)
    passes = 1 + (train.tag_cap is not None)
    written = min(buckets + partitions, rows)
    step_seconds = images * _training_seconds(planning, train)
    reads = planning.read_requests(passes * source.num_files)
    begun = max(1.0, lanes / workers) / DECODED_ROWS  # parts of files, by an image: a task has rows of all its lanes
    shared = min(1.0, _read_bytes(planning, train) / NEIGHBOUR_BYTES + begun)
    gets_an_image = shared if keeps_neighbours(buckets) and workers <= lanes else 1.0  # more workers share a lane
    crops = Requests(get=0.0 if train.views else images * gets_an_image)
    reads_a_visit = 2 * max(1.0, workers / lanes) if lanes > 1 else workers  # of a bucket, see `training.order`
    files_a_visit = 1 if train.copy_side is None else 2
    gets_a_visit = reads_a_visit * files_a_visit * constants["get_read_file"]
    feed = Requests(get=visits * gets_a_visit, list=visits * reads_a_visit)
    on_gpu = config.training.use_gpu
    checkpoints = steps / train.checkpoint_steps + 1
    decode = images * (constants["crop_image"] if not train.views else constants["count_row"])
    table_work = source.rows * (passes * constants["read_row"] + constants["table_row"])
    planning.stages.append(
        Stage(
            name,
            name,
            runs_on="gpu" if on_gpu else "cpu",
            rows_in=source.rows,
            rows_out=rows,
            passes=passes,
            tasks=passes * blocks + 2 * partitions + min(visits, 1000) * workers,
            files=BUNDLE_FILES if config.represent.is_trained else BUNDLE_FILES + TEACHER_FILES,
            work_files=written + checkpoints * 2 * workers,
            requests=reads.plus(planning.write_requests(written + checkpoints * 2 * workers)).plus(feed).plus(crops),
            cpu_seconds=decode + table_work + (0.0 if on_gpu else step_seconds),
            gpu_seconds=step_seconds if on_gpu else 0.0,
            width=float(workers) if on_gpu else 0.0,
            starts=passes * constants["pass_start"] + constants["model_start"],
            store_bytes=TABLE_COPIES * table_bytes,
            disk_bytes=table_bytes / constants["memory_ratio"] + count_weights(config) * CHECKPOINT_BYTES_A_WEIGHT,
            driver_bytes=constants["driver_base"] + blocks * constants["driver_block"],
            blocks=blocks,
            references=planning.shuffle_references(table_bytes, partitions=partitions),
            gpu_bytes=_training_bytes(planning, train) if on_gpu else 0.0,
            unit_rows=images,
            fewest_rows=max(1, int(-(-train.batch_size // train.epochs))),
        )
    )


def add_evaluation(planning: Planning, model: str, train: TrainConfig, held_out: Table) -> None:
    """Count the scoring of a model on the held-out images.

    Args:
        planning: gets the stage.
        model: stage of the model.
        train: section of its training.
        held_out: annotations of the held-out images.
    """
    config, labels = planning.config, planning.workload.labels
    batch = config.evaluate.batch_size
    blocks = held_out.rows / batch
    score_bytes = held_out.rows * labels * 4.0
    partitions = min(config.resources.shuffle_partitions, -(-labels // 64))
    cpu, gpu = actor_seconds(planning, score_gflop(planning, train), images=held_out.rows)
    constants = planning.constants
    planning.stages.append(
        Stage(
            f"evaluate_{model}",
            model,
            runs_on="gpu" if gpu else "cpu",
            rows_in=held_out.rows,
            passes=1,
            tasks=3 * blocks + partitions,
            files=1,
            requests=planning.read_requests(held_out.num_files)
            .plus(planning.image_requests(held_out, batch=batch))
            .plus(planning.write_requests(1)),
            cpu_seconds=cpu + held_out.rows * constants["decode_image"] + 3 * blocks * constants["task"],
            gpu_seconds=gpu,
            width=actor_gpus(planning) if gpu else 0.0,
            starts=constants["pass_start"] + constants["model_start"],
            store_bytes=2 * score_bytes,
            driver_bytes=constants["driver_base"] + blocks * constants["driver_block"],
            references=planning.shuffle_references(score_bytes, partitions=partitions),
            unit_rows=held_out.rows,
        )
    )


def add_represent(planning: Planning, samples: Table) -> None:
    """Count `represent`: nothing is trained where published encoders are named.

    Args:
        planning: gets the stage.
        samples: images to train on.
    """
    constants, represent = planning.constants, planning.config.represent
    if not represent.is_trained:
        planning.stages.append(
            Stage(
                "represent",
                "represent",
                tasks=1,
                starts=constants["process_start"],
                driver_bytes=constants["driver_base"],
            )
        )
        return
    real = 0 if represent.images == "synthetic" else samples.rows
    captions = 0 if represent.images == "real" else min(represent.num_captions, samples.rows)
    if represent.real_pairs == "selected":
        real = min(real, represent.num_captions)
    table = Table(samples.layout, real + captions, samples.row_bytes)
    add_training(planning, "represent", represent.train, table, views=represent.num_views)


def add_encode(planning: Planning, samples: Table) -> None:
    """Count `encode`, where a training has `views`: each image's crops through the frozen image encoder, once a run.

    Args:
        planning: gets the stage.
        samples: images to train on.
    """
    config, constants = planning.config, planning.constants
    train = next((train for train in (config.pretrain, config.retrain, config.finetune) if train.views), None)
    if train is None:
        return
    views = train.views or 1
    gflop, tokens, width = encoder_gflop(config, image_size=train.image_size, window_size=train.window_size)
    cpu, gpu = actor_seconds(planning, views * gflop, images=samples.rows)
    planning.add(
        "encode",
        "encode",
        samples,
        planning.image_pass(samples.row_bytes),
        row_bytes=views * (tokens + 1) * width * 2.0,
        work=views * constants["crop_image"] + cpu / max(1, samples.rows),
        image_batch=16,
        files_each=2,
        runs_on="gpu" if gpu else "cpu",
        gpu_seconds=gpu,
        width=actor_gpus(planning) if gpu else 0.0,
        starts=constants["model_start"],
    )


def add_copies(planning: Planning, train: TrainConfig, samples: Table, *, rows: int | None = None) -> None:
    """Count `copies`, where a training has `copy_side`: a table of the images, then a task for each of its buckets.

    Args:
        planning: gets the stage.
        train: section of the training.
        samples: all images.
        rows: images that are copied; None: all.
    """
    assert train.copy_side
    constants, config = planning.constants, planning.config
    rows = samples.rows if rows is None else rows
    buckets = min(count_buckets(samples.rows), rows)
    blocks = samples.rows / config.data.rows_per_block
    table_bytes = rows * samples.row_bytes
    partitions, _ = count_read_tasks(
        samples.num_files, samples.nbytes * constants["memory_ratio"], cpus=planning.cluster.cpus
    )
    written = min(buckets + partitions, rows)
    shared = min(1.0, constants["image_bytes"] / NEIGHBOUR_BYTES)
    images = Requests(get=rows * (shared if keeps_neighbours(count_buckets(samples.rows)) else 1.0))
    planning.stages.append(
        Stage(
            copies_name(train.copy_side),
            "copies",
            rows_in=samples.rows,
            rows_out=rows,
            passes=1,
            tasks=blocks + 2 * partitions + min(buckets, 1000),
            files=2 * buckets,
            work_files=written,
            requests=planning.read_requests(samples.num_files + written)
            .plus(planning.write_requests(written + 2 * buckets))
            .plus(images),
            cpu_seconds=rows * (constants["crop_image"] + constants["table_row"]),
            starts=2 * constants["pass_start"],
            store_bytes=TABLE_COPIES * table_bytes * constants["memory_ratio"],
            disk_bytes=rows * _read_bytes(planning, train),
            driver_bytes=constants["driver_base"] + blocks * constants["driver_block"],
            blocks=blocks,
            references=planning.shuffle_references(table_bytes, partitions=partitions),
            unit_rows=rows,
        )
    )


def score_gflop(planning: Planning, train: TrainConfig, *, captions: int = 0) -> float:
    """GFLOP of a forward pass of the tagger, with so many captions an image."""
    sizes = {"image_size": train.image_size, "window_size": train.window_size, "num_labels": planning.workload.labels}
    parts = forward_gflop(planning.config, **sizes)
    return parts["encoder"] + parts["head"] + captions * parts["captions"]


def teacher_gflop(planning: Planning) -> float:
    """GFLOP of the encoder that embeds crops and is distilled, for one image."""
    config = planning.config
    if config.represent.clip:
        return planning.constants["teacher_gflop"]
    train = config.represent.train if config.represent.is_trained else config.pretrain
    return encoder_gflop(config, image_size=train.image_size, window_size=train.window_size)[0]


def actor_seconds(planning: Planning, gflop: float, *, images: float) -> tuple[float, float]:
    """CPU seconds and GPU seconds of models in actors.

    Args:
        planning: has the constants.
        gflop: of an image.
        images: number of images.

    Returns:
        One of the two is 0.
    """
    constants, config = planning.constants, planning.config
    if not config.resources.actor_gpus:
        precision = "bf16" if config.training.precision == "bf16" else "fp32"  # auto: no processor is known here
        return images * gflop / constants[f"cpu_gflops_{precision}"], 0.0
    return 0.0, images * gflop / (gpu_gflops(planning) * constants["gpu_share_forward"])


def gpu_gflops(planning: Planning) -> float:
    """Peak of a GPU of the cluster, GFLOP/s; of an A100 where none is known."""
    machine = planning.cluster.gpu
    return 1000 * (machine.gpu_tflops if machine and machine.gpu_tflops else 312.0)


def actor_gpus(planning: Planning) -> float:
    """GPUs that the actors of a step can use."""
    resources = planning.config.resources
    return resources.most_actors * resources.actor_gpus


def _training_seconds(planning: Planning, train: TrainConfig) -> float:
    """Seconds of a GPU or a CPU core for a step's image."""
    constants, config, labels = planning.constants, planning.config, planning.workload.labels
    total = training_gflop(config, train, num_labels=labels, teacher=teacher_gflop(planning))
    if not config.training.use_gpu:
        return total / constants["cpu_gflops_training"]
    encoder, _, _ = encoder_gflop(config, image_size=train.image_size, window_size=train.window_size)
    encoder *= 4 if config.training.recompute else 3
    peak = gpu_gflops(planning)
    slow = encoder / (peak * constants["gpu_share_training"])
    return slow + max(0.0, total - encoder) / (peak * constants["gpu_share_training_head"])


def _read_bytes(planning: Planning, train: TrainConfig) -> float:
    """Bytes of an image that a training reads: of the data, or of its copy, whose longer side is 4/3 of the shorter."""
    constants, side = planning.constants, train.copy_side
    copied = constants["copy_pixel_bytes"] * side**2 * 4 / 3 if side else math.inf
    return min(constants["image_bytes"], copied)


def _training_bytes(planning: Planning, train: TrainConfig) -> float:
    """Memory of a GPU in training."""
    constants, config = planning.constants, planning.config
    share = train.batch_size / config.training.max_workers
    images = min(train.micro_batch_size or share, share)
    recompute = config.training.recompute
    size = constants["gpu_memory_image_recompute" if recompute else "gpu_memory_image"]
    grown = (train.image_size / 224) ** 1.5 if train.image_size > 224 and not recompute else 1.0
    return constants["gpu_memory_fixed"] + images * size * grown
