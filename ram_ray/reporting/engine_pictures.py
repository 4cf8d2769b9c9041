"""Pictures for a look at the data engine: a bounded sample of what each category kept, lost and gained.

A page cannot hold a run, so it holds a sample, and the question is which. Taken: the categories in which most happened,
and of each the pictures with the smallest hash of key and tag, which is a fair draw that does not depend on blocks or
machines. Cleaning's own table of samples, where there is one, says more of a crop (its box and cluster) and is taken
in place of the annotations for what was kept and removed.

Pictures are read from the shards in tasks and leave them as small JPEGs: the driver holds at most `Bounds.pictures`.
"""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from PIL import Image

from ram_ray.config import RunConfig
from ram_ray.data.ground_truth import truth_ids
from ram_ray.data.images import Limits, decode, read_bytes
from ram_ray.label_system import LabelSystem
from ram_ray.records import Reject, to_table
from ram_ray.runtime.annotate import read_rows
from ram_ray.runtime.key_hash import hash_key

WHAT = ("kept", "removed", "added")

# A picture to be shown.
PICK = pa.schema(
    [
        ("tag", pa.int32()),
        ("what", pa.string()),  # one of WHAT
        ("order", pa.int64()),  # the smallest are shown
        ("key", pa.string()),
        ("box", pa.list_(pa.float32())),  # null: the whole picture
        ("cluster", pa.int32()),
        ("reason", pa.string()),  # of removal; of what was added, its origin
        ("score", pa.float32()),
    ]
)
SHOWN = pa.schema(
    [*PICK, ("true", pa.bool_()), ("caption", pa.string()), ("jpeg", pa.binary())]  # null: not known; cannot be read
)


@dataclass(frozen=True)
class Bounds:
    """How much a page may hold."""

    categories: int = 60
    each: int = 8  # pictures kept, removed and added, of a category
    pictures: int = 1400
    side: int = 104  # pixels
    quality: int = 68  # of JPEG
    bytes: int = 6_500_000  # of all JPEGs; a third more in a page

    @property
    def each_in_all(self) -> int:
        """Pictures of a category and kind, so that all of them stay under `pictures`."""
        return max(1, min(self.each, self.pictures // (self.categories * len(WHAT))))


def pick_block(block: pa.Table, *, tags: frozenset[int], each: int, sampled: frozenset[int] = frozenset()) -> pa.Table:
    """PICK rows of a block of `records.ANNOTATION` rows, at most `each` a tag and kind.

    Args:
        block: ANNOTATION rows.
        tags: ids of the tags that are shown.
        each: most rows of one tag and kind.
        sampled: tags of which cleaning's samples say what was kept and removed: only what was added is picked.
    """
    best: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for row in block.to_pylist():
        if row["reason"] is not None:
            continue
        said = {id for one in row["captions"] or () if one["origin"] == "original" for id in one["tags"]}
        found = [(tag, "kept" if tag["id"] in said else "added", tag["origin"]) for tag in row["tags"] or ()]
        found += [(one, "removed", one["reason"]) for one in row["removed"] or ()]
        for one, what, reason in found:
            if one["id"] in tags and (what == "added" or one["id"] not in sampled):
                pick = {"tag": one["id"], "what": what, "key": row["key"], "reason": reason, "score": one["score"]}
                best[one["id"], what].append({**pick, "order": order_of(row["key"], one["id"])})
    return _smallest(best, each)


def pick_crops(block: pa.Table, *, tags: frozenset[int], each: int) -> pa.Table:
    """PICK rows of a block of `data_engine.clean.SAMPLE_ROWS`, at most `each` a tag and kind.

    Args:
        block: SAMPLE_ROWS rows.
        tags: ids of the tags that are shown.
        each: most rows of one tag and kind.
    """
    best: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for row in block.select(["key", "tag", "box", "cluster", "removed", "reason", "score"]).to_pylist():
        if row["tag"] in tags:
            what = "removed" if row.pop("removed") else "kept"
            best[row["tag"], what].append({**row, "what": what, "order": order_of(row["key"], row["tag"])})
    return _smallest(best, each)


def _smallest(best: Mapping[tuple[int, str], list[dict[str, Any]]], each: int) -> pa.Table:
    rows = [one for of_tag in best.values() for one in sorted(of_tag, key=lambda pick: pick["order"])[:each]]
    return to_table(rows, PICK)


def order_of(key: str, tag: int) -> int:
    """63 bits that look random."""
    return hash_key(f"{tag}/{key}") >> 1


def show_block(
    block: pa.Table, *, picks: Mapping[str, list[dict[str, Any]]], system: LabelSystem, limits: Limits, bounds: Bounds
) -> pa.Table:
    """SHOWN rows of the picks (by key) whose pictures lie in this block of `records.ANNOTATION` rows.

    Args:
        block: ANNOTATION rows.
        picks: PICK rows by key.
        system: the label system that ids are of.
        limits: of pictures.
        bounds: of thumbnails.
    """
    rows = [row for row in block.to_pylist() if row["key"] in picks]
    data = read_bytes(*([row[name] for row in rows] for name in ("uri", "offset", "nbytes")))
    shown = []
    for row, found in zip(rows, data, strict=True):
        truth, _ = truth_ids(row["labels"], None, system)
        original = [one for one in row["captions"] or () if one["origin"] == "original"]
        said = {id for one in original for id in one["tags"]}
        try:
            if isinstance(found, Reject):
                raise found
            picture = decode(found, limits=limits)
        except Reject:
            picture = None  # gone or broken since it was read; the page says so
        for pick in picks[row["key"]]:
            if pick["what"] == "kept" and pick["tag"] not in said:
                continue  # a crop of an added tag, which has a strip of its own
            jpeg = thumbnail(picture, pick["box"], bounds=bounds) if picture else None
            true = None if truth is None else pick["tag"] in truth
            shown.append({**pick, "true": true, "caption": original[0]["text"][:300] if original else "", "jpeg": jpeg})
    return to_table(shown, SHOWN)


def thumbnail(picture: Image.Image, box: list[float] | None, *, bounds: Bounds) -> bytes:
    """The part of a picture in a box (shares; None: all of it) as a JPEG of at most `bounds.side` pixels a side.

    Args:
        picture: RGB.
        box: x0, y0, x1, y1 in shares, 0 to 1; None: the whole picture.
        bounds: side and quality.
    """
    if box is not None:
        width, height = picture.size
        x0, y0 = min(int(box[0] * width), width - 1), min(int(box[1] * height), height - 1)
        x1, y1 = max(x0 + 1, min(width, round(box[2] * width))), max(y0 + 1, min(height, round(box[3] * height)))
        picture = picture.crop((x0, y0, x1, y1))
    scale = bounds.side / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    data = io.BytesIO()
    picture.resize(size, Image.Resampling.BILINEAR).save(data, "JPEG", quality=bounds.quality, optimize=True)
    return data.getvalue()


def read_pictures(
    annotations: str,
    *,
    crops: Iterable[str] = (),
    tags: Iterable[int],
    system: LabelSystem,
    run: RunConfig,
    bounds: Bounds,
) -> list[dict[str, Any]]:
    """SHOWN rows for the page, ordered by tag, kind and hash, within `bounds`.

    Args:
        annotations: folder of the last `records.ANNOTATION` rows.
        crops: folders of `data_engine.clean.SAMPLE_ROWS`, of each round; the last one's say what was kept.
        tags: the categories to be shown.
        system: the label system that ids are of.
        run: its configuration.
        bounds: how much the page may hold.
    """
    wanted, each, crops = frozenset(tags), bounds.each_in_all, list(crops)
    picks: list[dict[str, Any]] = []
    for place, path in enumerate(crops, start=1):
        sampled = read_rows(path, run=run, partitioned=False)
        found = _pick(sampled, lambda block: pick_crops(block, tags=wanted, each=each), run=run, each=each)
        picks += [one for one in found if one["what"] == "removed" or place == len(crops)]
    known = frozenset(one["tag"] for one in picks)
    columns = ["key", "captions", "tags", "removed", "reason"]
    picks += _pick(
        read_rows(annotations, run=run, columns=columns),
        lambda block: pick_block(block, tags=wanted, each=each, sampled=known),
        run=run,
        each=each,
    )
    by_key: dict[str, list[dict[str, Any]]] = defaultdict(list)
    strips: Counter[tuple[int, str]] = Counter()  # several rounds remove
    for one in sorted(picks, key=lambda pick: pick["order"]):
        strips[one["tag"], one["what"]] += 1
        if strips[one["tag"], one["what"]] <= each:
            by_key[one["key"]].append(one)
    reference = ray.put((dict(by_key), system))
    limits = run.data.limits()

    def show(block: pa.Table) -> pa.Table:
        found, labels = ray.get(reference)
        return show_block(block, picks=found, system=labels, limits=limits, bounds=bounds)

    shown = list(
        read_rows(annotations, run=run)
        .map_batches(show, batch_format="pyarrow", batch_size=None, num_cpus=run.resources.task_cpus)
        .iter_rows()
    )
    shown.sort(key=lambda one: (one["tag"], WHAT.index(one["what"]), one["order"]))
    return _within(shown, bounds.bytes)


def _pick(dataset: Any, pick: Any, *, run: RunConfig, each: int) -> list[dict[str, Any]]:
    cpus = run.resources.task_cpus

    def smallest(group: pa.Table) -> pa.Table:
        return group.sort_by("order").slice(0, each)

    picked = dataset.map_batches(pick, batch_format="pyarrow", batch_size=None, num_cpus=cpus)
    groups = picked.groupby(["tag", "what"], num_partitions=run.resources.shuffle_partitions)
    return list(groups.map_groups(smallest, batch_format="pyarrow", num_cpus=cpus).iter_rows())


def _within(shown: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """As many of the pictures as fit: the first of each strip first, so that no category is left without."""
    place: dict[tuple[int, str], int] = defaultdict(int)
    ranked = []
    for number, one in enumerate(shown):
        ranked.append((place[one["tag"], one["what"]], number))
        place[one["tag"], one["what"]] += 1
    kept, size = set(), 0
    for _, number in sorted(ranked):
        size += len(shown[number]["jpeg"] or b"")
        if size > limit:
            break
        kept.add(number)
    return [one for number, one in enumerate(shown) if number in kept]
