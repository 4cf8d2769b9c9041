"""Shards: a checked row for every image in them.

Images stay in their files. Each shard is read once, and every image becomes a SAMPLE row: its location, its size, its
captions, or why it cannot be used. Every defect is one rejected row, and every row has a unique key, so that rows in
and rows out can be compared. `find.py` says what a path or glob stands for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Literal

from ram_ray.data.annotation_list import read_annotation_list
from ram_ray.data.coco import read_coco
from ram_ray.data.find import list_shards
from ram_ray.data.folder import read_folder
from ram_ray.data.images import Limits, check_bytes, decode, header
from ram_ray.data.parquet import read_parquet
from ram_ray.data.samples import ImageCheck, Read, Sample
from ram_ray.data.shard import Format, Shard, make_shards, shard_matches, shard_name
from ram_ray.data.tables import read_table
from ram_ray.data.tar import read_tar
from ram_ray.records import Reject, Row
from ram_ray.settings.data import LayoutConfig

__all__ = [
    "Format",
    "Shard",
    "list_shards",
    "make_shards",
    "read_samples",
    "scan_shard",
    "shard_matches",
    "shard_name",
]

HEADER_BYTES = 32 << 10  # read first; for a longer header the whole image is read
DEFAULT_LAYOUT = LayoutConfig()


def read_samples(
    shard: Shard, *, check_image: ImageCheck, layout: LayoutConfig = DEFAULT_LAYOUT, needs_text: bool = True
) -> Iterator[Sample]:
    """Read the samples of a shard of any format.

    Args:
        shard: the shard to read.
        check_image: function that checks an image.
        layout: how images and captions lie in their files.
        needs_text: whether a table of Parquet must have captions or labels.

    Returns:
        An iterator of samples.
    """
    uri, images = shard.uri, shard.images
    match shard.format:
        case "tar":
            return read_tar(uri, check_image=check_image, layout=layout)
        case "parquet":
            return read_parquet(uri, check_image=check_image, layout=layout, images=images, needs_text=needs_text)
        case "folder":
            return read_folder(uri, check_image=check_image, layout=layout, images=images)
        case "table":
            return read_table(uri, check_image=check_image, layout=layout, images=images)
        case "coco":
            return read_coco(uri, check_image=check_image, images=images)
        case "json":
            return read_annotation_list(uri, images=images, check_image=check_image)


def scan_shard(
    shard: Shard,
    *,
    limits: Limits,
    check: Literal["decode", "header"],
    layout: LayoutConfig = DEFAULT_LAYOUT,
    needs_text: bool = True,
) -> Iterator[Row]:
    """Read a shard, in bounded memory: a row for every image and every defect.

    An image with human labels, or with tags that came with it, needs no captions.

    Args:
        shard: the shard to read.
        limits: limits of sides, pixels and bytes.
        check: "decode" decodes whole images; "header" checks the first bytes: format and size, but not whether the end
            is missing.
        layout: how images and captions lie in their files.
        needs_text: whether a table of Parquet must have captions or labels.

    Yields:
        Columns of `records.SAMPLE` by name; a row that cannot be used has a reason.

    Raises:
        ValueError: if `check` is neither.
        OSError: if the storage fails; a defect of the content is a rejected row.
    """
    if check not in ("decode", "header"):
        raise ValueError(f"check must be 'decode' or 'header', not {check!r}")
    used: Counter[str] = Counter()
    check_image = partial(_check_image, limits=limits, check=check)
    for sample in read_samples(shard, check_image=check_image, layout=layout, needs_text=needs_text):
        yield _row(shard, sample, used)


def _check_image(read: Read, nbytes: int, *, limits: Limits, check: str) -> tuple[int, int]:
    check_bytes(nbytes, limits=limits)
    if check == "header" and nbytes > HEADER_BYTES:
        try:
            return header(read(HEADER_BYTES), limits=limits)
        except Reject as reject:
            if reject.reason in ("too_small", "too_large"):
                raise
    data = read(nbytes)
    size = header(data, limits=limits)
    if check == "decode":
        decode(data, limits=limits, size=1, exif=False)  # size 1: every byte is read, few pixels are made
    return size


def _row(shard: Shard, sample: Sample, used: Counter[str]) -> Row:
    key, problem = sample.key, sample.problem
    if key in used:
        problem = Reject("duplicate_key", f"{key[:200]!r} was used before in this shard")
        while key in used:
            used[sample.key] += 1
            key = f"{sample.key}#{used[sample.key]}"
    elif problem is None and not sample.captions and not sample.has_labels:
        problem = Reject("no_caption", "no text, or only white space")
    used[key] = 1
    width, height = sample.size or (None, None)
    return {
        "key": f"{shard.name}/{key}",
        "shard": shard.name,
        "uri": sample.uri,
        "offset": sample.offset,
        "nbytes": sample.nbytes,
        "width": width,
        "height": height,
        "url": sample.url,
        "sha256": sample.sha256,
        "captions": sample.captions,
        "labels": sample.labels,
        "negative_labels": sample.negative_labels,
        "given_tags": sample.given_tags,
        "reason": problem.reason if problem else None,
        "detail": problem.detail if problem else None,
    }
