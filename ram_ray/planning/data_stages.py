"""The stages before the first training, counted as `pipeline.prepare` runs them; those of captions: `label_stages`."""

from __future__ import annotations

from ram_ray.curation.duplicates import ROWS_PER_PART
from ram_ray.curation.fingerprints import FingerprintSettings
from ram_ray.curation.hash_table import ROWS_PER_FILE, plan_work
from ram_ray.planning.label_stages import add_label_system, add_labels, add_parse
from ram_ray.planning.layout import Layout
from ram_ray.planning.plan import Requests, Stage
from ram_ray.planning.rows_stage import Planning, Table
from ram_ray.planning.training_stages import add_encode, add_represent
from ram_ray.training.vocabulary import MAX_CAPTIONS


def add_data_stages(planning: Planning) -> tuple[Table, Table | None]:
    """Count the stages from shards to labels.

    Args:
        planning: gets the stages.

    Returns:
        The annotations of the images to train on, and of the held-out images.
    """
    samples = add_shards(planning)
    held_out = add_shards(planning, held_out=True) if planning.workload.held_out else None
    samples, held_out = add_images(planning, samples, held_out)
    add_vocabulary(planning, samples)
    add_represent(planning, samples)
    parsed = add_parse(planning, samples)
    add_label_system(planning, parsed)
    held_out_parsed = add_parse(planning, held_out, name="parse_eval") if held_out else None
    labels = add_labels(planning, parsed)
    held_out_labels = add_labels(planning, held_out_parsed, name="labels_eval") if held_out_parsed else None
    add_encode(planning, samples)
    return labels, held_out_labels


def add_shards(planning: Planning, *, held_out: bool = False) -> Table:
    """Count the stage `shards`: a task and a file for each shard; every shard is read from its front.

    Args:
        planning: gets the stage.
        held_out: whether of the held-out images.

    Returns:
        The rows.
    """
    constants, config, load = planning.constants, planning.config, planning.workload
    files, scale = planning.shards(held_out=held_out)
    layout = Layout(1, len(files) * scale, files, scale)
    rows = load.held_out if held_out else load.images
    shards, checks = layout.num_files, config.data.check == "decode"
    work = constants["decode_image"] if checks else constants["scan_header"]
    reads = Requests(get=max(shards, rows * constants["image_bytes"] / constants["shard_read_bytes"]))
    planning.stages.append(
        Stage(
            "shards_eval" if held_out else "shards",
            "shards_eval" if held_out else "shards",
            rows_in=rows,
            rows_out=rows,
            passes=1,
            tasks=shards,
            files=shards,
            requests=reads.plus(planning.write_requests(shards)),
            cpu_seconds=rows * (work + constants["read_row"] + constants["count_row"]) + shards * constants["task"],
            width=shards,
            starts=constants["pass_start"],
            driver_bytes=constants["driver_base"] + shards * constants["driver_block"],
            disk_bytes=rows * constants["sample_bytes"],
            unit_rows=rows,
        )
    )
    return Table(layout, rows, constants["sample_bytes"])


def add_images(planning: Planning, samples: Table, held_out: Table | None) -> tuple[Table, Table | None]:
    """Count `fingerprints`, `duplicates` and `images`, where copies are looked for.

    Args:
        planning: gets the stages.
        samples: rows to train on.
        held_out: held-out rows.

    Returns:
        Both without copies.
    """
    duplicates = planning.config.data.duplicates
    if not duplicates.is_enabled:
        return samples, held_out
    prints = [_add_fingerprints(planning, samples, held_out=False)]
    prints += [_add_fingerprints(planning, held_out, held_out=True)] if held_out else []
    _add_duplicates(planning, prints)
    constants = planning.constants
    share = constants["duplicate_share"]
    step = planning.caption_pass(prints[0].rows, prints[0].row_bytes, batches=False)
    train = planning.add("images", "images", prints[0], step, row_bytes=constants["sample_bytes"], rejected=share)
    return train, held_out


def _add_fingerprints(planning: Planning, samples: Table, *, held_out: bool) -> Table:
    constants = planning.constants
    settings = FingerprintSettings.from_config(planning.config, held_out=held_out)
    step = planning.image_pass(samples.row_bytes)
    if not settings.reads_images:
        step = planning.caption_pass(samples.rows, samples.row_bytes, batches=False)
    name = "fingerprints_eval" if held_out else "fingerprints"
    return planning.add(
        name,
        "images_eval" if held_out else "images",
        samples,
        step,
        row_bytes=constants["fingerprint_bytes"],
        work=constants["fingerprint"] if settings.reads_images else 0.0,
        image_batch=32 if settings.reads_images else 0,
    )


def _add_duplicates(planning: Planning, prints: list[Table]) -> None:
    constants, duplicates = planning.constants, planning.config.data.duplicates
    rows = sum(table.rows for table in prints)
    files = sum(table.num_files for table in prints)
    hashes = max(1.0, rows / ROWS_PER_FILE)
    work = plan_work(rows, kinds=duplicates.same, near=duplicates.near is not None)
    found = rows * constants["duplicate_share"]
    parts = max(1.0, found / ROWS_PER_PART)
    reads = planning.read_requests(2 * files).plus(planning.read_requests(len(work) * hashes))
    written = min(planning.workload.shards, found)
    planning.stages.append(
        Stage(
            "duplicates",
            "images",
            rows_in=rows,
            rows_out=round(found),
            passes=2,
            tasks=2 * files + len(work) + parts,
            files=written,
            work_files=hashes + len(work),
            requests=reads.plus(planning.write_requests(hashes + len(work) + written)),
            cpu_seconds=rows * (constants["pair_search"] + 2 * constants["count_row"]) + found * constants["read_row"],
            width=len(work),
            starts=4 * constants["pass_start"],
            store_bytes=found * constants["sample_bytes"] * constants["memory_ratio"],
            disk_bytes=rows * 200 + found * constants["sample_bytes"],
            driver_bytes=constants["driver_base"]
            + files * constants["driver_block"]
            + found * constants["driver_pair"],
            unit_rows=rows,
        )
    )


def add_vocabulary(planning: Planning, samples: Table) -> None:
    """Count `vocabulary`: one task, over at most `MAX_CAPTIONS` captions where the tokenizer is trained.

    Args:
        planning: gets the stage.
        samples: rows to train on.
    """
    constants, trained = planning.constants, planning.config.tokenizer == "trained"
    captions = min(MAX_CAPTIONS, samples.rows * constants["captions_an_image"]) if trained else 0
    files = samples.num_files * min(1.0, captions / max(1, samples.rows)) if trained else 0.0
    planning.stages.append(
        Stage(
            "vocabulary",
            "represent",
            rows_in=round(captions),
            tasks=1,
            files=1,
            requests=planning.read_requests(files).plus(planning.write_requests(1)),
            cpu_seconds=captions * constants["count_row"],
            width=1,
            starts=constants["process_start"],
            driver_bytes=constants["driver_base"],
        )
    )
