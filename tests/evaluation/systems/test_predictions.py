"""Contract: a predictions file is scored as scikit-learn scores its matrix; each bad line is one clear error; what does
not match is counted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from ram_ray.cli.compare import parse_sets, parse_systems
from ram_ray.config import RunConfig
from ram_ray.evaluation.bootstrap import Resampling
from ram_ray.evaluation.measure_scores import Measuring, measure_scores
from ram_ray.evaluation.score_files import num_blocks, read_block
from ram_ray.evaluation.sets.prepare import EvalSet, SetReading, prepare_set
from ram_ray.evaluation.systems.predictions import PredictionsSystem, read_predictions
from ram_ray.evaluation.systems.registry import make_system

TRUTH = "a,Dog\nb,Cat,dog\nc\nd,bus\n"
CLASSES = "dog\ncat;kitty\nbus\nzebra\n"


@pytest.fixture
def eval_set(tmp_path: Path) -> EvalSet:
    (tmp_path / "truth.txt").write_text(TRUTH)
    (tmp_path / "classes.csv").write_text(CLASSES)
    spec = parse_sets([f"set={tmp_path}/truth.txt,classes={tmp_path}/classes.csv"])[0]
    return prepare_set(spec, str(tmp_path / "set"), reading=SetReading.from_config(RunConfig()))


def write(path: Path, *rows: dict) -> str:
    data = "\n".join(map(json.dumps, rows)).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


ROWS = (
    {"key": "a", "tags": ["DOG", "tree"], "scores": [3.5, 9], "caption": "not read"},
    {"key": "b", "tags": ["kitty", "dog"], "scores": [2, -1]},
    {"key": "d", "tags": [], "scores": [], "error": "too large"},
    {"key": "elsewhere", "tags": ["dog"], "scores": [1]},
)


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz"])
def test_scores_of_a_file(tmp_path: Path, eval_set: EvalSet, name: str) -> None:
    system = make_system(parse_systems([f"google={write(tmp_path / name, *ROWS)}"])[0])
    assert isinstance(system, PredictionsSystem) and system.covers(eval_set)
    folder = str(tmp_path / "scores")
    manifest = system.score(eval_set, folder)
    assert manifest.classes == ["dog", "cat", "bus", "zebra"] and manifest.unsupported == []
    assert manifest.matched_by == ["name", "synonym", "open", "open"]
    assert manifest.notes == [
        "1 images have no line and count as without tags",
        "1 images have an error and count as without tags",
        "1 lines are about other images",
        "2 classes are in no line",
    ]
    block = read_block(folder, 0, num_classes=4)
    lowest = np.nextafter(np.float32(-1), np.float32(-2))
    assert block.keys == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(block.scores[:, :2], [[3.5, lowest], [-1, 2], [lowest] * 2, [lowest] * 2])
    np.testing.assert_array_equal(block.targets, [[1, 0, 0, 0], [1, 1, 0, 0], [0] * 4, [0, 0, 1, 0]])
    measured = measure_scores(folder, Measuring(resampling=Resampling(20)))
    assert measured.figures["dog"].ap == 1 and measured.figures["bus"].ap == 0.25
    assert measured.summary(min_positives=1)["own"] is None
    assert system.score(eval_set, folder) == manifest, "done"


def test_a_vocabulary_says_what_is_not_supported(tmp_path: Path, eval_set: EvalSet) -> None:
    (tmp_path / "words.txt").write_text("dog\nbuses\ntree")
    source = write(tmp_path / "p.jsonl", *ROWS)
    system = make_system(parse_systems([f"g={source},vocabulary={tmp_path}/words.txt"])[0])
    manifest = system.score(eval_set, str(tmp_path / "scores"))
    assert manifest.classes == ["dog", "cat", "bus"] and manifest.unsupported == ["zebra"]
    assert manifest.matched_by == ["name", "synonym", "spelling"]


def test_a_file_about_other_images_is_told(tmp_path: Path, eval_set: EvalSet) -> None:
    system = PredictionsSystem("p", write(tmp_path / "p.jsonl", {**ROWS[0], "key": "a.jpg"}))
    assert not system.covers(eval_set)
    with pytest.raises(ValueError, match="no line is about an image of set; its keys are such as 'a', .* 'a.jpg'"):
        system.score(eval_set, str(tmp_path / "scores"))


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("{", "is not JSON"),
        ("[]", "is no object"),
        ('{"tags": [], "scores": []}', 'has no "key"'),
        ('{"key": 3, "tags": [], "scores": []}', 'has no "key"'),
        ('{"key": "x", "scores": []}', '"tags" is no list of names'),
        ('{"key": "x", "tags": [""], "scores": [1]}', '"tags" is no list of names'),
        ('{"key": "x", "tags": ["dog"]}', '"scores" is no list of finite numbers'),
        ('{"key": "x", "tags": ["dog"], "scores": [NaN]}', '"scores" is no list of finite numbers'),
        ('{"key": "x", "tags": ["dog"], "scores": ["0.5"]}', '"scores" is no list of finite numbers'),
        ('{"key": "x", "tags": ["dog"], "scores": [true]}', '"scores" is no list of finite numbers'),
        ('{"key": "x", "tags": ["dog"], "scores": [1, 2]}', "has 1 tags and 2 scores"),
        ('{"key": "x", "tags": ["dog", "Dog"], "scores": [1, 2]}', "has the tag 'dog' twice"),
        ('{"key": "x", "tags": [], "scores": [], "error": 5}', '"error" is no text'),
        ('{"key": "a", "tags": [], "scores": []}', "the image 'a' is also in line 1"),
        ("\xff", "is not JSON"),
    ],
)
def test_each_bad_line_is_one_error(tmp_path: Path, line: str, error: str) -> None:
    good = json.dumps(ROWS[0])
    path = tmp_path / "p.jsonl"
    path.write_bytes("\n".join([good, line, "", '{"key": "y", "tags": [], "scores": []}', "?"]).encode("latin-1"))
    with pytest.raises(ValueError) as caught:
        list(read_predictions(str(path)))
    first, second = str(caught.value).splitlines()
    assert (
        first.startswith(f"{path}, line 2: ") and error in first and second.startswith(f"{path}, line 5: is not JSON")
    )


def test_many_bad_lines_and_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text("?\n" * 50)
    with pytest.raises(ValueError) as caught:
        PredictionsSystem("p", str(tmp_path / "p.jsonl"))
    lines = str(caught.value).splitlines()
    assert len(lines) == 21 and lines[-1].endswith("30 more bad lines")
    (tmp_path / "p.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="has no predictions"):
        PredictionsSystem("p", str(tmp_path / "p.jsonl"))
    with pytest.raises(ValueError, match="cannot be read"):
        PredictionsSystem("p", str(tmp_path / "none.jsonl"))


def test_a_file_over_the_keys_of_a_published_list_scores_as_scikit_learn_does(shared: Path, tmp_path: Path) -> None:
    lists = shared / "data/labels"
    if not (lists / "openimages_rare_200_ram_annots.txt").is_file():
        pytest.skip("the lists of OpenImages are not in ../shared")
    lines = (lists / "openimages_rare_200_ram_annots.txt").read_text().splitlines()[:3000]
    (tmp_path / "annots.txt").write_text("\n".join(lines))
    names = (lists / "openimages_rare_200_ram_taglist.txt").read_text().splitlines()
    rng, truth = np.random.default_rng(0), np.zeros((3000, 200), bool)
    rows = []
    for row, line in enumerate(lines):
        key, *true = line.split(",")
        truth[row, [names.index(name) for name in true]] = True
    scores = (0.7 * rng.random((3000, 200)) + 0.2 * truth).round(3)
    for line, values in zip(lines, scores, strict=True):
        listed = np.flatnonzero(values > 0.05)
        rows.append(
            {"key": line.partition(",")[0], "tags": [names[i] for i in listed], "scores": values[listed].tolist()}
        )
    spec = parse_sets([f"rare={tmp_path}/annots.txt,classes={lists}/openimages_rare_200_ram_taglist.txt"])[0]
    eval_set = prepare_set(spec, str(tmp_path / "set"), reading=SetReading.from_config(RunConfig()))
    PredictionsSystem("p", write(tmp_path / "p.jsonl", *rows)).score(eval_set, str(tmp_path / "scores"))
    measured = measure_scores(str(tmp_path / "scores"), Measuring(resampling=Resampling(0)))
    seen = truth.any(axis=0)
    listed_scores = np.where(scores > 0.05, scores, 0).astype(np.float32)
    expected = average_precision_score(truth[:, seen], listed_scores[:, seen], average="macro")
    assert measured.summary(min_positives=1)["mAP"]["value"] == pytest.approx(expected, abs=1e-9)
    assert measured.manifest.classes == [name.lower() for name in names] and num_blocks(200) == 4
