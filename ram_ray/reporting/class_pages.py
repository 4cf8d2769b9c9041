"""The pages of the classes of an evaluation: an overview by AP, and of each class its curves, confusions and images.

Up to `CLASSES_PER_FILE` classes the overview has the sections of the classes too, and there is one file. Of more
classes the sections are in further files, at most `MAX_FILES`. The rows of `class_details` lie in the order of the
pages, so one file's classes are held at once, with the thumbnails of all: at most `MAX_IMAGES` and `MAX_BYTES`. Where
these do not suffice, each class gets its first images before any gets more, the lowest AP first.

The overview is written last and names the digest of its data: a finished set of pages is not made again.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import fsspec

import ram_ray
from ram_ray.evaluation.class_curves import Reliability, add_reliabilities
from ram_ray.evaluation.class_details import GROUPS, MAX_IMAGES, read_details, reliability_of
from ram_ray.records import Json
from ram_ray.reporting.class_sections import (
    ClassLine,
    RangeLine,
    Section,
    ShownImage,
    make_section,
    range_lines,
    reliability_chart,
)
from ram_ray.reporting.engine_images import Bounds, select_within
from ram_ray.reporting.line_chart import LineChart
from ram_ray.reporting.rendering import render
from ram_ray.runtime.artifacts import write_text
from ram_ray.runtime.location import locate
from ram_ray.runtime.storage import remove_folder

CLASSES_PER_FILE = 100
MAX_FILES = 40
MAX_BYTES = 30_000_000  # of all JPEGs; a third more in the pages
NUM_PAIRS = 20  # confusions of the overview
INDEX = "index.html"
BOUNDS = Bounds(side=120)  # of a thumbnail
_LIGHT = [
    *("index", "class", "num_images", "num_positives", "ap", "threshold", "tp", "fp", "fn"),
    *("counts", "score_sums", "positives", "confusions"),
]
Cut = Callable[[Sequence[str]], Mapping[str, bytes]]


@dataclass(frozen=True)
class Subject:
    """What the pages are about."""

    title: str
    subtitle: str
    details: str  # URI of the rows of `class_details`
    digest: str  # of the data
    back: str | None = None  # link to the page that leads here
    back_text: str = "report of the run"


@dataclass(frozen=True)
class Pair:
    """A class that is predicted where another is true."""

    wrong: ClassLine
    right: ClassLine
    count: int
    lift: float


@dataclass(frozen=True)
class Page:
    """What the template fills in."""

    subject: Subject
    digest: str
    mean_ap: float | None
    num_counted: int
    reliability: Reliability | None
    mean_error: float | None  # mean of the classes' calibration errors
    chart: LineChart | None
    ranges: Sequence[RangeLine]
    lines: Sequence[ClassLine]
    pairs: Sequence[Pair]
    sections: Sequence[Section]  # empty where they are in other files
    num_shown: int  # images
    num_selected: int


@dataclass(frozen=True)
class SectionPage:
    """A further file."""

    subject: Subject
    number: int
    num_files: int
    sections: Sequence[Section]


def write_class_pages(folder: str, subject: Subject, *, cut: Cut) -> bool:
    """Write the pages; what an earlier call left is replaced, unless it is of the same data.

    Args:
        folder: path or URI.
        subject: what they are about.
        cut: cuts the thumbnails of images by their keys; those that cannot be read are missing.

    Returns:
        Whether anything was written.
    """
    digest = _page_digest(subject)
    if _is_written(folder, digest):
        return False
    remove_folder(*fsspec.url_to_fs(folder))
    rows = list(read_details(subject.details, columns=_LIGHT))
    per_file = max(CLASSES_PER_FILE, math.ceil(len(rows) / MAX_FILES))
    num_files = 1 if len(rows) <= CLASSES_PER_FILE else math.ceil(len(rows) / per_file)
    files = [INDEX] if num_files == 1 else [f"classes-{number:02}.html" for number in range(1, num_files + 1)]
    lines = [
        ClassLine.of_row(row, "" if num_files == 1 else files[order // per_file]) for order, row in enumerate(rows)
    ]
    by_name = {line.name: line for line in lines}
    shown, num_selected = choose_images(subject.details, cut)
    details = read_details(subject.details)
    sections: list[Section] = []
    for number, file in enumerate(files, 1):
        first = (number - 1) * per_file
        sections = [
            make_section(row, order, lines=lines, by_name=by_name, images=_images(row, shown))
            for order, row in enumerate(islice(details, per_file), first)
        ]
        if file != INDEX:
            write_text(
                f"{folder}/{file}", render("class_file.html.j2", SectionPage(subject, number, num_files, sections))
            )
            sections = []
    page = _overview(subject, digest, rows, lines, sections, num_shown=len(shown), num_selected=num_selected)
    write_text(f"{folder}/{INDEX}", render("class_pages.html.j2", page))
    return True


def choose_images(details: str, cut: Cut) -> tuple[dict[tuple[int, str, str], bytes | None], int]:
    """Choose the images that are shown, and cut their thumbnails.

    Args:
        details: URI of the rows of `class_details`.
        cut: as of `write_class_pages`.

    Returns:
        Index of the class, group and key -> JPEG (None: it cannot be read), and how many images there were to choose.
    """
    ids = [
        (row["index"], image["group"], image["key"])
        for row in read_details(details, columns=["index", "images"])
        for image in row["images"]
    ]
    groups = [id[:2] for id in ids]
    few = select_within(groups, [1] * len(ids), MAX_IMAGES)
    jpegs = cut(list(dict.fromkeys(ids[index][2] for index in few)))
    sizes = [len(jpegs.get(ids[index][2], b"")) for index in few]
    fitting = select_within([groups[index] for index in few], sizes, MAX_BYTES)
    return {ids[few[index]]: jpegs.get(ids[few[index]][2]) for index in fitting}, len(ids)


def _images(row: Json, shown: Mapping[tuple[int, str, str], bytes | None]) -> dict[str, list[ShownImage]]:
    groups: dict[str, list[ShownImage]] = {group: [] for group in GROUPS}
    for image in row["images"]:
        id = (row["index"], image["group"], image["key"])
        if id in shown:
            jpeg = shown[id]
            groups[image["group"]].append(ShownImage(image, base64.b64encode(jpeg).decode() if jpeg else None))
    return groups


def _overview(
    subject: Subject,
    digest: str,
    rows: Sequence[Json],
    lines: Sequence[ClassLine],
    sections: Sequence[Section],
    *,
    num_shown: int,
    num_selected: int,
) -> Page:
    values = [line.ap for line in lines if line.ap is not None]
    reliability = add_reliabilities(reliability_of(row) for row in rows)
    errors = [line.error for line in lines if line.error is not None]
    return Page(
        subject,
        digest,
        mean_ap=sum(values) / len(values) if values else None,
        num_counted=len(values),
        reliability=reliability,
        mean_error=sum(errors) / len(errors) if errors else None,
        chart=reliability_chart({"all classes": reliability}, title="Reliability") if reliability else None,
        ranges=range_lines(reliability) if reliability else [],
        lines=lines,
        pairs=find_pairs(rows, lines),
        sections=sections,
        num_shown=num_shown,
        num_selected=num_selected,
    )


def find_pairs(rows: Sequence[Json], lines: Sequence[ClassLine]) -> list[Pair]:
    """The most frequent pairs of a class that is wrong and one that is right on the same images.

    Args:
        rows: of `class_details`.
        lines: of the same classes, in the same order.

    Returns:
        At most `NUM_PAIRS`, those with the most images first.
    """
    by_name = {line.name: line for line in lines}
    pairs = [
        Pair(line, by_name[other["class"]], other["right"], other["lift"])
        for row, line in zip(rows, lines, strict=True)
        for other in row["confusions"]
        if other["right"]
    ]
    return sorted(pairs, key=lambda pair: (-pair.count, -pair.lift))[:NUM_PAIRS]


def _page_digest(subject: Subject) -> str:
    parts = (subject.digest, subject.title, subject.subtitle, str(subject.back), ram_ray.__version__)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _is_written(folder: str, digest: str) -> bool:
    fs, path = locate(f"{folder}/{INDEX}")
    try:
        return f'content="{digest}"'.encode() in fs.cat_file(path, start=0, end=1000)
    except FileNotFoundError:
        return False
