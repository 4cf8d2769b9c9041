"""Contract: a curve is read from whatever lines of metrics there are, has a bounded number of points, and stays in its
box; without metrics there is no curve and no error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ram_ray.reporting.loss_curves import (
    MAX_LOSSES,
    MAX_POINTS,
    LossCurves,
    read_loss_curves,
    read_metrics,
    to_chart,
    to_curves,
)
from ram_ray.reporting.run_report import StageLine, build_report, to_html
from ram_ray.training.metrics import Metrics
from tests.reporting.test_run_report import Page


def _line(step: int, **losses: float) -> str:
    return json.dumps({"step": step, "epoch": 0.5, "lr": 1e-4, "images_per_s": 30.0, "losses": losses})


def _metrics(losses: list[float]) -> list[Metrics]:
    return [Metrics(step=step, losses={"total": loss}) for step, loss in enumerate(losses)]


def test_lines_are_typed_and_a_step_that_was_trained_again_counts_as_last(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text("\n".join([_line(0, total=3.0, tag=1.0), _line(10, total=2.0), _line(20, total=9.0)]))
    first = read_metrics(str(file))[0]
    assert (first.step, first.epoch, first.lr, first.images_per_s) == (0, 0.5, 1e-4, 30.0)
    assert first.losses == {"total": 3.0, "tag": 1.0}
    with file.open("a") as handle:
        handle.write("\n" + "\n".join([_line(10, total=1.9), _line(20, total=1.5)]))
    rows = read_metrics(str(file))
    assert [(row.step, row.losses["total"]) for row in rows] == [(0, 3.0), (10, 1.9), (20, 1.5)]


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", "null", '{"step": 3}', _line(-1, total=1.0), '{"step": 1, "losses": {"tag": "x"}}', "\x00\xff"],
)
def test_a_line_that_is_no_metrics_is_skipped(tmp_path: Path, line: str) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes("\n".join([_line(1, total=2.0), line, _line(2, total=1.0), line[:9]]).encode("latin-1"))
    assert [row.step for row in read_metrics(str(file))] == [1, 2]


def test_stages_without_metrics_have_no_curve(tmp_path: Path) -> None:
    for name, text in {"pretrain": _line(0, total=1.0), "retrain_1": "no", "finetune": _line(0)}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(text)
    folders = {name: f"{tmp_path}/{name}/" for name in ("pretrain", "missing", "retrain_1", "finetune")}
    assert read_loss_curves(folders) == [LossCurves("pretrain", {"total": [(0.0, 1.0)]})]
    assert read_metrics("memory://nowhere/metrics.jsonl") == []


def test_long_curves_are_drawn_by_means_of_bins() -> None:
    losses = [float(step % 2) for step in range(4000)]
    line = to_curves("pretrain", _metrics(losses)).lines["total"]
    assert len(line) == MAX_POINTS and {loss for _, loss in line} == {0.5}
    assert line[0][0] == 9.5 and line[-1][0] == 3989.5, "the middle of the steps of a bin"
    assert len(to_curves("pretrain", _metrics(losses[: MAX_POINTS + 1])).lines["total"]) <= MAX_POINTS
    short = to_curves("pretrain", _metrics(losses[:3])).lines["total"]
    assert short == [(0.0, 0.0), (1.0, 1.0), (2.0, 0.0)]


def test_losses_that_cannot_be_drawn_are_left_out(tmp_path: Path) -> None:
    rows = _metrics([2.0, float("nan"), float("inf"), 1e300, 1.0])
    assert to_curves("pretrain", rows).lines == {"total": [(0.0, 2.0), (4.0, 1.0)]}
    assert to_curves("pretrain", _metrics([float("nan")])).lines == {}
    (tmp_path / "metrics.jsonl").write_text(_line(0, total=float("nan"), tag=1.0))
    assert read_loss_curves({"pretrain": str(tmp_path)}) == [LossCurves("pretrain", {"tag": [(0.0, 1.0)]})]
    many = [Metrics(step=0, losses={str(index): 1.0 for index in range(50)})]
    assert len(to_curves("pretrain", many).lines) == MAX_LOSSES


@pytest.mark.parametrize(
    "line",
    [[(0, 2.5), (1, 0.1)], [(5, 0.0)], [(0, 0.0), (9, 0.0)], [(1, -3.0), (2, 4.0)], [(7, 1e25)], [(90_000, 2e-5)]],
)
def test_a_curve_stays_in_its_box(line: list[tuple[float, float]]) -> None:
    chart = to_chart(LossCurves("pretrain", {"total": line}))
    right, bottom = chart.left + chart.width, chart.top + chart.height
    for x, y in chart.lines[0].points:
        assert chart.left <= x <= right + 1e-6 and chart.top - 1e-6 <= y <= bottom + 1e-6


def test_the_report_has_a_chart_for_each_stage_with_axes_and_a_legend() -> None:
    curves = [
        LossCurves("pretrain", {"total": [(0, 3.0), (10, 1.0)], "tag": [(0, 1.0), (10, 0.5)]}),
        LossCurves("finetune", {"total": [(0, 1.0)]}),
        LossCurves("retrain_1", {}),
    ]
    report = build_report({}, [StageLine("pretrain")], run="demo")
    text = to_html(report, curves=curves)
    page = Page(text)
    assert page.open == [] and text.count("<polyline") == 3
    assert {"pretrain", "finetune"} <= page.attributes["aria-label"] and "retrain_1" not in page.text
    assert page.text.count("step") == page.text.count("loss") == 2 and page.text.count("total") == 2
    assert page.attributes["stroke"] == {"var(--a)", "var(--b)"}, "colours follow the scheme of the page"
    assert "Losses" in page.text and "Losses" not in Page(to_html(report)).text
