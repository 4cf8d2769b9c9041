"""The page of the duplicates: how many were found of each kind, and a sample of pairs beside each other.

The sample has the pairs with the smallest hash of their key, a bounded number of each kind. A task reads the pairs and
the images, so that the driver holds small JPEGs alone.
"""

from __future__ import annotations

import base64
import heapq
import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import fsspec
import pyarrow.parquet as pq

from ram_ray.data.images import Limits, decode, read_bytes
from ram_ray.records import Reject, Row
from ram_ray.reporting.rendering import render
from ram_ray.results import Duplicates
from ram_ray.runtime.artifacts import Run, write_text
from ram_ray.runtime.key_hash import hash_key
from ram_ray.runtime.tasks import Task
from ram_ray.settings.runtime import Execution

PAGE = "duplicates.html"
MAX_PAIRS = 24  # of one kind
MAX_FILES = 500  # of pairs that are read
SIDE = 160  # pixels of the longer side of a thumbnail
_COLUMNS = ["key", "uri", "offset", "nbytes", "action", "kind", "distance"]
_COLUMNS += [f"other_{name}" for name in ("set", "key", "uri", "offset", "nbytes")]


@dataclass(frozen=True)
class ShownPair:
    """Two images beside each other, as base64 of JPEGs; None where an image cannot be read."""

    key: str
    other: str
    note: str
    image: str | None
    other_image: str | None


@dataclass(frozen=True)
class Group:
    """The pairs of one kind."""

    title: str
    pairs: Sequence[ShownPair]


@dataclass(frozen=True)
class Page:
    """What the template duplicates.html.j2 shows."""

    run: str
    counts: Sequence[tuple[str, int]]
    groups: Sequence[Group]


def describe_counts(duplicates: Duplicates) -> list[tuple[str, int]]:
    """Say what was found.

    Args:
        duplicates: of the run.

    Returns:
        A text and the number of rows, for each set, action and kind.
    """
    return [(_title(*name.split("/")), count) for name, count in duplicates.counts.items()]


def report_duplicates(run: Run, duplicates: Duplicates, *, name: str, execution: Execution) -> None:
    """Write evaluation/duplicates.html.

    Args:
        run: gets the file.
        duplicates: of the run.
        name: of the run.
        execution: how the stages of the run are executed.
    """
    groups = Task(sample_pairs, num_cpus=execution.task_cpus).run(duplicates.path, execution.limits)
    page = Page(name, describe_counts(duplicates), groups)
    write_text(run.path("evaluation", PAGE), render("duplicates.html.j2", page))


def sample_pairs(path: str, limits: Limits) -> list[Group]:
    """Select pairs, and read their images.

    Args:
        path: folder of DUPLICATE rows.
        limits: of images.

    Returns:
        Groups with at most `MAX_PAIRS` pairs each; copies of held-out images first.
    """
    best: dict[tuple[bool, str, str], list[Row]] = defaultdict(list)
    for row in _read_rows(path):
        group = (not row["other_set"], row["action"], row["kind"])
        row["order"] = hash_key(row["key"])
        best[group] = heapq.nsmallest(MAX_PAIRS, [*best[group], row], key=lambda item: item["order"])
    return [
        Group(_title("train", action, kind, "train" if inside else "held-out"), _show(rows, limits=limits))
        for (inside, action, kind), rows in sorted(best.items())
    ]


def _read_rows(path: str) -> Iterator[Row]:
    fs, root = fsspec.url_to_fs(path)
    for name in sorted(fs.glob(f"{root}/set=0/**/*.parquet"))[:MAX_FILES]:
        with fs.open(name, "rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(columns=_COLUMNS):
                yield from (row for row in batch.to_pylist() if row["action"] != "gets")


def _show(rows: Sequence[Row], *, limits: Limits) -> list[ShownPair]:
    columns = [
        [row[f"{prefix}{name}"] for row in rows for prefix in ("", "other_")] for name in ("uri", "offset", "nbytes")
    ]
    images = [_thumbnail(content, limits=limits) for content in read_bytes(*columns)]
    return [
        ShownPair(
            row["key"],
            row["other_key"],
            _describe(row["kind"], row["distance"]),
            images[2 * index],
            images[2 * index + 1],
        )
        for index, row in enumerate(rows)
    ]


def _describe(kind: str, distance: int) -> str:
    near = {"near": f"{distance} of 63 bits differ", "embedding": f"cosine of embeddings {1 - distance / 1000:.3f}"}
    return near.get(kind, f"equal {kind}")


def _thumbnail(content: bytes | Reject, *, limits: Limits) -> str | None:
    if isinstance(content, Reject):
        return None
    try:
        image = decode(content, limits=limits, size=SIDE)
    except Reject:
        return None
    image.thumbnail((SIDE, SIDE))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=70)
    return base64.b64encode(data.getvalue()).decode()


def _title(set_name: str, action: str, kind: str, other: str) -> str:
    what = {
        "merged": "merged into a row of the same image",
        "left_out": "left out",
        "placeholder": "left out as a placeholder",
        "listed": "listed, and trained on",
    }[action]
    by = {"near": "near duplicates", "embedding": "near duplicates by embeddings"}.get(kind, f"equal {kind}")
    whose = "held-out images" if other != "train" and set_name == "train" else "other images"
    rows = "training rows" if set_name == "train" else "held-out rows"
    return f"{rows} that are copies of {whose} ({by}): {what}"
