"""Contract: `ram-ray labels` shows, exports, imports, compares and covers; the page escapes names and captions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ram_ray.cli.main import main
from ram_ray.label_system import Label, LabelSystem
from ram_ray.labels.page import to_html
from ram_ray.labels.report import BuildReport


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with a label system and its report."""
    system = LabelSystem(
        [Label(0, "couch", "object", 12, ("sofa",)), Label(1, "run", "action", 5), Label(2, "red", "attribute", 4)]
    )
    report = BuildReport(version=system.version, num_names=9, captions={"web": 30})
    for label in system.labels:
        reasons = {("sofa", "object"): (("couch", "object"), "table")} if label.name == "couch" else {}
        counts = {("sofa", "object"): {"web": 3}}
        report.add_label((label.name, label.kind), sources={"web": label.count}, counts=counts, reasons=reasons)
    report.drop(("thing", "object"), 7, "stop list")
    report.finish()
    system.save(str(tmp_path / "label_system.json"))
    (tmp_path / "label_report.json").write_text(report.to_json())
    return tmp_path


def _run(capsys, *arguments: str) -> tuple[int, str]:
    code = main(["labels", *arguments])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_show(run: Path, capsys) -> None:
    code, out = _run(capsys, "show", str(run))
    assert code == 0 and "    0  couch  object        12  sofa" in out and "3 of 3 shown" in out
    assert "couch" in _run(capsys, "show", str(run), "--find", "SOF")[1]
    assert "1 of 1 shown" in _run(capsys, "show", str(run / "label_system.json"), "--kind", "action")[1]
    assert "80 of 80 shown" in _run(capsys, "show", "coco80", "--top", "0")[1]


def test_the_page_has_merges_and_drops(run: Path, capsys) -> None:
    page = run / "page.html"
    assert _run(capsys, "show", str(run), "--html", str(page))[0] == 0
    text = page.read_text()
    assert "the shipped table" in text and "on the stop list" in text and "thing <i>7</i>" in text
    data = json.loads(text.partition('id="labels">')[2].partition("</script>")[0])
    assert data[0]["name"] == "couch" and data[0]["sources"] == {"web": 12}


def test_the_page_takes_names_and_captions_as_text() -> None:
    nasty = "</script><img src=x onerror=alert(1)>"
    system = LabelSystem([Label(0, nasty, "object", 1, (nasty,))])
    merged = [{"name": nasty, "count": 1, "with": nasty, "how": "file"}]
    label = {"name": nasty, "kind": "object", "merged": merged, "examples": [nasty], "sources": {nasty: 1}}
    report = BuildReport(num_names=1, labels=[label], notes=[nasty])
    report.drop((nasty, "object"), 1, "rare")
    report.finish()
    for page in (to_html(system, report, title=nasty), to_html(system, None, title=nasty)):
        assert "<img" not in page and page.count("</script>") == 2


def test_export_import_and_diff(run: Path, tmp_path: Path, capsys) -> None:
    assert _run(capsys, "export", str(run), str(tmp_path / "out.csv"))[0] == 0
    assert _run(capsys, "import", str(tmp_path / "out.csv"), str(tmp_path / "again.json"))[0] == 0
    code, out = _run(capsys, "diff", str(run), str(tmp_path / "again.json"))
    assert code == 0 and "the same" in out
    (tmp_path / "tags.txt").write_text("couch\naction:run\nzebra\n")
    assert _run(capsys, "import", str(tmp_path / "tags.txt"), str(tmp_path / "tags.json"), "--kind", "object")[0] == 0
    code, out = _run(capsys, "diff", str(run), str(tmp_path / "tags.json"), "--json")
    change = json.loads(out)
    assert code == 1 and change["added"] == ["object:zebra"] and change["removed"] == ["attribute:red"]


def test_coverage(run: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "list.txt").write_text("couch\nsofa\nzebra\n")
    code, out = _run(capsys, "coverage", str(run), str(tmp_path / "list.txt"), "--wordnet", "none")
    assert code == 0 and "list.txt: 2 of 3 (66.7%): 1 by name, 1 by synonym" in out and "not covered: zebra" in out
    coverages = json.loads(
        _run(capsys, "coverage", str(run), str(tmp_path / "list.txt"), "--wordnet", "none", "--json")[1]
    )
    assert coverages["list.txt"]["by"] == {"couch": "couch (name)", "sofa": "couch (synonym)"}
    assert len(json.loads(_run(capsys, "coverage", str(run), "--wordnet", "none", "--json")[1])) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "nowhere.json"],
        ["show", "."],
        ["export", "coco80", "out.xlsx"],
        ["coverage", "coco80", "nowhere.csv"],
        ["coverage", "coco80", "--wordnet", "nowhere"],
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments: list[str], tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    code, out = _run(capsys, *arguments)
    assert code == 2 and out.startswith("ram-ray labels: ") and len(out.splitlines()) == 1
