"""Contract: the stage `evaluate` leaves the figures of the model's own scores and rows of `class_details`; the scores
are removed. The log of the run makes pages of these with the images where they lie, once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ram_ray.config import RunConfig
from ram_ray.evaluation.class_details import CLASSES_FILE, read_details
from ram_ray.evaluation.stages import evaluate
from ram_ray.inference.predictor import Predictor
from ram_ray.records import ANNOTATION, to_table
from ram_ray.reporting.run_log import RunLog
from ram_ray.results import Annotations, LabelSystemResult, TrainedModel
from tests.data_engine.test_generate import annotation
from tests.tiny import NAMES, jpeg

RESULT = {"seconds": 1.0, "digest": "0"}
NO_TAGS = dict.fromkeys(("tags", "matched", "labelled", "tp", "fp", "fn", "unknown"), 0)
MUTED = 4
SMALL = {
    "name": "run",
    "data": {"min_side": 16, "rows_per_block": 5},
    "resources": {"task_cpus": 0.75, "actors": 1, "threads": 1},
}


def write_run(folder: Path, bundle: str) -> tuple[list[set[int]], Annotations, TrainedModel, LabelSystemResult]:
    """Rows of twelve images in two shards, one without a truth; a bundle with a muted tag; its label system."""
    rng, truths = np.random.default_rng(0), []
    for shard in range(2):
        rows = []
        for number in range(shard * 6, shard * 6 + 6):
            path = folder / f"{number:02}.jpg"
            path.write_bytes(jpeg(number))
            truths.append(set(np.flatnonzero(rng.random(len(NAMES)) < 0.5).tolist()))
            image = {"uri": str(path), "nbytes": path.stat().st_size, "offset": 0, "shard": f"{shard:05}"}
            rows.append(annotation(f"s/{number:02}", truth=sorted(truths[-1]), **image))
        if shard:
            rows.append({**rows[-1], "key": "s/rejected", "reason": "truncated", "detail": "cut"})
        place = folder / f"rows/shard={shard:05}"
        place.mkdir(parents=True)
        table = to_table(rows, ANNOTATION)
        pq.write_table(pa.table(table.drop_columns(["shard"])), place / "rows.parquet")
    shutil.copytree(bundle, folder / "bundle")
    tree = json.loads((folder / "bundle/config.json").read_text())
    (folder / "bundle/config.json").write_text(json.dumps({**tree, "muted": [MUTED]}))
    rows_of = Annotations(
        **RESULT,
        stage="labels_eval",
        path=f"{folder}/rows",
        held_out=True,
        rows_in=13,
        rows_out=12,
        rejected=1,
        images=12,
        **NO_TAGS,
    )
    counts = {"rows_in": 1, "rejected": 0, "steps": 1, "images_seen": 1, "strategy": "ddp", "image_size": 32}
    model = TrainedModel(**RESULT, stage="finetune", path=f"{folder}/bundle", **counts)
    labels = LabelSystemResult(
        **RESULT,
        stage="label_system",
        path=f"{folder}/bundle",
        labels=6,
        system_version="",
        names=6,
        merged=0,
        dropped=0,
    )
    return truths, rows_of, model, labels


def test_the_stage_leaves_figures_and_what_there_is_to_look_at(
    ray_cluster: None, tiny_bundle: str, tmp_path: Path
) -> None:
    truths, rows, model, labels = write_run(tmp_path, tiny_bundle)
    config, log = RunConfig.model_validate(SMALL), RunLog()
    run = log.open(str(tmp_path / "run"))
    log.on_result(rows, False)
    score = evaluate(run, config, rows, model, labels)
    predictor = Predictor.from_pretrained(model.path, device="cpu")
    tokens = predictor.encode([str(tmp_path / f"{number:02}.jpg") for number in range(12)])
    expected = predictor.token_probabilities(tokens)
    details = {row["class"]: row for row in read_details(f"{score.path}/{CLASSES_FILE}")}
    assert sorted(details) == sorted(NAMES) and {row["num_images"] for row in details.values()} == {12}
    for line in json.loads(Path(score.summary).read_text())["per_tag"]:
        row, id = details[line["tag"]], line["id"]
        assert line["num_positives"] == row["num_positives"] == sum(id in truth for truth in truths)
        assert (line["predicted"], line["correct"]) == (row["tp"] + row["fp"], row["tp"])
        assert line["ap"] == (row["ap"] if row["num_positives"] else None)
        assert line["threshold"] == predictor.thresholds[id], "also of a muted tag"
        for image in row["images"]:
            number = int(image["key"].removeprefix("s/"))
            assert abs(image["score"] - expected[number, id]) < 1e-4
            assert (id in truths[number]) == (image["group"] != "wrong")
    assert details[NAMES[MUTED]]["tp"] == details[NAMES[MUTED]]["fp"] == 0
    assert not list((tmp_path / "run/work").rglob("*.parquet")), "scores are removed"

    log.write_class_pages(run, config, has_report=False)
    page = tmp_path / "run/evaluation/classes/held_out/index.html"
    text, written = page.read_text(), page.stat().st_mtime_ns
    assert text.count("<section ") == len(NAMES) and "cannot be read" not in text and "report.html" not in text
    assert text.count("<img ") == sum(len(row["images"]) for row in details.values()) > 12
    log.write_class_pages(run, config, has_report=False)
    assert page.stat().st_mtime_ns == written, "pages of the same evaluation are not made again"
