"""The page of a comparison of two systems: the means, the classes that got worse and better, and images of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from ram_ray.data.fetch import read_bytes
from ram_ray.data.images import Limits, decode
from ram_ray.evaluation.benchmark import SetResult
from ram_ray.evaluation.changed_images import ChangedImage, find_changed_images, locate_images
from ram_ray.evaluation.sets.rows import look_up_sizes
from ram_ray.records import Json, Reject
from ram_ray.reporting.rendering import render

SIDE = 160  # pixels of the longer side of an image
MAX_CLASSES = 40  # of a set whose images are shown
SHOWN_LINES = 200  # of the table of classes, from each end


@dataclass(frozen=True)
class ShownImage:
    """An image of a class that differs."""

    image: ChangedImage
    jpeg: str | None  # base64; None: it cannot be read


@dataclass(frozen=True)
class ComparedSet:
    """The comparison on one set."""

    name: str
    num_images: int
    comparison: Json
    lines: Sequence[Json]  # of the table
    images: Sequence[tuple[str, Sequence[ShownImage]]]  # by class


@dataclass(frozen=True)
class Page:
    """What the template fills in."""

    title: str
    first: str
    second: str
    sets: Sequence[ComparedSet]
    alpha: float


def compare_page(results: Sequence[SetResult], comparisons: Sequence[Json], *, limits: Limits) -> str:
    """Make the page.

    Args:
        results: of each set.
        comparisons: of the same two systems on each set, as of `benchmark.compare_pair`.
        limits: of images.

    Returns:
        HTML.
    """
    first, second = comparisons[0]["first"], comparisons[0]["second"]
    sets = [_compared(result, comparison, limits) for result, comparison in zip(results, comparisons, strict=True)]
    page = Page(f"{first} and {second}", first, second, sets, comparisons[0]["alpha"])
    return render("compare.html.j2", page)


def _compared(result: SetResult, comparison: Json, limits: Limits) -> ComparedSet:
    lines = comparison["per_class"]
    shown = lines if len(lines) <= 2 * SHOWN_LINES else [*lines[:SHOWN_LINES], *lines[-SHOWN_LINES:]]
    named = [*comparison["worse"], *comparison["better"]][:MAX_CLASSES]
    folders = [result.folders[comparison[which]] for which in ("first", "second")]
    changed = find_changed_images(folders, named) if result.eval_set.has_images else []
    jpegs = _thumbnails(result, sorted({image.key for image in changed}), limits)
    images = [
        (name, [ShownImage(image, jpegs.get(image.key)) for image in changed if image.class_name == name])
        for name in named
    ]
    num_images = max(measured.manifest.images for measured in result.measured.values())
    return ComparedSet(result.eval_set.name, num_images, comparison, shown, [item for item in images if item[1]])


def _thumbnails(result: SetResult, keys: Sequence[str], limits: Limits) -> dict[str, str]:
    rows = list(locate_images(result.eval_set, keys).values())
    if not rows:
        return {}
    rows = [row for row in look_up_sizes(pa.Table.from_pylist(rows)).to_pylist() if row["reason"] is None]
    jpegs = {}
    contents = read_bytes(*([row[name] for row in rows] for name in ("uri", "offset", "nbytes")))
    for row, content in zip(rows, contents, strict=True):
        try:
            if isinstance(content, Reject):
                raise content
            image = decode(content, limits=replace(limits, min_side=1), size=SIDE)
        except Reject:
            continue  # the page says that it cannot be read
        image.thumbnail((SIDE, SIDE))
        data = io.BytesIO()
        image.save(data, "JPEG", quality=70)
        jpegs[row["key"]] = base64.b64encode(data.getvalue()).decode()
    return jpegs
