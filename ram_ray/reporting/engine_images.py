"""Sample images of the data engine's page: a bounded sample of the kept, removed and added tags of each label.

The sample has the labels with the most changes, and of each label the images with the smallest hash of key and tag: a
uniform draw that does not depend on blocks or machines. Cleaning writes a table of sampled crops, which also holds box
and cluster. Where it exists, it replaces the annotations for kept and removed tags.

Ray tasks read the images from the shards and return small JPEGs: the driver holds at most `Bounds.max_images`.
"""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import pyarrow as pa
import ray
from PIL import Image
from ray.data import Dataset

from ram_ray.data.images import Limits, decode, read_bytes
from ram_ray.records import HUMAN, Reject, to_table
from ram_ray.reporting.engine_rows import (
    OUTCOMES,
    SAMPLE_IMAGE,
    SAMPLED_TAG,
    Annotation,
    Caption,
    Outcome,
    RemovedTag,
    SampledTag,
    SampleImage,
    Tag,
)
from ram_ray.runtime.key_hash import hash_key
from ram_ray.runtime.rows import read_rows
from ram_ray.settings.runtime import Execution


@dataclass(frozen=True)
class Bounds:
    """How much a page may hold."""

    max_labels: int = 60  # labels
    max_per_outcome: int = 8  # images of one label and outcome
    max_images: int = 1400  # images of the page
    side: int = 104  # pixels
    quality: int = 68  # of JPEG
    max_bytes: int = 6_500_000  # of all JPEGs; a third more in a page

    @property
    def per_outcome(self) -> int:
        """Images of one label and outcome, so that the sum stays under `max_images`."""
        return max(1, min(self.max_per_outcome, self.max_images // (self.max_labels * len(OUTCOMES))))


def sample_tags(block: pa.Table, *, tags: frozenset[int], each: int, sampled: frozenset[int] = frozenset()) -> pa.Table:
    """Select tags of a block of annotations, at most `each` of one label and outcome.

    Args:
        block: `records.ANNOTATION` rows.
        tags: ids of the labels that are shown.
        each: most rows of one label and outcome.
        sampled: ids of labels whose kept and removed tags come from cleaning's samples: only added tags are selected.

    Returns:
        SAMPLED_TAG rows.
    """
    best: dict[tuple[int, Outcome], list[SampledTag]] = defaultdict(list)
    for row in block.to_pylist():
        if row["reason"] is not None:
            continue
        for tag, outcome, reason in _outcomes(row):
            if tag["id"] in tags and (outcome == "added" or tag["id"] not in sampled):
                best[tag["id"], outcome].append(
                    {
                        "tag": tag["id"],
                        "outcome": outcome,
                        "order": sample_order(row["key"], tag["id"]),
                        "key": row["key"],
                        "box": None,
                        "cluster": None,
                        "reason": reason,
                        "score": tag["score"],
                    }
                )
    return _smallest(best, each)


def sample_crops(block: pa.Table, *, tags: frozenset[int], each: int) -> pa.Table:
    """Select crops of a block of cleaning's samples, at most `each` of one label and outcome.

    Args:
        block: `data_engine.clean.SAMPLE_ROWS` rows.
        tags: ids of the labels that are shown.
        each: most rows of one label and outcome.

    Returns:
        SAMPLED_TAG rows.
    """
    best: dict[tuple[int, Outcome], list[SampledTag]] = defaultdict(list)
    for row in block.select(["key", "tag", "box", "cluster", "removed", "reason", "score"]).to_pylist():
        if row["tag"] in tags:
            outcome: Outcome = "removed" if row["removed"] else "kept"
            best[row["tag"], outcome].append(
                {
                    "tag": row["tag"],
                    "outcome": outcome,
                    "order": sample_order(row["key"], row["tag"]),
                    "key": row["key"],
                    "box": row["box"],
                    "cluster": row["cluster"],
                    "reason": row["reason"],
                    "score": row["score"],
                }
            )
    return _smallest(best, each)


def _smallest(best: Mapping[tuple[int, Outcome], list[SampledTag]], each: int) -> pa.Table:
    rows = [dict(tag) for tags in best.values() for tag in sorted(tags, key=lambda tag: tag["order"])[:each]]
    return to_table(rows, SAMPLED_TAG)


def _outcomes(row: Annotation) -> list[tuple[Tag | RemovedTag, Outcome, str]]:
    """Each tag of an image, what happened to it, and its origin or the reason of its removal."""
    mentioned = _mentioned(row)
    outcomes: list[tuple[Tag | RemovedTag, Outcome, str]] = [
        (tag, "kept" if tag["id"] in mentioned else "added", tag["origin"]) for tag in row["tags"] or ()
    ]
    return outcomes + [(tag, "removed", tag["reason"]) for tag in row["removed"] or ()]


def _original(row: Annotation) -> list[Caption]:
    """The captions that came with the image."""
    return [caption for caption in row["captions"] or () if caption["origin"] == "original"]


def _mentioned(row: Annotation) -> set[int]:
    """The tags that a caption or a human label names."""
    human = {tag["id"] for tag in row["tags"] or () if tag["origin"] == HUMAN}
    return human | {id for caption in _original(row) for id in caption["tags"]}


def sample_order(key: str, tag: int) -> int:
    """The pseudo-random order of the images of a label, the same in every run.

    Args:
        key: of the image.
        tag: id of the label.

    Returns:
        A hash of 63 bits.
    """
    return hash_key(f"{tag}/{key}") >> 1


def make_thumbnails(
    block: pa.Table, *, sampled_tags: Mapping[str, list[SampledTag]], limits: Limits, bounds: Bounds
) -> pa.Table:
    """Read the images of a block of annotations and make their thumbnails.

    Args:
        block: `records.ANNOTATION` rows.
        sampled_tags: SAMPLED_TAG rows by key; those of other blocks are passed over.
        limits: of images.
        bounds: of thumbnails.

    Returns:
        SAMPLE_IMAGE rows.
    """
    rows = [row for row in block.to_pylist() if row["key"] in sampled_tags]
    data = read_bytes(*([row[name] for row in rows] for name in ("uri", "offset", "nbytes")))
    samples: list[SampleImage] = []
    for row, content in zip(rows, data, strict=True):
        truth = row["truth"]
        original = _original(row)
        mentioned, text = _mentioned(row), original[0]["text"][:300] if original else ""
        try:
            if isinstance(content, Reject):
                raise content
            image = decode(content, limits=limits)
        except Reject:
            image = None  # removed or broken since the run read it; the page says that it cannot be read
        for tag in sampled_tags[row["key"]]:
            if tag["outcome"] == "kept" and tag["tag"] not in mentioned:
                continue  # a crop of an added tag, which has a strip of its own
            jpeg = thumbnail(image, tag["box"], bounds=bounds) if image else None
            true = None if truth is None else tag["tag"] in truth
            samples.append({**tag, "true": true, "caption": text, "jpeg": jpeg})
    return to_table([dict(sample) for sample in samples], SAMPLE_IMAGE)


def thumbnail(image: Image.Image, box: list[float] | None, *, bounds: Bounds) -> bytes:
    """The region of an image in a box as a small JPEG.

    Args:
        image: RGB.
        box: x0, y0, x1, y1 as shares of width and height, 0 to 1; None: the whole image.
        bounds: `side` is the length of the longer side in pixels, `quality` that of JPEG.

    Returns:
        The JPEG's bytes.
    """
    if box is not None:
        width, height = image.size
        x0, y0 = min(int(box[0] * width), width - 1), min(int(box[1] * height), height - 1)
        x1, y1 = max(x0 + 1, min(width, round(box[2] * width))), max(y0 + 1, min(height, round(box[3] * height)))
        image = image.crop((x0, y0, x1, y1))
    scale = bounds.side / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    data = io.BytesIO()
    image.resize(size, Image.Resampling.BILINEAR).save(data, "JPEG", quality=bounds.quality, optimize=True)
    return data.getvalue()


def read_sample_images(
    annotations: str,
    *,
    crops: Iterable[str] = (),
    tags: Iterable[int],
    execution: Execution,
    bounds: Bounds,
) -> list[SampleImage]:
    """Select the images of the page and read them from the shards.

    Args:
        annotations: folder of the last `records.ANNOTATION` rows.
        crops: folders of `data_engine.clean.SAMPLE_ROWS`, one a round; kept tags come from the last one.
        tags: ids of the labels that are shown.
        execution: how the stages of the run are executed.
        bounds: how much the page may hold.

    Returns:
        SAMPLE_IMAGE rows in the order of label, outcome and hash, within `bounds`.
    """
    sampled_tags = _select(
        annotations, crops=list(crops), tags=frozenset(tags), execution=execution, each=bounds.per_outcome
    )
    reference = ray.put(sampled_tags)

    def show(block: pa.Table) -> pa.Table:
        block_tags = ray.get(reference)
        return make_thumbnails(block, sampled_tags=block_tags, limits=execution.limits, bounds=bounds)

    rows = read_rows(annotations, execution=execution).map_batches(
        show, batch_format="pyarrow", batch_size=None, num_cpus=execution.task_cpus
    )
    images = [cast(SampleImage, row) for row in rows.iter_rows()]
    images.sort(key=lambda image: (image["tag"], OUTCOMES.index(image["outcome"]), image["order"]))
    return _limit_bytes(images, bounds.max_bytes)


def _select(
    annotations: str, *, crops: list[str], tags: frozenset[int], execution: Execution, each: int
) -> dict[str, list[SampledTag]]:
    """The sampled tags of the page by key, at most `each` of one label and outcome."""
    sampled_tags: list[SampledTag] = []
    for number, path in enumerate(crops, start=1):
        samples = read_rows(path, execution=execution, partitioned=False)
        crop_tags = _sample(
            samples, lambda block: sample_crops(block, tags=tags, each=each), execution=execution, each=each
        )
        sampled_tags += [tag for tag in crop_tags if tag["outcome"] == "removed" or number == len(crops)]
    sampled = frozenset(tag["tag"] for tag in sampled_tags)
    columns = ["key", "captions", "tags", "removed", "reason"]
    sampled_tags += _sample(
        read_rows(annotations, execution=execution, columns=columns),
        lambda block: sample_tags(block, tags=tags, each=each, sampled=sampled),
        execution=execution,
        each=each,
    )
    by_key: dict[str, list[SampledTag]] = defaultdict(list)
    sizes: Counter[tuple[int, Outcome]] = Counter()  # several rounds remove tags of one label
    for tag in sorted(sampled_tags, key=lambda tag: tag["order"]):
        sizes[tag["tag"], tag["outcome"]] += 1
        if sizes[tag["tag"], tag["outcome"]] <= each:
            by_key[tag["key"]].append(tag)
    return dict(by_key)


def _sample(
    dataset: Dataset, sample: Callable[[pa.Table], pa.Table], *, execution: Execution, each: int
) -> list[SampledTag]:
    cpus = execution.task_cpus

    def smallest(group: pa.Table) -> pa.Table:
        return group.sort_by("order").slice(0, each)

    sampled_rows = dataset.map_batches(sample, batch_format="pyarrow", batch_size=None, num_cpus=cpus)
    groups = sampled_rows.groupby(["tag", "outcome"], num_partitions=execution.resources.shuffle_partitions)
    rows = groups.map_groups(smallest, batch_format="pyarrow", num_cpus=cpus).iter_rows()
    return [cast(SampledTag, row) for row in rows]


def _limit_bytes(images: list[SampleImage], limit: int) -> list[SampleImage]:
    """As many of the images as fit."""
    sizes = [len(image["jpeg"] or b"") for image in images]
    groups = [(image["tag"], image["outcome"]) for image in images]
    return [images[index] for index in select_within(groups, sizes, limit)]


def select_within(groups: Sequence[Hashable], sizes: Sequence[int], limit: int) -> list[int]:
    """Select as many items as fit: first the first of each group, so that no group is left out.

    Args:
        groups: of each item.
        sizes: of each item.
        limit: of the sum of the sizes.

    Returns:
        Indices of the items, ascending.
    """
    seen: Counter[Hashable] = Counter()
    ranked = []
    for index, group in enumerate(groups):
        ranked.append((seen[group], index))
        seen[group] += 1
    selected, total = [], 0
    for _, index in sorted(ranked):
        total += sizes[index]
        if total > limit:
            break
        selected.append(index)
    return sorted(selected)
