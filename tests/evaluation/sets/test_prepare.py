"""Contract: the truth of a set is what its file says, whatever form it has; what is left out of a set is named; each
mistake is one line with the file and the fix."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ram_ray.cli.compare import parse_sets
from ram_ray.config import RunConfig
from ram_ray.evaluation.score_set import target_rows
from ram_ray.evaluation.sets.prepare import ClassIndex, EvalSet, SetReading, prepare_set
from ram_ray.evaluation.sets.spec import SetSpec
from ram_ray.evaluation.systems.predictions import read_truth_rows
from tests.tiny import jpeg


def prepare(folder: Path, text: str) -> EvalSet:
    return prepare_set(parse_sets([text])[0], str(folder / "prepared"), reading=SetReading.from_config(RunConfig()))


def truth_of(eval_set: EvalSet) -> dict[str, list[str]]:
    return {key: sorted(row[0]) for key, row in read_truth_rows(eval_set).items()}


def targets_of(eval_set: EvalSet) -> dict[str, list[int]]:
    rows = read_truth_rows(eval_set)
    index = ClassIndex(eval_set.entries)
    targets = target_rows(*zip(*rows.values(), strict=True), index=index, num_classes=len(eval_set.classes))
    return dict(zip(rows, targets.tolist(), strict=True))


def test_lists_of_names_and_of_numbers(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("a/1,Car,wheel,Car\na/2\n\nb/3,sky\n")
    (tmp_path / "classes.txt").write_text("car\nWheel\nbus\n")
    eval_set = prepare(tmp_path, f"oi={tmp_path}/names.txt,classes={tmp_path}/classes.txt")
    assert eval_set.classes == ["car", "wheel", "bus"] and eval_set.images == 3 and not eval_set.has_images
    assert targets_of(eval_set) == {"a/1": [1, 1, 0], "a/2": [0, 0, 0], "b/3": [0, 0, 0]}
    assert eval_set.unknown == {"sky": 1}
    (tmp_path / "numbers.txt").write_text("1.jpg,2 0\n2.jpg,1\n")
    (tmp_path / "hoi.txt").write_text("person sit_on bench\nperson hold dog\nperson hold dog\n")
    hico = prepare(tmp_path, f"hico={tmp_path}/numbers.txt,classes={tmp_path}/hoi.txt")
    assert hico.classes == ["person sit on bench", "person hold dog", "person hold dog (2)"]
    assert targets_of(hico) == {"1.jpg": [1, 0, 1], "2.jpg": [0, 1, 0]}
    assert prepare(tmp_path, f"free={tmp_path}/names.txt").classes == ["car", "sky", "wheel"], "those of the images"


COCO = {
    "categories": [{"id": 1, "name": "person"}, {"id": 90, "name": "Toothbrush"}, {"id": 7, "name": "tree-merged"}],
    "images": [
        {"id": 5, "file_name": "5.jpg", "width": 100, "height": 100},
        {"id": 6, "file_name": "6.jpg", "width": 10, "height": 10},
        {"id": 8, "file_name": "8.jpg", "width": 10, "height": 10},
    ],
    "annotations": [
        {"image_id": 5, "category_id": 1, "bbox": [0, 0, 10, 10]},  # 1% of the image
        {"image_id": 5, "category_id": 90, "bbox": [0, 0, 2, 2]},
        {"image_id": 6, "category_id": 90, "bbox": [0, 0, 9, 9], "area": 40},
        {"image_id": 6, "segments_info": [{"category_id": 7, "area": 60}, {"category_id": 90, "area": 0.5}]},
    ],
}


def test_cocos_boxes_and_segments_with_and_without_small_objects(tmp_path: Path) -> None:
    (tmp_path / "coco.json").write_text(json.dumps(COCO))
    eval_set = prepare(tmp_path, f"coco={tmp_path}/coco.json")
    assert eval_set.classes == ["person", "toothbrush", "tree-merged"] and eval_set.unknown == {}
    assert targets_of(eval_set) == {"5.jpg": [1, 1, 0], "6.jpg": [0, 1, 1], "8.jpg": [0, 0, 0]}
    large = prepare(tmp_path, f"coco={tmp_path}/coco.json,min_area=0.005")
    assert targets_of(large) == {"5.jpg": [1, -1, 0], "6.jpg": [0, 1, 1], "8.jpg": [0, 0, 0]}
    assert large.identity != eval_set.identity


def test_openimages_negatives_and_names(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(
        "ImageID,Source,LabelName,Confidence\ni1,verification,/m/01,1\ni1,verification,/m/02,0\ni2,machine,/m/02,0.8\n"
    )
    (tmp_path / "names.csv").write_text("LabelName,DisplayName\n/m/01,Tortoise\n/m/02,Sea turtle\n")
    named = f"oi={tmp_path}/labels.csv,descriptions={tmp_path}/names.csv"
    eval_set = prepare(tmp_path, named)
    assert eval_set.classes == ["sea turtle", "tortoise"]
    assert targets_of(eval_set) == {"i1": [0, 1], "i2": [1, 0]}
    assert targets_of(prepare(tmp_path, f"{named},unverified=unknown")) == {"i1": [0, 1], "i2": [1, -1]}
    with pytest.raises(ValueError, match=r"2 labels such as /m/01 have no name; add descriptions="):
        prepare(tmp_path, f"oi={tmp_path}/labels.csv")


def test_masks_and_the_classes_of_a_clean_subset(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    mask = np.zeros((10, 10), np.uint8)
    (
        mask[0, :2],
        mask[1:],
    ) = 2, 1  # 2% chair, 90% wall, the rest is nothing
    Image.fromarray(mask).save(tmp_path / "masks/ADE_val_1.png")
    (tmp_path / "info.csv").write_text("wall,0\nchair,1\nswivel;chair,1\ncar;auto,1\n")
    options = f"ade={tmp_path}/masks,format=ade20k,classes={tmp_path}/info.csv"
    assert targets_of(prepare(tmp_path, options)) == {"ADE_val_1": [1, 1, 0, 0]}
    clean = prepare(tmp_path, f"{options},min_area=0.05,ambiguous=leave_out")
    assert clean.classes == ["wall", "swivel", "car"]
    assert clean.left_out == {"chair": "ambiguous: also a name of 'swivel'"} and clean.unknown == {}
    (tmp_path / "out.txt").write_text("auto  # a synonym\nwall\n")
    listed = prepare(tmp_path, f"{options},leave_out={tmp_path}/out.txt,min_area=0.05")
    assert list(listed.left_out) == ["car", "wall"] and targets_of(listed) == {"ADE_val_1": [-1, 0]}


def test_our_own_shards(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    lines = [
        {"file_name": "0.jpg", "labels": ["object:dog", "Cat"], "negative_labels": ["bus"]},
        {"file_name": "1.jpg", "labels": []},
        {"file_name": "2.jpg", "caption": "a dog without labels"},
        {"file_name": "3.jpg", "labels": ["dog"]},  # does not exist
    ]
    for number in range(3):
        (tmp_path / f"set/{number}.jpg").write_bytes(jpeg(number))
    (tmp_path / "set/captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    eval_set = prepare(tmp_path, f"{tmp_path}/set")
    assert eval_set.name == "eval" and eval_set.classes == ["cat", "dog"]
    assert (eval_set.images, eval_set.rejected, eval_set.has_images) == (2, 1, True)
    root = f"{tmp_path.name}/set"  # keys have the folders of their shard
    assert targets_of(eval_set) == {f"{root}/0.jpg": [1, 1], f"{root}/1.jpg": [0, 0]}
    (tmp_path / "classes.txt").write_text("dog\ncat\nbus\ntram")
    known = prepare(tmp_path, f"mine={tmp_path}/set,classes={tmp_path}/classes.txt,unverified=unknown")
    assert targets_of(known) == {f"{root}/0.jpg": [1, 1, 0, -1], f"{root}/1.jpg": [0, 0, 0, 0]}, (
        "1 lists none as absent"
    )


@pytest.mark.parametrize(
    ("file", "content", "options", "error"),
    [
        ("a.txt", "i,1 9", ",classes={c}", "line 1: class 9; the list has 0 to 1"),
        ("a.txt", "i,1 9", "", "line 1: has numbers of classes; add classes=FILE"),
        ("a.txt", ",car", "", "line 1: no image"),
        ("a.txt", "i,car\ni,car", "", "the image 'i' is listed twice"),
        ("a.txt", "i,tram", ",classes={c}", "no label of .* is a class of"),
        ("a.txt", "i\nj", "", "no label of .* its labels are none"),
        ("a.json", '{"images": []}', "", "lists no images or no categories"),
        ("a.json", '{"images": [1], "categories": [{"id": 1}]}', "", "is not COCO's"),
        ("a.json", json.dumps({**COCO, "images": COCO["images"][:1]}), "", "images that it does not list"),
        (
            "a.json",
            json.dumps({**COCO, "categories": COCO["categories"][:1]}),
            "",
            "category 7, which it",
        ),
        ("a.csv", "Image,Label\n", "", "has no column ImageID"),
        ("a.csv", "ImageID,LabelName,Confidence\ni,dog,x\n", "", "line 2: the confidence 'x' is no number"),
        ("a.txt", "i,car", ",leave_out={c}", "'bus' is no class of s"),
    ],
)
def test_a_mistake_in_a_file_is_one_line(tmp_path: Path, file: str, content: str, options: str, error: str) -> None:
    (tmp_path / "classes").write_text("car\nbus\n")
    (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=error):
        prepare(tmp_path, f"s={tmp_path}/{file}{options.format(c=tmp_path / 'classes')}")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("coco80", "write NAME=FILE"),
        ("a/b=x.txt", "write NAME=FILE"),
        ("a=", "name the file once"),
        ("a=x.txt,map=1,map=2", "each option once"),
        ("a=x.txt,format=voc", "format=voc: use shards, list"),
        ("a=x.txt,min_area=0.1", "min_area needs boxes or masks; the format list has none"),
        ("a=x.json,min_area=2", "use a share of the image"),
        ("a=x.json,unverified=unknown", "openimages and shards"),
    ],
)
def test_a_wrong_set_is_one_line(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        SetSpec.parse(text)


def test_commas_in_paths_stay() -> None:
    spec = SetSpec.parse("a=x/{1,2}.tar,classes=a,b.txt,images=c")
    assert (spec.truth, spec.classes, spec.images, spec.format) == ("x/{1,2}.tar", "a,b.txt", "c", "shards")


def test_a_prepared_set_is_copied_with_its_rules(tmp_path: Path) -> None:
    """Its rows, classes and left-out classes are those of the first; the copy stands by itself."""
    (tmp_path / "names.txt").write_text("a/1,car\na/2,bus\n")
    (tmp_path / "out.txt").write_text("bus\n")
    first = prepare(tmp_path, f"one={tmp_path}/names.txt,leave_out={tmp_path}/out.txt")
    spec = parse_sets([f"two={first.folder},format=prepared"])[0]
    assert SetSpec.parse(spec.to_text()) == spec
    copy = prepare_set(spec, str(tmp_path / "copy"), reading=SetReading.from_config(RunConfig()))
    assert (copy.name, copy.folder, copy.left_out) == ("two", str(tmp_path / "copy"), first.left_out)
    assert truth_of(copy) == truth_of(first) and copy.identity == first.identity
    with pytest.raises(ValueError, match=r"none: holds no prepared evaluation set \(manifest.json: FileNotFound"):
        prepare(tmp_path, f"three={tmp_path}/none,format=prepared")


@pytest.mark.parametrize(
    "text",
    [
        "coco80=/a/ann.json,images=/a/val,min_area=0.01,ambiguous=leave_out",
        "oi=/a/labels.csv,descriptions=/a/names.csv,unverified=unknown,images=/i",
        "mine=/a/*.tar",
        "list=/a/truth.txt,classes=coco80,map=/m.txt,leave_out=/o.txt,format=list",
    ],
)
def test_a_set_is_written_as_it_is_read(text: str) -> None:
    spec = SetSpec.parse(text)
    assert SetSpec.parse(spec.to_text()) == spec
