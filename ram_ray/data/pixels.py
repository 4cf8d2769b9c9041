"""Annotation rows with their images: read by byte range, decoded and resized to one size, in a Ray Data task.

An image that cannot be decoded is not dropped and not replaced: its row gets a reason, and zeros as pixels, which the
next stage must not use.

A stage that needs more than the square of the tagger, as a region detector, also gets the decoded image in its own
proportions (`rgb`, `width`, `height`), shrunk to bounds of its sides, so that a block of images has bounded memory.
`to_images` makes images of these columns again.

Letters: S pixels a side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from PIL import Image

from ram_ray.data.images import Limits, decode, read_bytes
from ram_ray.data.preprocess import resize_square
from ram_ray.records import Reject
from ram_ray.settings.runtime import Execution

if TYPE_CHECKING:
    from ray.data import Dataset

BLOCKS_IN_STORE = 64  # of decoded images


def add_pixels(block: pa.Table, *, size: int, limits: Limits, bounds: tuple[int, int] | None = None) -> pa.Table:
    """Read and decode the images of rows; a row whose image cannot be read or decoded gets `reason` and `detail`.

    Args:
        block: rows with uri, offset, nbytes, reason and detail.
        size: S.
        limits: limits of sides, pixels and bytes.
        bounds: most pixels of the shorter and of the longer side of the images in `rgb`; None: no such column.

    Returns:
        The rows with a column `pixels`: uint8 (S, S, 3), RGB. With `bounds` also `width` and `height` int32 in pixels,
        and `rgb`, the bytes of uint8 (height, width, 3); width, height and bytes are null for a row with a reason.
    """
    from ray.data.extensions import ArrowTensorArray

    columns = (block[name].to_pylist() for name in ("uri", "offset", "nbytes"))
    pixels = np.zeros((len(block), size, size, 3), dtype=np.uint8)
    contents: list[bytes | None] = [None] * len(block)
    sizes: list[tuple[int, int] | tuple[None, None]] = [(None, None)] * len(block)
    reasons, details = block["reason"].to_pylist(), block["detail"].to_pylist()
    for index, data in enumerate(read_bytes(*columns)):
        try:
            if isinstance(data, Reject):
                raise data
            image = decode(data, limits=limits)
            pixels[index] = resize_square(image, size=size)
            if bounds:
                image = shrink(image, bounds=bounds)
                contents[index], sizes[index] = image.tobytes(), image.size
        except Reject as reject:
            reasons[index], details[index] = reject.reason, reject.detail
    for name, values in (("reason", reasons), ("detail", details)):
        block = block.set_column(block.schema.get_field_index(name), name, pa.array(values, pa.string()))
    block = block.append_column("pixels", ArrowTensorArray.from_numpy(pixels))
    if bounds:
        for name, index in (("width", 0), ("height", 1)):
            block = block.append_column(name, pa.array([size[index] for size in sizes], pa.int32()))
        block = block.append_column("rgb", pa.array(contents, pa.large_binary()))  # a block may be over 2 GB
    return block


def shrink(image: Image.Image, *, bounds: tuple[int, int]) -> Image.Image:
    """Shrink an image in its own proportions until its sides are within the bounds; a smaller one is not changed.

    Args:
        image: RGB.
        bounds: most pixels of the shorter and of the longer side.

    Returns:
        An RGB image.
    """
    sides = sorted(image.size)
    scale = min(bound / side for bound, side in zip(bounds, sides, strict=True))
    if scale >= 1:
        return image
    width, height = (max(1, round(scale * side)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def to_images(batch: Mapping[str, np.ndarray], rows: Sequence[int]) -> list[Image.Image]:
    """Make images of the columns `rgb`, `width` and `height`.

    Args:
        batch: numpy columns, as `add_pixels` makes them with `bounds`.
        rows: indices of rows without a reason.

    Returns:
        An RGB image for each index.
    """
    sizes = ((int(batch["width"][row]), int(batch["height"][row])) for row in rows)
    return [Image.frombytes("RGB", size, batch["rgb"][row]) for row, size in zip(rows, sizes, strict=True)]


def rows_of_pixels(*, size: int, batch_size: int, execution: Execution) -> int:
    """Rows of a block of decoded images: whole batches that fill a small share of the object store.

    Ray Data gives half of the store to the steps of a stage. A step whose block is larger than its share waits until
    the step after it has nothing to do; then one actor of a model works, and the others wait.

    Args:
        size: pixels a side.
        batch_size: rows of a batch of the model.
        execution: how the stages of the run are executed.

    Returns:
        Rows, at most those of a block of the run, which it is where the size of the store is Ray's own.
    """
    if execution.resources.object_store_gb is None:
        return execution.rows_per_block
    fitting = int(execution.resources.object_store_gb * 1e9 / BLOCKS_IN_STORE) // (3 * size * size)
    return min(execution.rows_per_block, max(batch_size, fitting // batch_size * batch_size))


def with_pixels(
    dataset: Dataset, *, size: int, batch_size: int, execution: Execution, bounds: tuple[int, int] | None = None
) -> Dataset:
    """Add decoded images to a dataset, in tasks, as `add_pixels` does.

    Args:
        dataset: rows with uri, offset, nbytes, reason and detail.
        size: S.
        batch_size: rows of a task.
        execution: how the stages of the run are executed.
        bounds: as of `add_pixels`.

    Returns:
        The dataset with the columns of `add_pixels`, in blocks of at most `rows_of_pixels` rows.
    """

    def pixels(block: pa.Table) -> pa.Table:
        return add_pixels(block, size=size, limits=execution.limits, bounds=bounds)

    rows = rows_of_pixels(size=bounds[1] if bounds else size, batch_size=batch_size, execution=execution)
    if rows < execution.rows_per_block:
        dataset = dataset.repartition(target_num_rows_per_block=rows)
    return dataset.map_batches(pixels, batch_format="pyarrow", batch_size=batch_size, num_cpus=execution.task_cpus)
