"""Contract: every published form of list is read with its order, which is its ids; systems go to CSV and back; what is
no list is one error; coverage says by what a category is covered; a diff says what became of each label."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ram_ray.captions.tables import load_lemmas
from ram_ray.label_system import Label, LabelSystem
from ram_ray.labels.build import BuildOptions
from ram_ray.labels.compare import agreement, diff, say
from ram_ray.labels.coverage import Covering, forms
from ram_ray.labels.lists import Entry, read_list, read_system, shipped_lists, to_csv, to_system
from ram_ray.labels.ready import fit_ready, kind_guess
from ram_ray.labels.synonyms import shipped_synonyms

SYSTEM = LabelSystem(
    [
        Label(0, "couch", "object", 9, ("sofa", "settee")),
        Label(1, "train", "object", 7),
        Label(2, "train", "action", 5),
        Label(3, "gray", "attribute", 4, ("grey",), threshold=0.7, ambiguous=("gray",), read_as=("object",)),
        Label(4, "brick wall", "object", 3),
        Label(5, "ski", "object", 2),
        Label(6, "tennis racket", "object", 2),
    ]
)


@pytest.mark.parametrize(
    ("name", "text", "entries"),
    [
        ("tags.txt", "# a list\nabacus\n\naction:Train\nhot_dog\n", ["abacus", "train", "hot dog"]),
        ("coco.json", json.dumps({"categories": [{"name": "person"}, {"name": "car"}]}), ["person", "car"]),
        ("panoptic.json", json.dumps([{"id": 1, "name": "tree-merged", "isthing": 0}]), ["tree-merged"]),
        ("names.json", '["dog", "cat"]', ["dog", "cat"]),
        ("oi.csv", "/m/011k07,Tortoise\n/m/012074,Magpie\n", ["tortoise", "magpie"]),
        ("oi.csv", "label,class\n/m/011k07,Tortoise\n", ["tortoise"]),
        ("oi.csv", "LabelName,DisplayName\n/m/011k07,Sea turtle\n", ["sea turtle"]),
        ("ade.csv", "wall,0\nbuilding;edifice,0\n", ["wall", "building"]),
        ("ade.csv", "Idx,Ratio,Train,Val,Stuff,Name\n1,0.15,11664,1172,1,wall\n", ["wall"]),
    ],
)  # fmt: skip
def test_published_forms(tmp_path: Path, name: str, text: str, entries: list[str]) -> None:
    (tmp_path / name).write_text(text)
    assert [one.name for one in read_list(str(tmp_path / name))] == entries


def test_synonyms_and_kinds_of_lists(tmp_path: Path) -> None:
    (tmp_path / "ade.csv").write_text("building;edifice,0\n")
    assert read_list(str(tmp_path / "ade.csv")) == [Entry("building", ("edifice",))]
    (tmp_path / "tags.txt").write_text("action:train\n")
    assert read_list(str(tmp_path / "tags.txt")) == [Entry("train", (), "action")]


def test_the_real_lists(shared: Path) -> None:
    folder = shared / "data" / "labels"
    sizes = {
        "ade20k-objectInfo150.csv": 150,
        "openimages_common_214_ram_taglist.txt": 214,
        "openimages-class-descriptions-boxable.csv": 601,
    }
    for name, size in sizes.items():
        assert abs(len(read_list(str(folder / name))) - size) <= 1, name
    assert Entry("building", ("edifice",)) in read_list(str(folder / "ade20k-objectInfo150.csv"))


def test_shipped_lists() -> None:
    assert shipped_lists() == ["coco133", "coco80"]
    things, all_of_it = ([one.name for one in read_list(name)] for name in ("coco80", "coco133"))
    assert len(set(things)) == 80 and len(set(all_of_it)) == 133 and all_of_it[:80] == things


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "# nothing\n", "0 names"),
        ("a.json", '{"dogs": 1}', "nor"),
        ("a.json", "[1, 2]", "nor"),
        ("a.json", "[" * 100_000, "nor"),
        ("a.csv", "id,name\n1\n", "row 1"),
        ("a.csv", "name,kind\ndog,animal\n", "animal"),
        ("a.txt", "x" * 5000, "not a name"),
    ],
)
def test_what_is_no_list_is_one_error(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_list(str(tmp_path / name))


def test_ids_are_the_places_of_the_list_and_a_name_may_stand_there_twice() -> None:
    system = to_system([Entry("crane"), Entry("run", (), "action"), Entry("crane")], kind_of=lambda name: "object")
    assert [(one.id, one.name, one.kind) for one in system.labels] == [
        (0, "crane", "object"), (1, "run", "action"), (2, "crane (2)", "object"),
    ]  # fmt: skip


def test_kinds_come_from_the_captions_then_from_the_dictionary() -> None:
    guess = kind_guess(load_lemmas(), {("run", "action"): {"a": 5}, ("run", "object"): {"a": 2}})
    assert [guess(name) for name in ("run", "beach", "blue", "dog", "sheepish", "fire truck")] == [
        "action", "scene", "attribute", "object", "attribute", "object",
    ]  # fmt: skip


def test_a_ready_list_keeps_its_ids_and_learns_the_names_of_captions(tmp_path: Path) -> None:
    (tmp_path / "tags.txt").write_text("unicorn\ntrain\nskis\nplane\nobject:beach\ncouch\nsofa\n")
    counts = {
        ("train", "action"): {"a": 3, "b": 4}, ("train", "object"): {"a": 2}, ("dog", "object"): {"a": 9},
        ("ski", "object"): {"a": 5}, ("airplane", "object"): {"a": 6}, ("beach", "scene"): {"b": 7},
        ("settee", "object"): {"a": 1},
    }  # fmt: skip
    listed = read_system(str(tmp_path / "tags.txt"), kind_of=kind_guess(load_lemmas(), counts))
    lemma = {("skis", "object"): "ski"}
    system, report = fit_ready(listed, counts, BuildOptions(shipped=shipped_synonyms(), lemma=lemma))
    assert [(one.name, one.kind, one.count) for one in system.labels] == [
        ("unicorn", "object", 0), ("train", "action", 7), ("skis", "object", 5), ("plane", "object", 6),
        ("beach", "object", 7), ("couch", "object", 1), ("sofa", "object", 0),
    ]  # fmt: skip
    assert "airplane" in system[3].synonyms and "ski" in system[2].synonyms and "sofa" not in system[5].synonyms
    assert report.num_dropped == {"not listed": 2} and report.labels[1]["sources"] == {"a": 3, "b": 4}
    assert {"name": "airplane", "count": 6, "with": "plane", "how": "table"} in report.labels[3]["merged"]


def test_systems_go_to_files_and_back(tmp_path: Path) -> None:
    (tmp_path / "system.csv").write_text(to_csv(SYSTEM))
    SYSTEM.save(str(tmp_path / "system.json"))

    def unknown(name: str) -> str:
        raise AssertionError(f"the file says the kind of {name}")

    assert read_system(str(tmp_path / "system.json"), kind_of=unknown).labels == SYSTEM.labels
    again = read_system(str(tmp_path / "system.csv"), kind_of=unknown)
    assert again.version == SYSTEM.version
    assert len(to_csv(SYSTEM).splitlines()) == len(SYSTEM) + 1 and "couch,object,9,,sofa; settee" in to_csv(SYSTEM)


def test_coverage_says_by_what() -> None:
    class Senses:
        def sense(self, name: str, kind: str) -> str | None:
            return "seat" if name in ("couch", "davenport") and kind == "object" else None

    covering = Covering(SYSTEM, lemmas=load_lemmas(), tables=shipped_synonyms(), senses=Senses())
    names = ["couch", "sofa", "skis", "wall-brick", "tennis racquet", "davenport", "zebra", "train (vehicle)"]
    found = covering("list", [*(Entry(name) for name in names), Entry("lounge", ("settee",))])
    assert [(one.label, one.by) for one in found.categories] == [
        ("couch", "name"), ("couch", "synonym"), ("ski", "spelling"), ("brick wall", "name"),
        ("tennis racket", "spelling"), ("couch", "wordnet"), (None, None), ("train", "name"), ("couch", "synonym"),
    ]  # fmt: skip
    assert found.missing == ["zebra"] and found.share == pytest.approx(8 / 9)
    assert found.to_dict()["spelling"] == 2
    assert "wall" in forms("wall-other-merged") and "sky" in forms("sky-other-merged") and "door" in forms("door-stuff")


def test_a_diff_says_what_became_of_each_label() -> None:
    new = LabelSystem(
        [
            Label(0, "sofa", "object", 9, ("couch",)),
            Label(1, "train", "object", 7, ("ski",)),
            Label(2, "grey", "attribute", 9),
            Label(3, "settee", "object"),
            Label(4, "gray", "attribute"),
            Label(5, "brick wall", "object"),
            Label(6, "zebra", "object"),
            Label(7, "tennis racket", "object"),
        ]
    )
    change = diff(SYSTEM, new)
    assert change.added == ("object:zebra",) and change.removed == ("action:train",)
    assert change.renamed == (("object:couch", "object:sofa"),)
    assert change.merged == (("object:ski", "object:train"),)
    assert change.split == (("attribute:grey", "attribute:gray"), ("object:settee", "object:couch"))
    assert ("object:train", ("ski",), ()) in change.synonyms and not change.empty
    assert "merged (1): object:ski into object:train" in say(change)
    same = LabelSystem(replace(one, count=one.count + 1) for one in SYSTEM.labels)
    assert diff(SYSTEM, same).empty and say(diff(SYSTEM, same)).endswith("the same")


def test_agreement_of_two_builds() -> None:
    other = LabelSystem(
        [Label(0, "sofa", "object", 9, ("couch",)), Label(1, "train", "object"), Label(2, "x", "object")]
    )
    assert agreement(SYSTEM, other, top=2) == (0.5, 1.0)
    assert agreement(SYSTEM, SYSTEM, top=100) == (1.0, 1.0)
