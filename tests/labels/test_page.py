"""Contract: the page of a label system is one file that loads nothing; every text from data is read as text, in the
markup and in the JSON for the script."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from ram_ray.label_system import Label, LabelSystem
from ram_ray.labels.page import MAX_MERGES, to_html
from ram_ray.labels.report import BuildReport

EVIL = "</script><script>alert('x')</script><!--<script> \"quoted\" 'quoted' & &lt; <b> \" onclick=\"x"


class Page(HTMLParser):
    """Tags that are opened and not closed, the number of scripts, attributes, texts and the JSON."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.num_scripts = 0
        self.attributes: set[str] = set()
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.attributes |= {name for name, _ in attrs}
        self.num_scripts += tag == "script"
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script" and data.startswith("["):
            self.labels = json.loads(data)
        self.text.append(data)


@pytest.fixture
def system() -> LabelSystem:
    return LabelSystem(
        [Label(0, EVIL, "object", 1200, (f"synonym {EVIL}", "café")), Label(1, "run", "action", 5, ambiguous=("go",))]
    )


@pytest.fixture
def report() -> BuildReport:
    merged = [{"name": f"merged {EVIL}", "count": 3, "with": f"other {EVIL}", "how": "file"}]
    merged += [{"name": "unseen", "count": 0, "with": EVIL, "how": "table"}]
    labels = [
        {"name": EVIL, "kind": "object", "merged": merged, "examples": [f"caption {EVIL}"], "sources": {EVIL: 3}},
        {"name": "run", "kind": "action", "words": {"runs": [4, 3]}},
    ]
    report = BuildReport(num_names=9000, labels=labels, notes=[f"note {EVIL}"], captions={f"source {EVIL}": 1234})
    report.drop((f"dropped {EVIL}", "object"), 7000, "rare")
    report.finish()
    return report


def test_every_text_of_data_is_read_as_text(system: LabelSystem, report: BuildReport) -> None:
    text = to_html(system, report, title=f"title {EVIL}")
    page = Page(text)
    assert page.open == [] and page.num_scripts == 2 and "onclick" not in page.attributes
    texts = [f"title {EVIL}", f"merged {EVIL}", f" (as other {EVIL})", f"dropped {EVIL} ", f"note {EVIL}", EVIL]
    for expected in (*texts, f"source {EVIL} 1,234"):
        assert expected in page.text, expected
    assert not re.search(r"""(src|href)=["'](?!#)|url\(|@import|https?:""", text)


def test_the_json_is_not_ended_by_data_and_keeps_its_values(system: LabelSystem, report: BuildReport) -> None:
    text = to_html(system, report, title="labels")
    assert "<" not in text.partition('id="labels">')[2].partition("</script>")[0] and "café" in text
    first, second = Page(text).labels
    assert (first["name"], first["synonyms"]) == (EVIL, [f"synonym {EVIL}", "café"])
    assert (first["examples"], first["sources"]) == ([f"caption {EVIL}"], {EVIL: 3})
    assert second == {"name": "run", "kind": "action", "count": 5, "synonyms": [], "sources": {}, "examples": [],
                      "words": {"runs": [4, 3]}, "ambiguous": ["go"]}  # fmt: skip


def test_a_page_without_a_report_has_the_labels_alone(system: LabelSystem) -> None:
    page = Page(to_html(system, None, title="labels"))
    assert page.open == [] and [label["count"] for label in page.labels] == [1200, 5]
    assert {"Merged", "Dropped", "Notes", "names counted"}.isdisjoint(page.text)
    assert Page(to_html(LabelSystem([]), None, title="labels")).labels == []


def test_the_most_frequent_merges_are_listed(system: LabelSystem, report: BuildReport) -> None:
    report.labels[0]["merged"] = [
        {"name": f"name {count}", "count": count, "with": EVIL, "how": "table"} for count in range(1, MAX_MERGES + 3)
    ]
    page = Page(to_html(system, report, title="labels"))
    names = [text for text in page.text if re.fullmatch(r"name \d+", text)]
    assert names == [f"name {count}" for count in range(MAX_MERGES + 2, 2, -1)]
    assert f"The {MAX_MERGES} most frequent are listed." in " ".join(page.text)
