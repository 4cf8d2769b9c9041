"""The page evaluation/engine.html: what the data engine did in a run, from the files of its stages.

Counts come from `tally` over each step's annotations, images from `engine_pictures`, the precision-recall curve from
the last round's generation. The sample images are a stage, so a page that is written again reads no shards.
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
from ram_ray.data_engine.statistics import TallyRow, count_tags_by_fate, read_tag_counts, tally_shares
from ram_ray.label_system import LabelSystem
from ram_ray.reporting.engine_curve import read_curve
from ram_ray.reporting.engine_page import LabelChanges, Reason, Step, View, to_html
from ram_ray.reporting.engine_pictures import Bounds, read_sample_images
from ram_ray.reporting.engine_rows import OUTCOMES, SAMPLE_IMAGE, Outcome, SampleImage
from ram_ray.results import Annotations, CleanedAnnotations, GeneratedAnnotations, LabelSystemResult, SampleImages
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
    rows = read_tag_counts(count_tags_by_fate(run, config, steps[-1], labels))
    changes = label_changes(rows, system)
    shown = [label.id for label in changes if label.removed or label.added][: bounds.categories]
    crops = [step.samples for step in steps if isinstance(step, CleanedAnnotations)]
    images = sample_images(run, config, steps[-1], labels, crops=crops, tags=shown, bounds=bounds)
    changes = [
        replace(label, sample_images=[image for image in images if image["tag"] == label.id]) for label in changes
    ]
    generated = [step for step in steps if isinstance(step, GeneratedAnnotations)]
    points = read_curve(generated[-1].curve) if generated else None
    if points:
        last = to_step(generated[-1])
        precision = count_tags_by_fate(run, config, generated[-1], labels).shares.added_precision
        points = replace(points, selected=(last.recall, precision)) if last.recall and precision else points
    view = View(
        run=config.name,
        steps=[to_step(step) for step in steps],
        figures=tally_shares(rows),
        reasons=reasons(rows),
        labels=changes,
        curve=points,
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
        `engine_pictures.SAMPLE_IMAGE` rows.
    """
    settings, execution = SampleImageSettings(tags=tuple(tags), bounds=asdict(bounds)), config.execution
    inputs = [annotations, labels]
    stage = run.stage(f"look_{annotations.stage}", SampleImages, settings=settings, inputs=inputs)
    file = f"{stage.path}/pictures.parquet"
    if not stage.result:
        images = read_sample_images(
            annotations.path, crops=crops, tags=settings.tags, execution=execution, bounds=bounds
        )
        fs, path = fsspec.url_to_fs(file)
        make_folder(fs, fs._parent(path))
        with fs.open(path, "wb") as handle:
            pq.write_table(pa.Table.from_pylist([dict(image) for image in images], schema=SAMPLE_IMAGE), handle)
        stage.finish(images=len({image["key"] for image in images}), pictures=len(images))
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


def label_changes(rows: Sequence[TallyRow], system: LabelSystem) -> list[LabelChanges]:
    """Sum the counts of each label.

    Args:
        rows: of `data_engine.statistics.TALLY`.
        system: the label system of the ids.

    Returns:
        The labels that occur in `rows`, those with the most added and removed tags first.
    """
    images: Counter[tuple[int, Outcome]] = Counter()
    judged: Counter[tuple[int, Outcome]] = Counter()
    right: Counter[tuple[int, Outcome]] = Counter()
    unmentioned: Counter[int] = Counter()
    known = False
    for row in rows:
        if row["source"] == "true":
            known = True
            unmentioned[row["tag"]] += row["images"] if row["fate"] == "unsaid" else 0
            continue
        outcome: Outcome = "removed" if row["fate"] != "kept" else "kept" if row["source"] == "said" else "added"
        images[row["tag"], outcome] += row["images"]
        judged[row["tag"], outcome] += row["judged"]
        right[row["tag"], outcome] += row["right"]
    changes = [
        LabelChanges(
            id=id,
            name=system[id].name,
            kind=system[id].kind,
            kept=images[id, "kept"],
            removed=images[id, "removed"],
            added=images[id, "added"],
            right={
                outcome: right[id, outcome] / judged[id, outcome] if judged[id, outcome] else None
                for outcome in OUTCOMES
            },
            unmentioned=unmentioned[id] if known else None,
        )
        for id in sorted({row["tag"] for row in rows})
    ]
    return sorted(changes, key=lambda label: (-(label.removed + label.added), -label.kept, label.id))


def reasons(rows: Sequence[TallyRow]) -> list[Reason]:
    """Sum the removed tags by reason.

    Args:
        rows: of `data_engine.statistics.TALLY`.

    Returns:
        The sums of each reason, the most frequent first.
    """
    totals: dict[str, Reason] = {}
    for row in rows:
        if row["source"] != "true" and row["fate"] != "kept":
            total = totals.get(row["fate"], Reason(row["fate"]))
            totals[row["fate"]] = Reason(
                total.reason,
                images=total.images + row["images"],
                judged=total.judged + row["judged"],
                right=total.right + row["right"],
            )
    return sorted(totals.values(), key=lambda total: (-total.images, total.reason))
