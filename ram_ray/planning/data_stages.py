"""The stages before the first training, counted as `pipeline.prepare` runs them; those of captions: `label_stages`."""

from __future__ import annotations

from dataclasses import dataclass

from ram_ray.curation.duplicates import ROWS_PER_PART
from ram_ray.curation.fingerprints import FingerprintSettings
from ram_ray.curation.hash_shuffle import MAX_SLICES
from ram_ray.curation.hash_table import ROWS_PER_FILE, plan_work
from ram_ray.curation.lookup import expected_comparisons
from ram_ray.curation.perceptual_hash import SIGNATURE
from ram_ray.planning.label_stages import add_label_system, add_labels, add_parse
from ram_ray.planning.layout import Layout
from ram_ray.planning.plan import Requests, Stage
from ram_ray.planning.rows_stage import Planning, Table
from ram_ray.planning.training_stages import add_encode, add_represent
from ram_ray.training.vocabulary import MAX_CAPTIONS

HASH_BYTES = 25 + SIGNATURE.itemsize  # of a row that is shuffled: id, set, source, slice and signature


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
    search = _count_search(planning, rows)
    found = rows * constants["duplicate_share"]
    parts = max(1.0, found / ROWS_PER_PART)
    written = min(planning.workload.shards, found)
    compared = expected_comparisons(rows) if duplicates.near is not None else 0.0
    search_seconds = rows * constants["pair_search"] + compared * constants["pair_comparison"]
    planning.stages.append(
        Stage(
            "duplicates",
            "images",
            rows_in=rows,
            rows_out=round(found),
            passes=2,
            tasks=2 * files + search.tasks + parts,
            files=written,
            work_files=search.files,
            requests=planning.read_requests(2 * files + search.reads).plus(
                planning.write_requests(search.files + written)
            ),
            cpu_seconds=search_seconds
            + search.read_rows * constants["read_hash"]
            + search.moved_rows * constants["shuffle_hash"]
            + 2 * rows * constants["count_row"]
            + found * constants["read_row"],
            width=search.width,
            starts=search.starts * constants["pass_start"],
            store_bytes=max(found * constants["sample_bytes"] * constants["memory_ratio"], search.store_bytes),
            disk_bytes=rows * 200 + found * constants["sample_bytes"],
            driver_bytes=constants["driver_base"]
            + files * constants["driver_block"]
            + found * constants["driver_pair"],
            references=search.references,
            unit_rows=rows,
        )
    )


@dataclass(frozen=True)
class Search:
    """What looking for pairs takes, beside the comparing."""

    tasks: float
    files: float  # of hashes and of pairs
    reads: float  # of files
    width: float  # tasks at once
    starts: int  # executions of Ray Data
    read_rows: float  # hashes that tasks read, over all tasks
    moved_rows: float = 0.0  # hashes that are shuffled
    store_bytes: float = 0.0  # of a kind or table that is shuffled
    references: float = 0.0  # to objects of the shuffle


def _count_search(planning: Planning, rows: int) -> Search:
    """Count the search as `curation.duplicates.search` divides it: each task reads all hashes, or they are shuffled."""
    duplicates, partitions = planning.config.data.duplicates, planning.config.resources.shuffle_partitions
    hashes = max(1.0, rows / ROWS_PER_FILE)
    work = plan_work(rows, kinds=duplicates.same, near=duplicates.near is not None)
    if not any(part.num_slices > MAX_SLICES for part in work):
        return Search(
            tasks=len(work),
            files=hashes + len(work),
            reads=len(work) * hashes,
            width=len(work),
            starts=4,
            read_rows=float(rows * len(work)),
        )
    slices = work[0].num_slices
    shuffles = sum(part.slice_index == 0 for part in work)
    tables = sum(part.slice_index == 0 and bool(part.tables) for part in work)
    pairs = shuffles * slices + partitions
    shuffled_bytes = rows * (2 * HASH_BYTES if tables else HASH_BYTES - SIGNATURE.itemsize + 8)
    return Search(
        tasks=shuffles * (hashes + 2 * slices) + 2 * partitions,
        files=hashes + pairs,
        reads=shuffles * hashes + pairs,
        width=float(slices),
        starts=4 + shuffles + 1,
        read_rows=float(rows * shuffles),
        moved_rows=float(rows * (shuffles + tables)),  # a row is in the slice of its mirror image too
        store_bytes=float(shuffled_bytes),
        references=planning.shuffle_references(shuffled_bytes, partitions=slices),
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
