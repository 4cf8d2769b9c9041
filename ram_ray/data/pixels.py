"""Annotation rows with their images: read by byte range, decoded and resized to one size, in a Ray Data task.

An image that cannot be decoded is not dropped and not replaced: its row gets a reason, and zeros as pixels, which the
next stage must not use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ram_ray.data.images import Limits, read_bytes
from ram_ray.data.preprocess import to_square
from ram_ray.records import Reject
from ram_ray.settings.runtime import Execution

if TYPE_CHECKING:
    from ray.data import Dataset


def add_pixels(block: pa.Table, *, size: int, limits: Limits) -> pa.Table:
    """Read and decode the images of rows; a row whose image cannot be read or decoded gets `reason` and `detail`.

    Args:
        block: rows with uri, offset, nbytes, reason and detail.
        size: S, pixels a side.
        limits: limits of sides, pixels and bytes.

    Returns:
        The rows with a column `pixels`: uint8 (S, S, 3), RGB.
    """
    from ray.data.extensions import ArrowTensorArray

    columns = (block[name].to_pylist() for name in ("uri", "offset", "nbytes"))
    pixels = np.zeros((len(block), size, size, 3), dtype=np.uint8)
    reasons, details = block["reason"].to_pylist(), block["detail"].to_pylist()
    for index, data in enumerate(read_bytes(*columns)):
        try:
            if isinstance(data, Reject):
                raise data
            pixels[index] = to_square(data, size=size, limits=limits)
        except Reject as reject:
            reasons[index], details[index] = reject.reason, reject.detail
    for name, values in (("reason", reasons), ("detail", details)):
        block = block.set_column(block.schema.get_field_index(name), name, pa.array(values, pa.string()))
    return block.append_column("pixels", ArrowTensorArray.from_numpy(pixels))


def with_pixels(dataset: Dataset, *, size: int, batch_size: int, execution: Execution) -> Dataset:
    """Add decoded images to a dataset, in tasks, as `add_pixels` does.

    Args:
        dataset: rows with uri, offset, nbytes, reason and detail.
        size: S, pixels a side.
        batch_size: rows of a task.
        execution: how the stages of the run are executed.

    Returns:
        The dataset with a column `pixels`: uint8 (S, S, 3), RGB.
    """

    def pixels(block: pa.Table) -> pa.Table:
        return add_pixels(block, size=size, limits=execution.limits)

    return dataset.map_batches(pixels, batch_format="pyarrow", batch_size=batch_size, num_cpus=execution.task_cpus)
