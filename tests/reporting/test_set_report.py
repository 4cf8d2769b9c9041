"""Contract: each evaluation set has its own table, with every model in order, its interval and chance; the line of a
trained model appears with named sets alone too."""

from __future__ import annotations

import json
from pathlib import Path

from ram_ray.evaluation_results import SetFigures, SetScore
from ram_ray.reporting.run_report import build_report, to_html, write_report
from ram_ray.reporting.set_report import describe_score, set_tables, write_sets
from tests.reporting.test_run_log import HELD_OUT, PRETRAINED, listen, make

FIGURES = SetFigures(
    num_classes=20,
    matched_by={"open": 20},
    unsupported=2,
    mAP=0.4321,
    interval=(0.4, 0.46),
    mean_prevalence=0.05,
    precision=0.5,
    recall=0.25,
    f1=None,
    threshold=0.5,
)
DIFFERENCE = {"first": 0.4, "second": 0.45, "difference": 0.05, "interval": [0.01, 0.09], "p_value": 0.02}


def score(stage: str, name: str, *, both: bool = False) -> SetScore:
    figures = {"templates": FIGURES, **({"descriptions": FIGURES} if both else {})}
    result = make(
        SetScore,
        f"evaluate_{stage}_{name}",
        model=f"digest of {stage}",
        model_stage=stage,
        set_name=name,
        images=90,
        figures=figures,
        difference=DIFFERENCE if both else None,
    )
    assert isinstance(result, SetScore)
    return result


SCORES = [score("pretrain", "coco80"), score("pretrain", "open_set", both=True), score("finetune", "coco80")]


def test_each_set_is_reported_by_itself(tmp_path: Path) -> None:
    assert describe_score(SCORES[0]) == (
        "coco80, pretrain: mAP 43.2 (40.0–46.0), chance 5.0, 20 classes (20 open, 2 not supported)"
    )
    tables = set_tables(SCORES)
    assert [(table.name, [row[:2] for row in table.rows]) for table in tables] == [
        ("coco80", [["pretrain", "templates"], ["finetune", "templates"]]),
        ("open_set", [["pretrain", "templates"], ["pretrain", "descriptions"]]),
    ]
    assert tables[1].notes == ["pretrain: mAP by descriptions against templates +5.0 (+1.0 to +9.0), p 0.02"]
    assert tables[0].rows[0][4:9] == ["43.2 (40.0–46.0)", "5.0", "50.0", "25.0", "–"]
    write_sets(str(tmp_path), SCORES)
    tree = json.loads((tmp_path / "sets.json").read_text())
    assert tree["open_set"]["pretrain"]["difference"] == DIFFERENCE
    assert tree["coco80"]["finetune"]["figures"]["templates"] == FIGURES.model_dump(mode="json")
    assert "## open_set" in (tmp_path / "sets.md").read_text()


def test_the_report_of_a_run_has_them(tmp_path: Path) -> None:
    report = build_report({}, [], run="r", scores=SCORES)
    write_report(str(tmp_path), report, scores=SCORES)
    assert set(json.loads((tmp_path / "report.json").read_text())["sets"]) == {"coco80", "open_set"}
    page = (tmp_path / "report.html").read_text()
    assert page.count("<h3>") == 2 and "20 open, 2 not supported" in page and "+5.0 (+1.0 to +9.0)" in page
    assert "Evaluation sets" not in to_html(build_report({}, []))


def test_a_model_that_named_sets_alone_score_has_its_line() -> None:
    log = listen(HELD_OUT, PRETRAINED, *SCORES[:2])
    assert [(line.stage, line.mAP) for line in log.lines] == [("pretrain", None)]
    assert len(log.notes) == 2 and log.notes[0].startswith("coco80, pretrain: mAP 43.2")
