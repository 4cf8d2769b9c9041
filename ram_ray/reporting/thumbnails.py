"""Thumbnails of images by their keys, cut by tasks where the images lie; the driver holds the small JPEGs alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from ram_ray.data.fetch import read_bytes
from ram_ray.data.images import decode
from ram_ray.evaluation.sets.rows import look_up_sizes
from ram_ray.records import Reject
from ram_ray.reporting.engine_images import Bounds, thumbnail
from ram_ray.runtime.rows import read_rows
from ram_ray.settings.data import Limits
from ram_ray.settings.runtime import Execution

if TYPE_CHECKING:
    from ray.data import Dataset

COLUMNS = ["key", "uri", "offset", "nbytes", "reason", "detail"]
THUMBNAIL = pa.schema([("key", pa.string()), ("jpeg", pa.binary())])


def thumbnails_of(block: pa.Table, *, keys: pa.Array, limits: Limits, bounds: Bounds) -> pa.Table:
    """Cut the thumbnails of a block of rows.

    Args:
        block: rows with `COLUMNS`, of annotations or of an evaluation set.
        keys: of the images that are asked.
        limits: of images.
        bounds: of thumbnails.

    Returns:
        THUMBNAIL rows of the images that are asked, are in the block and can be read.
    """
    asked = block.select(COLUMNS).filter(pc.is_in(block["key"], value_set=keys))
    rows = [row for row in look_up_sizes(asked).to_pylist() if row["reason"] is None]
    thumbnails = []
    contents = read_bytes(*([row[name] for row in rows] for name in ("uri", "offset", "nbytes")))
    for row, content in zip(rows, contents, strict=True):
        try:
            if isinstance(content, Reject):
                raise content
            image = decode(content, limits=replace(limits, min_side=1), size=bounds.side)
        except Reject:
            continue  # removed or broken since it was scored; the page says that it cannot be read
        thumbnails.append({"key": row["key"], "jpeg": thumbnail(image, None, bounds=bounds)})
    return pa.Table.from_pylist(thumbnails, schema=THUMBNAIL)


def cut_thumbnails(rows: Dataset, keys: Sequence[str], *, execution: Execution, bounds: Bounds) -> dict[str, bytes]:
    """Cut the thumbnails of images by their keys, in tasks.

    Args:
        rows: with `COLUMNS`.
        keys: of the images that are asked.
        execution: how the stages of the run are executed.
        bounds: of thumbnails.

    Returns:
        Key -> JPEG, of the images that can be read.
    """
    import ray

    if not keys:
        return {}
    reference, limits = ray.put(pa.array(sorted(set(keys)))), execution.limits

    def cut(block: pa.Table) -> pa.Table:
        return thumbnails_of(block, keys=ray.get(reference), limits=limits, bounds=bounds)

    thumbnails = rows.map_batches(cut, batch_format="pyarrow", batch_size=None, num_cpus=execution.task_cpus)
    return {row["key"]: row["jpeg"] for row in thumbnails.iter_rows()}


def read_locations(folder: str, *, execution: Execution, partitioned: bool) -> Dataset:
    """Read where the images of a folder of rows lie.

    Args:
        folder: of annotations, or of an evaluation set.
        execution: how the stages of the run are executed.
        partitioned: whether the folder is partitioned by shard, as annotations are.

    Returns:
        A lazy dataset with `COLUMNS`.
    """
    return read_rows(folder, execution=execution, columns=COLUMNS, partitioned=partitioned)
