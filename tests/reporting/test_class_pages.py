"""Contract: the pages of classes have a section for each class and a link to it that leads somewhere; their number and
bytes are bounded; they load nothing, escape their texts, need no script; the same data is not written twice."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ram_ray.data.images import Limits
from ram_ray.evaluation.class_details import describe_classes, write_details
from ram_ray.evaluation.score_files import write_scores
from ram_ray.evaluation.sets.rows import SET_ROW
from ram_ray.reporting import class_pages
from ram_ray.reporting.class_pages import BOUNDS, Subject, choose_images, write_class_pages
from ram_ray.reporting.thumbnails import COLUMNS, thumbnails_of
from tests.reporting.test_run_report import EVIL, Page
from tests.tiny import jpeg

N = 40
LIMITS = Limits(64, 10**7, 10**7)  # larger than the images: what was scored is shown


class Cutter:
    """Cuts thumbnails of image files as a task does, and counts its calls."""

    def __init__(self, folder: Path) -> None:
        rows = []
        for number in range(N):
            path = folder / f"{number:03}.jpg"
            path.write_bytes(jpeg(number) if number else b"no image")
            size = path.stat().st_size
            rows.append({"key": f"{number:03}", "uri": str(path), "offset": 0, "nbytes": size, "reason": None})
        rows[1]["uri"] = str(folder / "gone.jpg")
        rows[1]["nbytes"] = -1  # as in a set of image files
        self.block = pa.Table.from_pylist([{**row, "detail": None, "truth": ["dog"]} for row in rows], schema=SET_ROW)
        self.num_calls = 0

    def __call__(self, keys) -> dict[str, bytes]:
        self.num_calls += 1
        thumbnails = thumbnails_of(self.block, keys=pa.array(keys), limits=LIMITS, bounds=BOUNDS)
        return {row["key"]: row["jpeg"] for row in thumbnails.to_pylist()}


def details(folder: Path, names: list[str]) -> str:
    """Random scores of so many classes; the last has no positives and is never predicted."""
    rng = np.random.default_rng(0)
    targets = (rng.random((N, len(names))) < 0.3).astype(np.int8)
    targets[:, -1] = 0
    scores = np.clip(0.3 * targets + rng.random((N, len(names))) * 0.7, 0, 1).astype(np.float32)
    write_scores([([f"{number:03}" for number in range(N)], scores, targets)], str(folder / "scores"))
    thresholds = np.full(len(names), 0.45, np.float32)
    thresholds[-1] = 2.0
    rows = describe_classes(str(folder / "scores"), names=names, thresholds=thresholds)
    write_details(rows, str(folder / "classes.parquet"))
    return str(folder / "classes.parquet")


def read(text: str) -> Page:
    """What a browser reads; images and shapes have no end tag, or none that counts."""
    return Page(re.sub(r"<(circle|polyline)[^>]*>", "", re.sub(r"(<img [^>]*[^/])>", r"\1></img>", text)))


def links(folder: Path) -> None:
    """Every link leads to an id of a file that is there."""
    texts = {path.name: path.read_text() for path in folder.glob("*.html")}
    ids = {name: set(re.findall(r' id="([^"]+)"', text)) for name, text in texts.items()}
    found = 0
    for name, text in texts.items():
        for href in re.findall(r'href="([^"]*)"', text):
            file, _, anchor = href.partition("#")
            if not file.startswith(".."):
                assert not anchor or anchor in ids[file or name], (name, href)
                found += 1
    assert found


NAMES = ["dog", EVIL, "traffic light", "beach", "nothing"]


@pytest.fixture(scope="module")
def one_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one_file")
    subject = Subject(EVIL, "finetune on 40 images", details(folder, NAMES), "digest", back="../../report.html")
    cutter = Cutter(folder)
    assert write_class_pages(str(folder / "pages"), subject, cut=cutter) and cutter.num_calls == 1
    assert not write_class_pages(str(folder / "pages"), subject, cut=cutter) and cutter.num_calls == 1
    return folder / "pages"


def test_few_classes_are_one_file(one_file: Path) -> None:
    assert [path.name for path in one_file.iterdir()] == ["index.html"]
    text = (one_file / "index.html").read_text()
    page = read(text)
    assert not page.open and "script" not in page.tags and "onclick" not in page.attributes and "<b>&" not in text
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.attributes["src"])
    assert EVIL in " ".join(page.text)
    assert text.count("<section ") == len(NAMES) and text.count("<svg viewBox") == 1 + 2 * len(NAMES) - 1
    links(one_file)
    assert "never predicted: the label is muted" in text and ">muted</td>" in text
    assert 'href="../../report.html"' in text
    order = [int(index) for index in re.findall(r'<section id="class-(\d+)"', text)]
    overview = text[text.index('id="classes"') : text.index("<section ")]
    table = [int(index) for index in re.findall(r'<tr><th scope="row"><a href="#class-(\d+)">', overview)]
    assert order == table and order[-1] == 4, "without positives: last"


def test_images_that_cannot_be_read_are_named(one_file: Path) -> None:
    text = (one_file / "index.html").read_text()
    gone = len(re.findall(r'<span class="gone">', text))
    assert gone == len(re.findall(r'<p class="note">00[01]</p>', text)) > 0
    assert text.count("<img ") + gone == text.count("<li>")
    assert all(f'alt="image {key}"' in text for key in re.findall(r'<p class="note">(0[1-9]\d)</p>', text))


def test_many_classes_are_a_bounded_number_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"label {number}" for number in range(30)]
    subject = Subject("run", "model", details(tmp_path, names), "digest")
    monkeypatch.setattr(class_pages, "CLASSES_PER_FILE", 10)
    cutter = Cutter(tmp_path)
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/classes-09.html").write_text("of an earlier run")
    assert write_class_pages(str(tmp_path / "pages"), subject, cut=cutter)
    files = sorted(path.name for path in (tmp_path / "pages").iterdir())
    assert files == ["classes-01.html", "classes-02.html", "classes-03.html", "index.html"]
    links(tmp_path / "pages")
    for file in files:
        text = (tmp_path / "pages" / file).read_text()
        assert not read(text).open and text.count("<section ") == (0 if file == "index.html" else 10)
    monkeypatch.setattr(class_pages, "MAX_FILES", 2)
    assert write_class_pages(str(tmp_path / "pages"), Subject("run", "model", subject.details, "other"), cut=cutter)
    assert sorted(path.name for path in (tmp_path / "pages").iterdir()) == [
        "classes-01.html",
        "classes-02.html",
        "index.html",
    ]
    text = (tmp_path / "pages/classes-02.html").read_text()
    assert text.count("<section ") == 15 and 'href="classes-01.html#class-' in text


def test_images_are_bounded_in_number_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, cutter = details(tmp_path, NAMES), Cutter(tmp_path)
    everything, num_selected = choose_images(uri, cutter)
    assert len(everything) == num_selected > 60
    monkeypatch.setattr(class_pages, "MAX_IMAGES", 20)
    few, again = choose_images(uri, cutter)
    assert len(few) == 20 and again == num_selected
    first = {id[:2] for id in everything}
    assert {id[:2] for id in few} == first, "each class and group has one before any has more"
    monkeypatch.setattr(class_pages, "MAX_BYTES", 5_000)
    fewer, _ = choose_images(uri, cutter)
    assert 0 < len(fewer) < 20 and sum(len(jpeg or b"") for jpeg in fewer.values()) <= 5_000


def test_scores_that_are_no_probabilities_have_no_calibration(tmp_path: Path) -> None:
    targets = np.array([[1, 0], [0, 1], [1, 0]], np.int8)
    write_scores([(["a", "b", "c"], targets * 8.0 - 3, targets)], str(tmp_path / "scores"))
    rows = describe_classes(str(tmp_path / "scores"), names=["dog", "cat"], thresholds=np.zeros(2, np.float32))
    write_details(rows, str(tmp_path / "classes.parquet"))
    subject = Subject("run", "model", str(tmp_path / "classes.parquet"), "digest")
    write_class_pages(str(tmp_path / "pages"), subject, cut=lambda keys: {})
    text = (tmp_path / "pages/index.html").read_text()
    assert (
        "the scores are no probabilities" in text
        and "Can the scores" not in text
        and "Images in each range" not in text
    )
    assert text.count("cannot be shown") == text.count("<li>") > 0


def test_rows_that_are_not_asked_are_not_read(tmp_path: Path) -> None:
    """A block with other images whose storage cannot even be asked."""
    uris = [str(tmp_path / f"{number:03}.jpg") if number == 5 else "nowhere://no" for number in range(N)]
    block = Cutter(tmp_path).block.set_column(SET_ROW.get_field_index("uri"), "uri", pa.array(uris)).select(COLUMNS)
    found = thumbnails_of(block, keys=pa.array(["005", "other"]), limits=LIMITS, bounds=BOUNDS)
    assert found["key"].to_pylist() == ["005"]
    with pytest.raises(ValueError, match="nowhere"):
        thumbnails_of(block, keys=pa.array(["006"]), limits=LIMITS, bounds=BOUNDS)
