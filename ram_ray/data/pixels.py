"""Annotation rows plus their pictures: read by byte range, decoded and brought to one size, in a Ray Data task.

What cannot be decoded is not dropped and not replaced: the row gets its reason, and zeros for pixels that the
stage behind must not look at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ram_ray.config import RunConfig
from ram_ray.data.images import Limits, read_bytes
from ram_ray.data.preprocess import to_square
from ram_ray.records import Reject

if TYPE_CHECKING:
    from ray.data import Dataset


def add_pixels(block: pa.Table, *, size: int, limits: Limits) -> pa.Table:
    """Rows with a place (uri, offset, nbytes) to the same rows with `pixels` uint8 (size, size, 3).

    Rows whose picture cannot be read or decoded get `reason` and `detail`.

    Args:
        block: rows with uri, offset, nbytes, reason and detail.
        size: S, pixels a side.
        limits: of sides, pixels and bytes.
    """
    from ray.data.extensions import ArrowTensorArray

    columns = (block[name].to_pylist() for name in ("uri", "offset", "nbytes"))
    pixels = np.zeros((len(block), size, size, 3), dtype=np.uint8)
    reasons, details = block["reason"].to_pylist(), block["detail"].to_pylist()
    for place, data in enumerate(read_bytes(*columns)):
        try:
            if isinstance(data, Reject):
                raise data
            pixels[place] = to_square(data, size=size, limits=limits)
        except Reject as reject:
            reasons[place], details[place] = reject.reason, reject.detail
    for name, values in (("reason", reasons), ("detail", details)):
        block = block.set_column(block.schema.get_field_index(name), name, pa.array(values, pa.string()))
    return block.append_column("pixels", ArrowTensorArray.from_numpy(pixels))


def with_pixels(dataset: Dataset, *, size: int, batch_size: int, config: RunConfig) -> Dataset:
    """Rows to rows with decoded pictures, in tasks.

    Args:
        dataset: rows with uri, offset and nbytes.
        size: S, pixels a side.
        batch_size: rows of a task.
        config: of the run.
    """
    limits = config.data.limits()

    def pixels(block: pa.Table) -> pa.Table:
        return add_pixels(block, size=size, limits=limits)

    return dataset.map_batches(
        pixels, batch_format="pyarrow", batch_size=batch_size, num_cpus=config.resources.task_cpus
    )
