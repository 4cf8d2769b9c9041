"""The page evaluation/engine.html: what the data engine did in a run, from the files of its stages.

Counts come from the tag statistics of each step's annotations, images from `engine_images`, the precision-recall curve
from the last round's generation. The sample images are a stage, so a page that is written again reads no shards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from ram_ray.config import RunConfig
from ram_ray.data_engine.statistics import TagStatisticsRow, count_tag_statistics, read_tag_statistics, tag_shares
from ram_ray.evaluation_results import SampleImages
from ram_ray.label_system import LabelSystem
from ram_ray.reporting.engine_curve import read_curve
from ram_ray.reporting.engine_images import Bounds, read_sample_images
from ram_ray.reporting.engine_page import LabelChanges, Reason, Step, View, to_html
from ram_ray.reporting.engine_rows import OUTCOMES, SAMPLE_IMAGE, Outcome, SampleImage
from ram_ray.results import Annotations, CleanedAnnotations, GeneratedAnnotations, LabelSystemResult
from ram_ray.runtime.artifacts import Run, write_text
from ram_ray.runtime.storage import make_folder
from ram_ray.settings.section import StageSettings


class SampleImageSettings(StageSettings):
    """All that the images of the page depend on, beside the annotations."""

    tags: tuple[int, ...]  # ids of the labels that are shown
    bounds: dict[str, int]  # fields of `Bounds`


def report_engine(
    run: Run,
    config: RunConfig,
    steps: Sequence[Annotations],
    labels: LabelSystemResult,
    *,
    bounds: Bounds | None = None,
) -> str:
    """Write the page.

    Args:
        run: the run that gets the page.
        config: of the run.
        steps: the first annotations, then generated and cleaned ones of each round.
        labels: the label system.
        bounds: how much the page may hold; None: the defaults of `Bounds`.

    Returns:
        URI of the page.
    """
    bounds = bounds or Bounds()
    system = LabelSystem.load(labels.uri)
    rows = read_tag_statistics(count_tag_statistics(run, config, steps[-1], labels))
    changes = label_changes(rows, system)
    shown = [label.id for label in changes if label.removed or label.added][: bounds.max_labels]
    cleaned = [step for step in steps if isinstance(step, CleanedAnnotations)]
    crops = [step.samples for step in cleaned]
    images = sample_images(run, config, steps[-1], labels, crops=crops, tags=shown, bounds=bounds)
    changes = [
        replace(label, sample_images=[image for image in images if image["tag"] == label.id]) for label in changes
    ]
    generated = [step for step in steps if isinstance(step, GeneratedAnnotations)]
    points = read_curve(generated[-1].curve) if generated else None
    if points:
        last = to_step(generated[-1])
        precision = count_tag_statistics(run, config, generated[-1], labels).shares.added_precision
        points = replace(points, selected=(last.recall, precision)) if last.recall and precision else points
    view = View(
        run=config.name,
        steps=[to_step(step) for step in steps],
        figures=tag_shares(rows),
        reasons=reasons(rows),
        labels=changes,
        curve=points,
        untouched=(cleaned[-1].untouched_tags, cleaned[-1].untouched_labels) if cleaned else None,
    )
    uri = run.path("evaluation", "engine.html")
    write_text(uri, to_html(view))
    return uri


def sample_images(
    run: Run,
    config: RunConfig,
    annotations: Annotations,
    labels: LabelSystemResult,
    *,
    crops: Sequence[str],
    tags: Sequence[int],
    bounds: Bounds,
) -> list[SampleImage]:
    """Read the page's images from the shards, as a stage: a second call reads the stage's file.

    Args:
        run: the run that gets the stage's folder.
        config: of the run.
        annotations: the last ANNOTATION rows.
        labels: the label system.
        crops: folders of cleaning's samples, one a round.
        tags: ids of the labels that are shown.
        bounds: how much the page may hold.

    Returns:
        `engine_images.SAMPLE_IMAGE` rows.
    """
    settings, execution = SampleImageSettings(tags=tuple(tags), bounds=asdict(bounds)), config.execution
    inputs = [annotations, labels]
    stage = run.stage(f"sample_images_{annotations.stage}", SampleImages, settings=settings, inputs=inputs)
    file = f"{stage.path}/images.parquet"
    if not stage.result:
        images = read_sample_images(
            annotations.path, crops=crops, tags=settings.tags, execution=execution, bounds=bounds
        )
        fs, path = fsspec.url_to_fs(file)
        make_folder(fs, fs._parent(path))
        with fs.open(path, "wb") as handle:
            pq.write_table(pa.Table.from_pylist([dict(image) for image in images], schema=SAMPLE_IMAGE), handle)
        stage.finish(images=len({image["key"] for image in images}), thumbnails=len(images))
    with fsspec.open(file, "rb") as handle:
        return [cast(SampleImage, row) for row in pq.read_table(handle).to_pylist()]


def to_step(annotations: Annotations) -> Step:
    """A line of the page's table of steps.

    Args:
        annotations: of a stage.

    Returns:
        Its counts, with precision and recall where its images have labels.
    """
    truth = annotations.truth
    return Step(
        annotations.stage,
        tags=annotations.tags,
        images=annotations.images,
        precision=truth.precision if truth else None,
        recall=truth.recall if truth else None,
    )


def label_changes(rows: Sequence[TagStatisticsRow], system: LabelSystem) -> list[LabelChanges]:
    """Sum the counts of each label.

    Args:
        rows: of `data_engine.statistics.TAG_STATISTICS`.
        system: the label system of the ids.

    Returns:
        The labels that occur in `rows`, those with the most added and removed tags first.
    """
    images: Counter[tuple[int, Outcome]] = Counter()
    labelled: Counter[tuple[int, Outcome]] = Counter()
    correct: Counter[tuple[int, Outcome]] = Counter()
    unmentioned: Counter[int] = Counter()
    known = False
    for row in rows:
        if row["source"] == "truth":
            known = True
            unmentioned[row["tag"]] += row["images"] if row["status"] == "unmentioned" else 0
            continue
        outcome: Outcome = "removed" if row["status"] != "kept" else "kept" if row["source"] == "mentioned" else "added"
        images[row["tag"], outcome] += row["images"]
        labelled[row["tag"], outcome] += row["labelled"]
        correct[row["tag"], outcome] += row["correct"]
    changes = [
        LabelChanges(
            id=id,
            name=system[id].name,
            kind=system[id].kind,
            kept=images[id, "kept"],
            removed=images[id, "removed"],
            added=images[id, "added"],
            true_share={
                outcome: correct[id, outcome] / labelled[id, outcome] if labelled[id, outcome] else None
                for outcome in OUTCOMES
            },
            unmentioned=unmentioned[id] if known else None,
        )
        for id in sorted({row["tag"] for row in rows})
    ]
    return sorted(changes, key=lambda label: (-(label.removed + label.added), -label.kept, label.id))


def reasons(rows: Sequence[TagStatisticsRow]) -> list[Reason]:
    """Sum the removed tags by reason.

    Args:
        rows: of `data_engine.statistics.TAG_STATISTICS`.

    Returns:
        The sums of each reason, the most frequent first.
    """
    totals: dict[str, Reason] = {}
    for row in rows:
        if row["source"] != "truth" and row["status"] != "kept":
            total = totals.get(row["status"], Reason(row["status"]))
            totals[row["status"]] = Reason(
                total.reason,
                images=total.images + row["images"],
                labelled=total.labelled + row["labelled"],
                correct=total.correct + row["correct"],
            )
    return sorted(totals.values(), key=lambda total: (-total.images, total.reason))
