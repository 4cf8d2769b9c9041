"""The page evaluation/engine.html: a look at what the data engine did in a run, made of what its stages left.

Counts come from `tally` over each step's annotations, pictures from `engine_pictures`, the curve of what could be added
from the last round's generation. The pictures are a stage (`look`), so a page that is made again reads no shards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from ram_ray.config import RunConfig
from ram_ray.data.ground_truth import Counts
from ram_ray.data_engine.statistics import figures, read_tally, tally
from ram_ray.label_system import LabelSystem
from ram_ray.labels.stages import label_system_uri
from ram_ray.reporting.engine_curve import read_curve
from ram_ray.reporting.engine_page import Category, Step, View, to_html
from ram_ray.reporting.engine_pictures import SHOWN, Bounds, read_pictures
from ram_ray.runtime.artifacts import Manifest, Run, write_text
from ram_ray.runtime.storage import make_folder

CURVE = "curve.json"  # beside the rows of `generate`


def report_engine(
    run: Run,
    config: RunConfig,
    steps: Sequence[Manifest],
    labels: Manifest,
    *,
    crops: Sequence[str] = (),
    curve: str | None = None,
    bounds: Bounds | None = None,
) -> str:
    """Write the page and return its URI.

    Args:
        run: gets the page.
        config: of the run.
        steps: annotation stages in their order: the first annotations, then generated and cleaned ones of each round.
        labels: stage that built the label system.
        crops: folders of cleaning's samples (`data_engine.clean.SAMPLE_ROWS`), one a round.
        curve: URI of a curve, as `engine_curve.read_curve` reads it.
        bounds: how much the page may hold; None: the defaults of `Bounds`.
    """
    bounds = bounds or Bounds()
    system = LabelSystem.load(label_system_uri(labels.path))
    rows = read_tally(tally(run, config, steps[-1], labels))
    told = categories(rows, system)
    shown = [one.id for one in told if one.removed or one.added][: bounds.categories]
    pictures = look(run, config, steps[-1], labels, crops=crops, tags=shown, bounds=bounds)
    for place, one in enumerate(told):
        told[place] = Category(**{**vars(one), "pictures": [row for row in pictures if row["tag"] == one.id]})
    drawn = read_curve(curve) if curve else None
    generated = [one for one in steps if one.stage.startswith("generate_")]
    if drawn and generated:
        last = step_of(generated[-1])
        precision = tally(run, config, generated[-1], labels).counts["added_precision"]
        drawn = replace(drawn, chosen=(last.recall, precision)) if last.recall and precision else drawn
    view = View(
        run=config.name,
        steps=[step_of(one) for one in steps],
        figures=figures(rows),
        reasons=reasons(rows),
        categories=told,
        curve=drawn,
    )
    uri = run.path("evaluation", "engine.html")
    write_text(uri, to_html(view))
    return uri


def look(
    run: Run,
    config: RunConfig,
    annotations: Manifest,
    labels: Manifest,
    *,
    crops: Sequence[str],
    tags: Sequence[int],
    bounds: Bounds,
) -> list[dict[str, Any]]:
    """`engine_pictures.SHOWN` rows, read from the shards once.

    Args:
        run: gets the stage's folder.
        config: of the run.
        annotations: stage that left the last ANNOTATION rows.
        labels: stage that built the label system.
        crops: folders of cleaning's samples, one a round.
        tags: ids of the tags that are shown.
        bounds: how much the page may hold.
    """
    identity = {"tags": list(tags), **asdict(bounds)}
    stage = run.stage(f"look_{annotations.stage}", kind="evaluation", config=identity, inputs=[annotations, labels])
    file = f"{stage.path}/pictures.parquet"
    if not stage.manifest:
        system = LabelSystem.load(label_system_uri(labels.path))
        shown = read_pictures(annotations.path, crops=crops, tags=tags, system=system, run=config, bounds=bounds)
        fs, path = fsspec.url_to_fs(file)
        make_folder(fs, fs._parent(path))
        with fs.open(path, "wb") as handle:
            pq.write_table(pa.Table.from_pylist(shown, schema=SHOWN), handle)
        stage.finish(images=len({one["key"] for one in shown}), pictures=len(shown))
    with fsspec.open(file, "rb") as handle:
        return pq.read_table(handle).to_pylist()


def step_of(annotations: Manifest) -> Step:
    """One line of the page's table of steps."""
    counts = annotations.counts
    truth = Counts(counts["tp"], counts["fp"], counts["fn"]) if counts.get("labelled") else None
    return Step(
        annotations.stage,
        tags=counts["tags"],
        images=counts["images"],
        precision=truth.precision if truth else None,
        recall=truth.recall if truth else None,
    )


def categories(rows: Sequence[Mapping[str, Any]], system: LabelSystem) -> list[Category]:
    """TALLY rows as categories that occur, those with the most added and removed tags first."""
    images: Counter[tuple[int, str]] = Counter()
    judged: Counter[tuple[int, str]] = Counter()
    right: Counter[tuple[int, str]] = Counter()
    unsaid: Counter[int] = Counter()
    known = False
    for row in rows:
        if row["source"] == "true":
            known = True
            unsaid[row["tag"]] += row["images"] if row["fate"] == "unsaid" else 0
            continue
        what = "removed" if row["fate"] != "kept" else "kept" if row["source"] == "said" else "added"
        for total, name in ((images, "images"), (judged, "judged"), (right, "right")):
            total[row["tag"], what] += row[name]
    found = [
        Category(
            id=id,
            name=system[id].name,
            kind=system[id].kind,
            kept=images[id, "kept"],
            removed=images[id, "removed"],
            added=images[id, "added"],
            right={
                what: right[id, what] / judged[id, what] if judged[id, what] else None
                for what in ("kept", "removed", "added")
            },
            unsaid=unsaid[id] if known else None,
        )
        for id in sorted({row["tag"] for row in rows})
    ]
    return sorted(found, key=lambda one: (-(one.removed + one.added), -one.kept, one.id))


def reasons(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Removed tags by reason, the most frequent first."""
    totals: dict[str, Counter[str]] = {}
    for row in rows:
        if row["source"] != "true" and row["fate"] != "kept":
            total = totals.setdefault(row["fate"], Counter())
            for name in ("images", "judged", "right"):
                total[name] += row[name]
    told = [{"reason": reason, **total} for reason, total in totals.items()]
    return sorted(told, key=lambda one: (-one["images"], one["reason"]))
