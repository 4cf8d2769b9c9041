"""Contract: the page is written from the files of the stages, on Ray Data. Counts add up over blocks. Images come from
the shards, boxes and clusters from cleaning's samples. A page that is written again reads no shards."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ram_ray.config import RunConfig, load
from ram_ray.data_engine.clean import SAMPLE_ROWS
from ram_ray.data_engine.statistics import count_tag_statistics
from ram_ray.label_system import Label, LabelSystem
from ram_ray.records import ANNOTATION, to_table
from ram_ray.reporting.engine_images import Bounds
from ram_ray.reporting.engine_report import report_engine
from ram_ray.results import Annotations, CleanedAnnotations, GeneratedAnnotations, LabelSystemResult
from ram_ray.runtime.artifacts import Run
from ram_ray.settings.section import StageSettings
from tests.stage_results import label_system_counts
from tests.tiny import jpeg

AnyAnnotations = TypeVar("AnyAnnotations", bound=Annotations)

NUM = 50
SYSTEM = LabelSystem(Label(id, name, "object") for id, name in enumerate(["dog", "cat", "cow", "<ant>"]))


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return load(Path(__file__).parents[1] / "tiny_run.yaml", sets=["data.min_side=8"])


GENERATED = dict.fromkeys(
    (
        "generated_caption",
        "tagger",
        "added",
        "added_generated_caption",
        "added_tagger",
        "added_correct",
        "added_wrong",
    ),
    0,
)


def _write_stage(run: Run, name: str, result_type: type[AnyAnnotations], rows: list[dict], **counts) -> AnyAnnotations:
    """A finished stage of annotations, in files of two shards."""
    stage = run.stage(name, result_type, settings=StageSettings(), inputs=[])
    for shard in ("a", "b"):
        folder = Path(stage.path, f"shard={shard}")
        folder.mkdir(parents=True)
        table = to_table([row for row in rows if row["shard"] == shard], ANNOTATION)
        pq.write_table(table.drop_columns(["shard"]), folder / "0.parquet")
    zero = dict.fromkeys(("rejected", "matched", "labelled", "tp", "fp", "fn", "unknown"), 0)
    zero |= dict.fromkeys(("rows_in", "rows_out", "images"), len(rows))
    return stage.finish(**{**zero, "tags": sum(len(row["tags"]) for row in rows), **counts})


def _rows(image: Path, *, cleaned: bool) -> list[dict]:
    rows = []
    for index in range(NUM):
        caption = {"text": f"a dog & a cat {index}", "origin": "original", "tags": [0, 1], "sources": ["both"] * 2}
        tags = [{"id": 0, "origin": "parsed", "score": 1.0}, {"id": 3, "origin": "tagger", "score": 0.7}]
        removed = [{"id": 1, "reason": "outlier", "score": 0.8, "round": 1}] if cleaned else []
        tags += [] if cleaned else [{"id": 1, "origin": "parsed", "score": 1.0}]
        shard = "ab"[index % 2]
        truth = [0, 2] + ([3] if index < 20 else [])
        rows.append({"key": f"{shard}/{index}", "shard": shard, "uri": str(image), "offset": 0,
                     "nbytes": image.stat().st_size, "captions": [caption], "tags": tags, "removed": removed,
                     "truth": truth})  # fmt: skip
    return rows


def test_a_page_of_a_run(ray_cluster: None, config: RunConfig, tmp_path: Path) -> None:
    image = tmp_path / "image.jpg"
    image.write_bytes(jpeg(size=(120, 90)))
    run = Run(str(tmp_path / "run"))
    stage = run.stage("label_system", LabelSystemResult, settings=StageSettings(), inputs=[])
    Path(stage.path).mkdir(parents=True)
    SYSTEM.save(f"{stage.path}/label_system.json")
    labels = stage.finish(**label_system_counts(len(SYSTEM)))
    truth = {"labelled": NUM, "tp": NUM + 20, "fp": 30, "fn": NUM}
    samples = tmp_path / "samples"
    samples.mkdir()
    before = {**truth, **GENERATED}
    generated = _write_stage(run, "generate_1", GeneratedAnnotations, _rows(image, cleaned=False), **before)
    after = {**truth, "removals": "0", "samples": str(samples), "untouched_tags": 1234, "untouched_labels": 7}
    cleaned = _write_stage(run, "clean_1", CleanedAnnotations, _rows(image, cleaned=True), **after)
    shares = count_tag_statistics(run, config, cleaned, labels).shares
    assert shares.added_precision == 20 / NUM and shares.recovered == 20 / (NUM + 20)
    assert (shares.mentioned_false_removed, shares.true_removed) == (1.0, 0.0)

    crops = [{"key": f"{'ab'[index % 2]}/{index}", "shard": "ab"[index % 2], "tag": tag, "removed": tag == 1,
              "reason": "outlier" if tag else None, "score": 0.9, "cluster": index % 2, "box": [0, 0, 0.5, 0.5]}
             for index in range(12) for tag in (0, 1)]  # fmt: skip
    pq.write_table(to_table(crops, SAMPLE_ROWS), samples / "0.parquet")
    points = [{"added": 9, "estimated": 0.5, "recall": 0.5, "precision": 0.6, "baseline_recall": 0.5,
               "baseline_precision": 0.1}]  # fmt: skip
    Path(generated.curve).write_text(json.dumps({"points": points}))

    def report() -> str:
        return Path(
            report_engine(
                run, config, [generated, cleaned], labels, bounds=Bounds(max_labels=4, max_per_outcome=6, max_images=60)
            )
        ).read_text()

    page = report()
    assert page.count("data:image/jpeg") == 5 + 5, "of cat, removed, and of ant, added; nothing happened to the dog"
    assert len(re.findall('class="thumbnail (true|false)"', page)) == 10 and page.count('class="thumbnail false"') >= 5
    assert "1,234" in page and "of 7 labels: not selected, or too few images" in page
    assert "cluster 0" in page and "cluster 1" in page
    assert "&lt;ant&gt;" in page and "<ant>" not in page and "a dog &amp; a cat" in page
    assert f"{NUM} removed" in page and f"{NUM} added" in page and "precision 0.400" in page
    image.unlink()
    assert report() == page, "the second page is written from the stage's file"


def test_a_label_without_samples_is_shown_from_the_annotations(
    ray_cluster: None, config: RunConfig, tmp_path: Path
) -> None:
    from ram_ray.reporting.engine_images import read_sample_images

    image = tmp_path / "image.jpg"
    image.write_bytes(jpeg())
    annotations = _write_stage(Run(str(tmp_path)), "labels", Annotations, _rows(image, cleaned=True))
    (tmp_path / "samples").mkdir()
    pq.write_table(SAMPLE_ROWS.empty_table(), tmp_path / "samples" / "0.parquet")
    options = {
        "crops": [str(tmp_path / "samples")],
        "execution": config.execution,
        "bounds": Bounds(max_per_outcome=2),
    }
    images = read_sample_images(annotations.path, tags=[0, 1, 3], **options)
    strips = [(0, "kept")] * 2 + [(1, "removed")] * 2 + [(3, "added")] * 2
    assert [(image["tag"], image["outcome"]) for image in images] == strips
    assert all(image["jpeg"] and image["box"] is None for image in images)
    assert read_sample_images(annotations.path, tags=[], **options) == []
    assert isinstance(pa.Table.from_pylist(images), pa.Table)
