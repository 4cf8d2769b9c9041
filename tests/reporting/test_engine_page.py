"""Contract: the page of the data engine is self-contained and escapes its texts. Each image says whether its tag is
correct where that is known. The curve stays in its box."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from ram_ray.label_system import Label, LabelSystem
from ram_ray.reporting.engine_curve import Curve, read_curve, to_chart
from ram_ray.reporting.engine_page import LabelChanges, Reason, Step, View, to_html
from ram_ray.reporting.engine_report import label_changes, reasons
from ram_ray.reporting.engine_rows import SampleImage
from tests.reporting.test_run_report import EVIL, Page
from tests.tiny import jpeg


def _image(outcome: str, *, true: bool | None = None, **more) -> SampleImage:
    image = {
        "tag": 0,
        "outcome": outcome,
        "order": 0,
        "key": "s/<i>1",
        "box": None,
        "cluster": None,
        "reason": "outlier",
        "score": 0.5,
    }
    return {**image, "true": true, "caption": EVIL, "jpeg": jpeg(), **more}


@pytest.fixture
def view() -> View:
    images = [
        _image("removed", true=False, cluster=1),
        _image("removed", true=True, cluster=0),
        _image("added", true=True, reason="generated_caption", score=float("nan")),
        _image("kept", jpeg=None, reason=None),
    ]
    evil = LabelChanges(0, EVIL, "object", 40, 9, 7, true_share={"kept": 0.9, "removed": 0.2, "added": None},
                        unmentioned=12, sample_images=images)  # fmt: skip
    return View(
        run=EVIL,
        steps=[Step("labels", 100, 50, 0.9, 0.6), Step("generate_1", 140, 50, 0.8, 0.8), Step("clean_1", 120, 50)],
        figures={"added_precision": 0.5, "recovered": None, "false_removed": 0.25, "true_removed": 0.04},
        reasons=[Reason(EVIL, images=9, labelled=8, correct=2)],
        labels=[evil, LabelChanges(1, "dog", "object", 5)],
        curve=Curve({"model": [(0.0, 0.8), (0.4, 0.5)], EVIL: [(0.0, 0.3), (0.4, 0.1)]}, selected=(0.2, 0.7)),
    )


def test_the_page_is_self_contained_and_escapes_its_texts(view: View) -> None:
    text = to_html(view)
    page = Page(re.sub(r"<(img|circle|polyline)[^>]*>", "", text))
    assert page.open == [] and "script" not in page.tags
    assert "<script" not in text and '<b>"' not in text and "<i>1" not in text
    assert EVIL in page.text
    assert set(re.findall(r'src="([^"]{0,23})', text)) == {"data:image/jpeg;base64,"}
    assert not re.search(r"""href=|url\(|@import|https?:""", text)


def test_every_text_of_data_is_read_as_text(view: View) -> None:
    image = _image("removed", key=f"key {EVIL}", reason=f"removed for {EVIL}", caption=f"caption {EVIL}")
    label = LabelChanges(0, f"label {EVIL}", f"kind {EVIL}", removed=1, sample_images=[image, image | {"caption": ""}])
    text = to_html(
        replace(
            view,
            run=f"run {EVIL}",
            steps=[Step(f"step {EVIL}", 9, 3)],
            reasons=[Reason(f"reason {EVIL}", images=1)],
            labels=[label],
            curve=Curve({f"line {EVIL}": [(0.0, 1.0)]}, axis=f"axis {EVIL}"),
        )
    )
    page = Page(re.sub(r'(<img [^>]*alt="[^"]*")>', r"\1/>", text))
    assert page.open == [] and page.tags.isdisjoint({"script"}) and "onclick" not in page.attributes
    for name in ("run", "step", "reason", "label", "kind", "line", "axis"):
        assert f"{name} {EVIL}" in page.text, name
    assert f"removed for {EVIL} 0.50" in page.text
    assert {f"caption {EVIL}", f"key {EVIL}"} <= page.attributes["title"]
    assert f"label {EVIL}: key {EVIL}" in page.attributes["alt"]


def test_images_show_what_is_known_of_them(view: View) -> None:
    text = to_html(view)
    assert text.count('class="thumbnail true"') == 2 and text.count('class="thumbnail false"') == 1
    assert text.count('class="thumbnail "') == 1 and "cannot be read" in text, "an image that is gone is not left out"
    assert text.index("cluster 0") < text.index("cluster 1")
    assert "generated caption" in text and "nan" not in text
    assert "2 of 9, 20% true" in text and "1 of 7<" in text
    assert "75%" in text, "of the removed whose truth is known, six of eight were false"


def test_without_a_truth_nothing_is_said_to_be_right(view: View) -> None:
    label = LabelChanges(0, "dog", "object", 40, 9, 7, sample_images=[_image("kept"), _image("added")])
    text = to_html(replace(view, steps=[Step("labels", 9, 3), Step("generate_1", 9, 3)], figures={}, labels=[label],
                           reasons=[], curve=None))  # fmt: skip
    assert "is not known" in text and "true, unmentioned" not in text and "thumbnail true" not in text
    assert "What could be added" not in text and "Why tags were removed" not in text
    assert Page(re.sub(r"<img[^>]*>", "", text)).open == []


@pytest.mark.parametrize(
    "line", [[(0.0, 1.0), (0.03, 0.5)], [(0.61, 0.9), (0.87, 0.2)], [(120.0, 0.9), (90_000.0, 0.4)], [(0.5, 0.5)]]
)
def test_the_curve_stays_in_its_box(line) -> None:
    chart = to_chart(Curve({"model": line, "frequency": []}, selected=line[-1]))
    model, frequency = chart.lines
    right, bottom = chart.left + chart.width, chart.top + chart.height
    assert len(model.points) == len(line) and not frequency.points and chart.mark.position == model.points[-1]
    assert all(chart.left - 1e-6 <= x <= right + 1e-6 and chart.top - 1e-6 <= y <= bottom for x, y in model.points)
    across = [x for x, _ in model.points]
    assert across == sorted(across) and (len(line) == 1 or across[-1] - across[0] > chart.width / 3), (
        "it fills its axis"
    )


def test_a_curve_is_read_or_refused(tmp_path) -> None:
    file = tmp_path / "curve.json"
    assert read_curve(str(file)) is None
    known = {"recall": 0.6, "precision": 0.9, "baseline_recall": 0.55, "baseline_precision": 0.2, "estimated": 0.8}
    file.write_text(json.dumps({"points": [{"added": 4, "estimated": 0.9, "precision": None}, {"added": 9, **known}]}))
    curve = read_curve(str(file))
    assert list(curve.lines.values()) == [[(0.6, 0.9)], [(0.55, 0.2)], [(0.6, 0.8)]]
    file.write_text(json.dumps({"points": [{"added": 4, "estimated": 0.9}, {"added": 9, "estimated": 0.7}]}))
    assert read_curve(str(file)) == Curve({"the model, as calibrated": [(4, 0.9), (9, 0.7)]}, axis="tags added")
    file.write_text('{"points": []}')
    assert read_curve(str(file)) is None, "nothing could be added"
    for text in ("{}", "[]", '{"points": [1]}', '{"points": [{"added": 1, "estimated": NaN}]}', "no"):
        file.write_text(text)
        with pytest.raises(ValueError, match="is no curve"):
            read_curve(str(file))


def test_label_changes_and_reasons_of_tag_statistics() -> None:
    system = LabelSystem([Label(0, "dog", "object"), Label(1, "red", "attribute"), Label(2, "cat", "object")])
    keys = ("tag", "source", "status", "images", "labelled", "correct")
    rows = [
        dict(zip(keys, row, strict=True))
        for row in [
            (0, "mentioned", "kept", 10, 10, 9), (0, "mentioned", "outlier", 2, 2, 1),
            (0, "added", "disagreement", 1, 1, 0),
            (0, "truth", "unmentioned", 4, 4, 4), (1, "added", "kept", 20, 0, 0), (2, "truth", "mentioned", 3, 3, 3),
        ]
    ]  # fmt: skip
    red, dog, cat = label_changes(rows, system)
    assert (red.name, red.added, red.true_share["added"], red.unmentioned) == ("red", 20, None, 0)
    assert (dog.kept, dog.removed, dog.added, dog.unmentioned) == (10, 3, 0, 4)
    assert dog.true_share == {"kept": 0.9, "removed": 1 / 3, "added": None}
    assert (cat.name, cat.kept) == ("cat", 0)
    assert reasons(rows) == [Reason("outlier", 2, 2, 1), Reason("disagreement", 1, 1, 0)]
