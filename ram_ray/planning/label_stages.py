"""The stages that make tags of captions: parse, the label system, labels."""

from __future__ import annotations

from ram_ray.labels.evidence import evidence_share
from ram_ray.planning.plan import Stage
from ram_ray.planning.rows_stage import Planning, Table
from ram_ray.runtime.annotate import caption_rows_per_block
from ram_ray.runtime.rows import COUNTED_ROWS

NAME_ROW_BYTES = 60  # of a name with its count, as a block gives it to Ray's group-by


def add_parse(planning: Planning, samples: Table, *, name: str = "parse") -> Table:
    """Count `parse`: the names in every caption.

    Args:
        planning: gets the stage.
        samples: its rows.
        name: of the stage.

    Returns:
        The parsed rows.
    """
    return _add_caption_stage(planning, samples, name, row_bytes="parsed_bytes", work="parse_caption")


def add_label_system(planning: Planning, parsed: Table) -> None:
    """Count `label_system`: a pass for names, one over some shards for evidence; names that are not rare are collected.

    Args:
        planning: gets the stage.
        parsed: parsed rows.
    """
    constants, config = planning.constants, planning.config
    captions = parsed.rows * constants["captions_an_image"]
    names = count_names(planning, captions)
    kept = names * config.labels.min_name_count ** -constants["rare_names_exponent"]
    names_bytes = kept * constants["driver_name"]
    share = evidence_share(parsed.rows)
    compared, passes = share * parsed.rows, 1 + share
    rows_per_block = caption_rows_per_block(round(compared), execution=config.execution)
    blocks = parsed.rows / COUNTED_ROWS + compared / rows_per_block
    partitions = config.resources.shuffle_partitions
    tasks = blocks + 2 * partitions
    counted_bytes = parsed.rows / COUNTED_ROWS * min(names, COUNTED_ROWS) * NAME_ROW_BYTES
    planning.stages.append(
        Stage(
            "label_system",
            "labels",
            rows_in=parsed.rows,
            rows_out=config.labels.max_labels,
            passes=passes,
            tasks=tasks,
            files=3,
            requests=planning.read_requests(passes * parsed.num_files).plus(planning.write_requests(6)),
            cpu_seconds=share * captions * constants["label_caption"]
            + passes * parsed.rows * constants["count_row"]
            + tasks * constants["task"],
            starts=2 * constants["pass_start"],
            driver_bytes=constants["driver_base"] + names_bytes + blocks * constants["driver_block"],
            names_bytes=names_bytes,
            blocks=blocks,
            store_bytes=counted_bytes,
            disk_bytes=2e6,
            references=planning.shuffle_references(counted_bytes, partitions=partitions),
            unit_rows=parsed.rows,
        )
    )


def count_names(planning: Planning, captions: float) -> float:
    """Estimate how many names captions mention, by Heaps' law.

    Args:
        planning: has the constants.
        captions: number of captions.

    Returns:
        Number of names.
    """
    constants = planning.constants
    return float(constants["names_at_100k"] * (captions / 1e5) ** constants["names_exponent"])


def add_labels(planning: Planning, parsed: Table, *, name: str = "labels") -> Table:
    """Count `labels`: names become ids.

    Args:
        planning: gets the stage.
        parsed: parsed rows.
        name: of the stage.

    Returns:
        The annotations.
    """
    return _add_caption_stage(planning, parsed, name, row_bytes="annotation_bytes", work="label_caption")


def _add_caption_stage(planning: Planning, rows: Table, name: str, *, row_bytes: str, work: str) -> Table:
    """Count one pass over captions; `row_bytes` and `work`, of a caption, name constants."""
    constants = planning.constants
    return planning.add(
        name,
        name,
        rows,
        planning.caption_pass(rows.rows, rows.row_bytes),
        row_bytes=constants[row_bytes],
        work=constants["captions_an_image"] * constants[work],
    )
