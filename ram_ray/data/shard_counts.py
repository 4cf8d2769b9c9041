"""How many images and captions shards hold, counted before a run and only as far as it is asked.

A check before a run must not read a whole data set. A data set that is too small is small, so counting ends at the
number that is enough. A Parquet file has its number of rows in its footer, and img2dataset writes a count beside each
tar. Other shards are read from the front, without decoding an image. Counts are upper bounds: later, rows may be
rejected.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import pyarrow.parquet as pq

from ram_ray.data.samples import NO_COLUMNS, Read, Sample
from ram_ray.data.shards import DEFAULT_LAYOUT, Shard, read_samples
from ram_ray.runtime.location import locate
from ram_ray.settings.data import LayoutConfig


def count_images(shards: Iterable[Shard], *, enough: int, layout: LayoutConfig = DEFAULT_LAYOUT) -> int | None:
    """Count the images of shards, until there are enough.

    Args:
        shards: shards of any format.
        enough: number at which counting ends.
        layout: how images and captions lie in their files.

    Returns:
        Most images that the shards can give, or a number of at least `enough`; None if a shard cannot be read.
    """
    return _sum((number for shard in shards for number in _image_numbers(shard, layout)), enough=enough)


def count_captions(shards: Iterable[Shard], *, enough: int, layout: LayoutConfig = DEFAULT_LAYOUT) -> int | None:
    """Count the captions of shards, until there are enough.

    Args:
        shards: shards of any format.
        enough: number at which counting ends.
        layout: how images and captions lie in their files.

    Returns:
        Most captions that the shards can give, or a number of at least `enough`; None if a shard cannot be read.
    """
    return _sum((len(sample.captions) for shard in shards for sample in _samples(shard, layout)), enough=enough)


def _sum(numbers: Iterable[int], *, enough: int) -> int | None:
    """Add up numbers until there are enough; None if they cannot be read to that point."""
    count = 0
    try:
        for number in numbers:
            count += number
            if count >= enough:
                break
    except Exception:  # each storage has its own errors, and the stage `shards` says what is wrong
        return None
    return count


def _image_numbers(shard: Shard, layout: LayoutConfig) -> Iterator[int]:
    """Numbers of images that add up to those of a shard: the number that it states, or one for each sample."""
    stated = _stated_images(shard)
    return (1 for _ in _samples(shard, layout)) if stated is None else iter([stated])


def _samples(shard: Shard, layout: LayoutConfig) -> Iterator[Sample]:
    """The samples of a shard that have no problem with their texts; images are not looked at."""

    def accept(read: Read, nbytes: int) -> tuple[int, int]:
        return 1, 1

    for sample in read_samples(shard, check_image=accept, layout=layout):
        if sample.problem is None:
            yield sample
        elif sample.key == NO_COLUMNS:
            raise ValueError(sample.problem.detail)


def _stated_images(shard: Shard) -> int | None:
    """The number of images that a shard itself states; None if it states none."""
    fs, path = locate(shard.uri)
    if shard.format == "parquet":
        with fs.open(path, "rb") as file:
            return pq.ParquetFile(file).metadata.num_rows
    if shard.format == "tar":
        try:
            stats = json.loads(fs.cat_file(f"{path.removesuffix('.tar')}_stats.json"))
        except (FileNotFoundError, ValueError):
            return None
        number = stats.get("successes") if isinstance(stats, dict) else None
        return number if isinstance(number, int) else None
    return None
