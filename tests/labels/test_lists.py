"""Contract: every published format of a list is read, and its order gives the ids; a system written as CSV reads as
itself; an unreadable list is a ValueError; coverage has the rule of each match; a diff has the change of each label."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ram_ray.captions.tables import load_lemmas
from ram_ray.label_system import Label, LabelSystem
from ram_ray.labels.build import BuildOptions
from ram_ray.labels.compare import agreement, diff, format_diff
from ram_ray.labels.coverage import CoverageFinder, name_variants
from ram_ray.labels.listed import add_entries, fit_ready, make_kind_guesser, read_released
from ram_ray.labels.lists import Entry, read_list, read_system, shipped_lists, to_csv, to_system
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
def test_published_formats(tmp_path: Path, name: str, text: str, entries: list[str]) -> None:
    (tmp_path / name).write_text(text)
    assert [entry.name for entry in read_list(str(tmp_path / name))] == entries


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
    coco80, coco133 = ([entry.name for entry in read_list(name)] for name in ("coco80", "coco133"))
    assert len(set(coco80)) == 80 and len(set(coco133)) == 133 and coco133[:80] == coco80


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
def test_an_unreadable_list_is_a_value_error(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_list(str(tmp_path / name))


def test_ids_are_the_indices_of_the_list_and_a_name_may_occur_twice() -> None:
    system = to_system([Entry("crane"), Entry("run", (), "action"), Entry("crane")], kind_of=lambda name: "object")
    assert [(label.id, label.name, label.kind) for label in system.labels] == [
        (0, "crane", "object"), (1, "run", "action"), (2, "crane (2)", "object"),
    ]  # fmt: skip


def test_kinds_come_from_the_captions_then_from_the_dictionary() -> None:
    guess = make_kind_guesser(load_lemmas(), {("run", "action"): {"a": 5}, ("run", "object"): {"a": 2}})
    assert [guess(name) for name in ("run", "beach", "blue", "dog", "sheepish", "fire truck")] == [
        "action", "scene", "attribute", "object", "attribute", "object",
    ]  # fmt: skip


def test_a_listed_system_has_its_ids_and_synonyms_from_captions(tmp_path: Path) -> None:
    (tmp_path / "tags.txt").write_text("unicorn\ntrain\nskis\nplane\nobject:beach\ncouch\nsofa\n")
    counts = {
        ("train", "action"): {"a": 3, "b": 4}, ("train", "object"): {"a": 2}, ("dog", "object"): {"a": 9},
        ("ski", "object"): {"a": 5}, ("airplane", "object"): {"a": 6}, ("beach", "scene"): {"b": 7},
        ("settee", "object"): {"a": 1},
    }  # fmt: skip
    listed = read_system(str(tmp_path / "tags.txt"), kind_of=make_kind_guesser(load_lemmas(), counts))
    lemma = {("skis", "object"): "ski"}
    system, report = fit_ready(listed, counts, BuildOptions(shipped=shipped_synonyms(), lemma=lemma))
    assert [(label.name, label.kind, label.count) for label in system.labels] == [
        ("unicorn", "object", 0), ("train", "action", 7), ("skis", "object", 5), ("plane", "object", 6),
        ("beach", "object", 7), ("couch", "object", 1), ("sofa", "object", 0),
    ]  # fmt: skip
    assert "airplane" in system[3].synonyms and "ski" in system[2].synonyms and "sofa" not in system[5].synonyms
    assert report.num_dropped == {"not listed": 2} and report.labels[1]["sources"] == {"a": 3, "b": 4}
    assert {"name": "airplane", "count": 6, "with": "plane", "how": "table"} in report.labels[3]["merged"]


def test_a_system_written_to_a_file_reads_as_itself(tmp_path: Path) -> None:
    (tmp_path / "system.csv").write_text(to_csv(SYSTEM))
    SYSTEM.save(str(tmp_path / "system.json"))

    def unknown(name: str) -> str:
        raise AssertionError(f"the file contains the kind of {name}")

    assert read_system(str(tmp_path / "system.json"), kind_of=unknown).labels == SYSTEM.labels
    loaded = read_system(str(tmp_path / "system.csv"), kind_of=unknown)
    assert loaded.version == SYSTEM.version
    assert len(to_csv(SYSTEM).splitlines()) == len(SYSTEM) + 1 and "couch,object,9,,sofa; settee" in to_csv(SYSTEM)


def test_coverage_has_the_rule_of_each_match() -> None:
    class Senses:
        def sense(self, name: str, kind: str) -> str | None:
            return "seat" if name in ("couch", "davenport") and kind == "object" else None

    covering = CoverageFinder(SYSTEM, lemmas=load_lemmas(), tables=shipped_synonyms(), senses=Senses())
    names = ["couch", "sofa", "skis", "wall-brick", "tennis racquet", "davenport", "zebra", "train (vehicle)"]
    coverage = covering("list", [*(Entry(name) for name in names), Entry("lounge", ("settee",))])
    assert [(match.label, match.matched_by) for match in coverage.categories] == [
        ("couch", "name"), ("couch", "synonym"), ("ski", "spelling"), ("brick wall", "name"),
        ("tennis racket", "spelling"), ("couch", "wordnet"), (None, None), ("train", "name"), ("couch", "synonym"),
    ]  # fmt: skip
    assert coverage.missing == ["zebra"] and coverage.share == pytest.approx(8 / 9)
    assert coverage.to_dict()["spelling"] == 2
    assert "wall" in name_variants("wall-other-merged") and "sky" in name_variants("sky-other-merged")
    assert "door" in name_variants("door-stuff")


def test_labels_are_added_after_those_of_a_list() -> None:
    entries = [Entry("zebra"), Entry("sofa"), Entry("train", kind="object"), Entry("run", ("jog",), "action")]
    system = add_entries(SYSTEM, [*entries, Entry("jog")], kind_of=lambda name: "object")
    assert system.labels[:7] == SYSTEM.labels
    added = [(label.id, label.name, label.kind, label.synonyms) for label in system.labels[7:]]
    assert added == [(7, "zebra", "object", ()), (8, "run", "action", ("jog",))]


def test_the_labels_of_a_released_model_are_found_in_captions_whatever_their_kind() -> None:
    names = ("Christmas tree", "red", "dog")
    listed = LabelSystem(Label(id, name, "object") for id, name in enumerate(names))
    released = read_released(listed, kind_of=make_kind_guesser(load_lemmas()))
    counts = {("christmas tree", "object"): {"a": 3}, ("red", "attribute"): {"a": 2}}
    system, _ = fit_ready(released, counts, BuildOptions())
    assert system.names == list(names) and [label.count for label in system.labels] == [3, 2, 0]
    assert system.find("red", "attribute") == 1 and system.find("dog", "action") is None
    assert read_released(SYSTEM, kind_of=lambda name: "scene") is SYSTEM


def test_a_released_list_may_have_a_name_twice() -> None:
    listed = LabelSystem([Label(0, "crane", "object"), Label(1, "crane", "object")], unique=False)
    system, _ = fit_ready(listed, {("crane", "object"): {"a": 3}}, BuildOptions())
    assert len(system) == 2 and not system.unique and [label.count for label in system.labels] == [3, 0]


def test_a_diff_has_the_change_of_each_label() -> None:
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
    assert "merged (1): object:ski into object:train" in format_diff(change)
    same = LabelSystem(replace(label, count=label.count + 1) for label in SYSTEM.labels)
    assert diff(SYSTEM, same).empty and format_diff(diff(SYSTEM, same)).endswith("the same")


def test_agreement_of_two_builds() -> None:
    other = LabelSystem(
        [Label(0, "sofa", "object", 9, ("couch",)), Label(1, "train", "object"), Label(2, "x", "object")]
    )
    assert agreement(SYSTEM, other, top=2) == (0.5, 1.0)
    assert agreement(SYSTEM, SYSTEM, top=100) == (1.0, 1.0)
