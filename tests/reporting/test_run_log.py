"""Contract: a run's log has a line for each stage of the recipe, once, in order; a model's line has its mAP; held-out
rows, steps of a stage and repeated results have none. The report has the loss curves of each model of the run.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from ram_ray.config import RunConfig
from ram_ray.evaluation_results import Evaluation
from ram_ray.reporting.run_log import RunLog
from ram_ray.results import (
    Annotations,
    DualEncoderResult,
    GivenModel,
    Parsed,
    Regions,
    Samples,
    TrainedModel,
    Vocabulary,
)
from ram_ray.runtime.artifacts import StageResult
from ram_ray.training.metrics import METRICS, Metrics
from tests.reporting.test_run_report import Page

ROWS = {"rows_in": 9, "rows_out": 8, "rejected": 1, "images": 8}
TAGS = {"tags": 4, "matched": 1, "labelled": 8, "tp": 3, "fp": 1, "fn": 3, "unknown": 0}
MODEL = {"image_size": 32, "rows_in": 8, "rejected": 0, "steps": 2, "images_seen": 16, "strategy": "ddp"}
SCORE = {"images": 8, "num_tags": 2, "mean_prevalence": 0.1, "precision": 0.2, "recall": 0.3}
SCORE |= {"micro_precision": 0.2, "micro_recall": 0.3}


def make(kind: type[StageResult], stage: str, **fields: Any) -> StageResult:
    values = {"stage": stage, "digest": f"digest of {stage}", "path": "", "seconds": 2.4, **fields}
    return kind.model_validate(values)


def listen(*results: StageResult, reused: bool = False) -> RunLog:
    log = RunLog()
    for result in results:
        log.on_result(result, reused)
    return log


def score_of(model: StageResult, mean: float) -> StageResult:
    return make(Evaluation, f"evaluate_{model.stage}", model=model.digest, mAP=mean, **SCORE)


SAMPLES = make(Samples, "shards", shards=1, **ROWS)
HELD_OUT = make(Samples, "shards_eval", shards=1, held_out=True, **ROWS)
LABELS = make(Annotations, "labels", **ROWS, **TAGS)
PRETRAINED = make(TrainedModel, "pretrain", **MODEL)


def test_a_stage_of_the_recipe_has_a_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="ram_ray")
    log = listen(
        SAMPLES,
        HELD_OUT,
        make(Vocabulary, "vocabulary", words=9),
        make(DualEncoderResult, "represent", source="clip", revision=None),
        make(Parsed, "parse", tags=5, captions=9, rejected_captions={}, **ROWS),
        LABELS,
        make(Annotations, "labels_eval", held_out=True, **ROWS, **TAGS),
        make(Regions, "regions_1", images=8, detected=8),
    )
    assert [line.stage for line in log.lines] == ["shards", "represent", "parse", "labels"]
    assert (log.lines[3].precision, log.lines[3].recall) == (0.75, 0.5)
    lines = caplog.messages
    assert lines[0] == "done: shards, 8 images, 1 rejected, 2 s" and lines[1] == "done: represent, 2 s"
    assert lines[3] == "done: labels, 8 images, 1 rejected, 4 tags, 0.750 precision, 0.500 recall, 2 s"


def test_a_model_has_its_line_when_it_is_scored(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="ram_ray")
    log = listen(HELD_OUT, PRETRAINED)
    assert log.lines == []
    log.on_result(score_of(PRETRAINED, 0.25), False)
    assert caplog.messages == ["done: pretrain, 16 images, 0.250 mAP, 2 s"]
    log.on_result(score_of(PRETRAINED, 0.25), True)
    assert [line.mAP for line in log.lines] == [0.25], "the final evaluation is that of the last model again"


def test_a_given_model_has_its_line_when_it_is_scored_and_a_note_of_its_labels() -> None:
    counts = {"kept": 4000, "by_synonym": 12, "new": 20, "dropped": 585}
    given = make(GivenModel, "given", **{**MODEL, "images_seen": 0}, source="bundles/ram", path="r/given", **counts)
    log = listen(HELD_OUT, given)
    log.on_result(score_of(given, 0.25), False)
    log.on_result(given, True)
    assert [(line.stage, line.images, line.mAP) for line in log.lines] == [("given", None, 0.25)]
    (note,) = log.notes
    assert note.startswith("given: bundles/ram has 4,000 of 4,020 labels (12 by a synonym); 20 are new, 585 of its own")


def test_what_is_not_scored_has_its_line_at_once() -> None:
    fold = make(TrainedModel, "pretrain_fold_0", fold=0, **MODEL)
    assert [line.stage for line in listen(HELD_OUT, fold).lines] == ["pretrain_fold_0"]
    assert [line.stage for line in listen(SAMPLES, PRETRAINED).lines] == ["shards", "pretrain"]


def test_a_result_counts_once_and_as_it_came_first() -> None:
    log = listen(LABELS, reused=True)
    log.on_result(LABELS, False)
    assert [(line.stage, line.reused) for line in log.lines] == [("labels", True)]


def test_notes_are_below_the_table() -> None:
    log = listen(SAMPLES)
    log.on_note("stopped in round 2")
    assert log.table().splitlines()[-1] == "stopped in round 2" and "shards" in log.table()


def test_an_evaluation_of_an_earlier_version_has_a_note_and_no_pages(tmp_path: Path) -> None:
    log = listen(HELD_OUT, make(Annotations, "labels_eval", held_out=True, **ROWS, **TAGS), PRETRAINED)
    score = score_of(PRETRAINED, 0.25).model_copy(update={"path": f"{tmp_path}/evaluation/evaluate_pretrain/abc"})
    log.on_result(score, True)
    run = log.open(str(tmp_path))
    log.write_class_pages(run, RunConfig(name="run"), has_report=True)
    assert log.notes[-1].endswith(f"for these remove {tmp_path}/evaluation/evaluate_pretrain/abc.json")
    log.write_report(run, RunConfig(name="run"), None)
    assert "classes/" not in (tmp_path / "evaluation/report.html").read_text()


def test_the_report_has_the_losses_of_each_model_that_the_run_trained(tmp_path: Path) -> None:
    """Those of a dual encoder that it trained, not of a published CLIP; a model without metrics has no curve."""

    def folder(stage: str, *totals: float) -> str:
        lines = [Metrics(step=step, losses={"total": total}).model_dump_json() for step, total in enumerate(totals, 1)]
        (tmp_path / stage).mkdir()
        (tmp_path / stage / METRICS).write_text("\n".join(lines))
        return str(tmp_path / stage)

    counts = {name: MODEL[name] for name in ("rows_in", "rejected", "steps", "images_seen", "strategy")}
    encoder = {"source": "here", "revision": None, "path": folder("represent", 4.0, 3.0)}
    clip = make(DualEncoderResult, "represent", **encoder)
    trained = make(DualEncoderResult, "represent", **encoder, **counts)
    models = [
        make(TrainedModel, "pretrain", **MODEL, path=folder("pretrain", 2.0, 1.0)),
        make(TrainedModel, "pretrain_fold_0", fold=0, **MODEL, path=folder("pretrain_fold_0", 2.0, 1.5)),
        make(TrainedModel, "finetune", **MODEL, path=str(tmp_path / "none")),
    ]
    titles = {}
    for result in (clip, trained):
        for reused in (False, True):
            log = listen(result, *models, reused=reused)
            log.write_report(log.open(str(tmp_path / "run")), RunConfig(name="run"), None)
            page = Page((tmp_path / "run" / "evaluation" / "report.html").read_text())
            titles[result, reused] = page.attributes["aria-label"]
    taggers = {"pretrain", "pretrain_fold_0"}
    assert titles[clip, False] == titles[clip, True] == taggers
    assert titles[trained, False] == titles[trained, True] == {"represent", *taggers}
