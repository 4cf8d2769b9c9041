"""Contract: the tables of a benchmark say what each system scored and what it did not; quoted figures are marked; all
three files have the same figures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from ram_ray.cli.compare import parse_sets
from ram_ray.config import RunConfig
from ram_ray.evaluation.benchmark import SetResult, describe_result, describe_set
from ram_ray.evaluation.benchmark_report import build_tree, quoted_figures, to_markdown
from ram_ray.evaluation.bootstrap import Resampling
from ram_ray.evaluation.measure_scores import Measuring, measure_scores
from ram_ray.evaluation.measures import Tuning
from ram_ray.evaluation.sets.prepare import SetReading, in_this_process, prepare_set
from ram_ray.evaluation.systems.predictions import PredictionsSystem
from ram_ray.reporting.benchmark_page import benchmark_page
from ram_ray.reporting.system_pages import write_system_pages

CLASSES = ["dog", "cat", "bus", "wine glass"]
MEASURING = Measuring(Tuning("balanced"), Resampling(60))


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> SetResult:
    """Two files of predictions on COCO-80's name: the second is worse, and knows no glasses."""
    folder = tmp_path_factory.mktemp("benchmark")
    rng = np.random.default_rng(0)
    truth = rng.random((120, 4)) < 0.3
    rows = [[f"{number}.jpg", *(CLASSES[i] for i in np.flatnonzero(row))] for number, row in enumerate(truth)]
    (folder / "truth.txt").write_text("\n".join(map(",".join, [*rows, ["x.jpg", "tram"]])))
    (folder / "classes.txt").write_text("\n".join([*CLASSES, "zebra"]))
    (folder / "out.txt").write_text("zebra")
    options = f"classes={folder}/classes.txt,leave_out={folder}/out.txt"
    spec = parse_sets([f"coco80={folder}/truth.txt,{options}"])[0]
    eval_set = prepare_set(spec, str(folder / "set"), reading=SetReading.from_config(RunConfig()))
    measured, folders = {}, {}
    for name, noise, count in (("ours", 0.2, 4), ("google", 0.6, 3)):
        scores = truth + rng.normal(0, noise, truth.shape)
        lines = [
            {"key": f"{number}.jpg", "tags": CLASSES[:count], "scores": row[:count].tolist()}
            for number, row in enumerate(scores)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
        (folder / "vocabulary.txt").write_text("\n".join(CLASSES[:count]))
        system = PredictionsSystem(name, f"{folder}/{name}.jsonl", vocabulary=f"{folder}/vocabulary.txt")
        folders[name] = str(folder / name)
        system.score(eval_set, folders[name])
        measured[name] = measure_scores(folders[name], MEASURING)
    return SetResult(eval_set, measured, folders, {"azure": "its file has no line about an image of this set"})


def test_figures_of_a_benchmark(result: SetResult) -> None:
    tree = build_tree([result], MEASURING)
    part = json.loads(json.dumps(tree))["sets"]["coco80"]
    ours, google = part["systems"]["ours"], part["systems"]["google"]
    assert (part["classes"], part["common_classes"], ours["supported"], google["supported"]) == (4, 3, 4, 3)
    assert google["unsupported"] == ["wine glass"] and google["matched_by"] == {"name": 3}
    assert part["left_out"] == {"zebra": "left out by the list"} and part["unknown_labels"] == {"tram": 1}
    assert ours["mAP"]["value"] == pytest.approx(np.mean([line["ap"]["value"] for line in ours["per_class"]]))
    assert ours["common"]["mAP"]["value"] == pytest.approx(
        np.mean([line["ap"]["value"] for line in ours["per_class"][:3]])
    )
    difference = google["difference_of_mAP"]
    assert difference["difference"] == pytest.approx(google["mAP"]["value"] - ours["common"]["mAP"]["value"])
    assert difference["interval"][1] < 0 and difference["p_value"] < 0.01 and ours["difference_of_mAP"] is None
    assert abs(ours["macro_precision"]["value"] - ours["macro_recall"]["value"]) < 0.05, "balanced"
    assert google["notes"] == ["1 images have no line and count as without tags"]


def test_the_pages_have_the_same_figures_and_mark_what_is_quoted(result: SetResult) -> None:
    tree = build_tree([result], MEASURING)
    markdown, page = to_markdown(tree), benchmark_page(tree)
    figure = f"{100 * tree['sets']['coco80']['systems']['ours']['mAP']['value']:.1f}"
    for text in (markdown, page):
        assert figure in text and "wine glass" in text and "tram" in text and "left out by the list" in text
        assert "azure: not scored, its file has no line" in text and "80.6" in text
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 2 + len(tree["sets"]["coco80"]["quoted"])
    assert all("*quoted*" in line for line in rows[4:]) and "*quoted*" not in "".join(rows[:4])
    assert page.count('class="quoted"') == len(rows) - 4 and "(quoted)" in page
    assert page.count("not supported</td>") == 1
    assert "1 of 4 classes not supported" in describe_result(result.eval_set, result.measured["google"], MEASURING)
    assert len(describe_set(result.eval_set)) == 3


def test_each_system_has_pages_of_classes_that_the_table_links_to(result: SetResult, tmp_path: Path) -> None:
    options = {"run_tasks": in_this_process, "execution": RunConfig().execution}
    links = write_system_pages([result], str(tmp_path), **options)
    assert links == {"coco80": {name: f"classes/coco80/{name}/index.html" for name in ("ours", "google")}}
    page = benchmark_page(build_tree([result], MEASURING), links)
    for link in links["coco80"].values():
        assert f'<a href="{link}">' in page
        text = (tmp_path / link).read_text()
        assert "wine glass" in text or "google" in link
        back = re.search(r'<a href="([^"]+)">benchmark</a>', text)
        assert back and (tmp_path / link).parent.joinpath(back[1]).resolve() == tmp_path / "benchmark.html"
    files = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.html")}
    write_system_pages([result], str(tmp_path), **options)
    assert {file: file.stat().st_mtime_ns for file in files} == files, "of the same scores"


def test_quoted_figures_name_their_sets() -> None:
    tree = quoted_figures()
    assert all(figure["set"] in tree["sets"] for figure in tree["figures"])
    assert all(0 < figure[name] < 100 for figure in tree["figures"] for name in ("mAP", "precision") if name in figure)
    ram = {figure["set"]: figure["mAP"] for figure in tree["figures"] if figure["system"] == "RAM-14M"}
    assert ram["coco80"] == 80.6 and ram["openimages_rare"] == 69.2
