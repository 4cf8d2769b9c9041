"""Contract: report.json holds what programs read, report.html is self-contained, and a missing measure is not 0."""

import json
import re
from html.parser import HTMLParser
from typing import get_type_hints

import numpy as np
import pytest

from ram_ray.evaluation.metrics import per_tag, summarise
from ram_ray.reporting.loss_curves import LossCurves
from ram_ray.reporting.run_report import Report, StageLine, TagRow, build_report, closing_table, to_html, write_report

EVIL = "</script><script>alert('x')</script> \"quoted\" 'quoted' & &lt; <b> \" onclick=\"x"


@pytest.fixture
def stages() -> list[StageLine]:
    return [
        StageLine("shards", images=8000, seconds=12.5, rejected=50),
        StageLine("parse", images=8000, tags=24_000, seconds=40, precision=0.9, recall=0.59, reused=True),
        StageLine("pretrain", images=8000, seconds=180, mAP=0.55),
    ]


@pytest.fixture
def report(stages) -> Report:
    rng = np.random.default_rng(0)
    targets = rng.random((50, 4)) < [0.5, 0.2, 0.0, 0.9]
    rows = per_tag(rng.random((50, 4)) * 0.5 + 0.4 * targets, targets, thresholds=np.full(4, 0.5))
    summary = summarise(rows, names=["dog", "<b>&co", "ghost", "red"], kinds=["object", "scene", "action", "attribute"])
    return build_report(summary, stages, run="demo", evaluated="finetuned model, held-out scenes", images=50)


class Page(HTMLParser):
    """What a browser reads: tags that are opened and not closed, all tags, attributes and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.tags: set[str] = set()
        self.attributes: dict[str, set[str]] = {}  # name -> its values
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, set()).add(value)
        if tag not in ("meta", "line", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("line", "rect"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_json_has_the_promised_keys_and_only_real_numbers(report, tmp_path):
    write_report(str(tmp_path), report)
    tree = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert {"mAP", "mean_prevalence", "num_tags", "precision", "recall", "per_tag", "stages"} <= tree.keys()
    keys = {"stage", "images", "tags", "tags_per_image", "seconds", "images_per_second", "mAP"}
    assert all(keys <= stage.keys() for stage in tree["stages"])
    parse = tree["stages"][1]
    assert parse["tags_per_image"] == 3 and parse["images_per_second"] == 200 and parse["mAP"] is None
    assert tree["num_tags"] == 3 and [line["ap"] is None for line in tree["per_tag"]] == [False, False, True, False]


def test_the_page_is_self_contained_and_escapes_its_texts(report):
    text = to_html(report)
    page = Page(text)
    assert page.open == []
    assert not re.search(r"""(src|href)=|url\(|@import|<script""", text)
    assert "<b>&co" not in text and "<b>&co" in page.text
    assert "ghost" not in page.text and "no image has them: 1." in text


def test_the_json_has_exactly_these_keys_and_no_points_of_curves(report, stages, tmp_path):
    write_report(str(tmp_path), report, curves=[LossCurves("pretrain", {"total": [(0, 1.5)]})])
    tree = json.loads((tmp_path / "report.json").read_text())
    own = ["run", "evaluated", "images", "stages", "duplicates", "sets"]
    averages = ["mAP", "mean_prevalence", "num_tags", "precision", "recall", "micro_precision", "micro_recall"]
    assert list(tree) == [*averages, "per_tag", *own] == [*get_type_hints(Report)]
    measured = ["images", "tags", "seconds", "precision", "recall", "mAP", "rejected"]
    used = ["cpu_seconds", "gpu_seconds", "cpu_node_hours", "gpu_node_hours", "cost"]
    rates = ["tags_per_image", "images_per_second"]
    assert list(tree["stages"][0]) == ["stage", *measured, "reused", *rates, *used]
    assert set(tree["per_tag"][0]) == set(get_type_hints(TagRow))
    assert list(build_report({}, stages)) == own, "nothing was evaluated"


def test_every_text_of_data_is_read_as_text():
    rows = per_tag(np.array([[0.9], [0.1]]), np.array([[True], [False]]), thresholds=np.full(1, 0.5))
    report = build_report(
        summarise(rows, names=[f"tag {EVIL}"], kinds=[f"kind {EVIL}"]),
        [StageLine(f"stage {EVIL}", precision=0.5, recall=0.5, mAP=0.5)],
        run=f"run {EVIL}",
        evaluated=f"evaluated {EVIL}",
    )
    text = to_html(report, curves=[LossCurves(f"curve {EVIL}", {f"loss {EVIL}": [(0, 1.0), (1, 0.5)]})])
    page = Page(text)
    assert page.open == [] and page.tags.isdisjoint({"script", "b"})
    for name in ("tag", "kind", "stage", "run", "evaluated", "curve", "loss"):
        assert f"{name} {EVIL}" in page.text, name
    assert f"curve {EVIL}" in page.attributes["aria-label"] and "onclick" not in page.attributes


def test_the_page_links_to_the_pages_of_classes(report):
    text = to_html(report, class_pages=[(f"images {EVIL}", "classes/held_out/index.html")])
    page = Page(text)
    assert page.open == [] and f"images {EVIL}" in page.text
    assert page.attributes["href"] == {"classes/held_out/index.html"}


def test_a_page_of_a_run_that_measured_nothing():
    summary = summarise([], names=[], kinds=[])
    assert Page(to_html(build_report(summary, [StageLine("shards")]))).open == []


def test_the_closing_table_lines_up_and_leaves_blank_what_was_not_measured(stages):
    lines = closing_table(stages).splitlines()
    assert len({len(line) for line in lines}) == 1 and len(lines) == 5
    titles = ["stage", "images", "tags", "tags/image", "seconds", "images/s", "precision", "recall", "mAP"]
    assert lines[0].split() == titles
    assert lines[2].split() == ["shards", "8,000", "–", "–", "12.5", "640.0", "–", "–", "–"]
    assert lines[3].split() == ["parse", "(reused)", "8,000", "24,000", "3.00", "40.0", "200.0", "0.900", "0.590", "–"]
