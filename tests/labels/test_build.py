"""Contract: a label system from counts has the most frequent labels first and does not depend on the order of counts;
names with the same meaning merge, kinds do not; the report has merges and drops; every build applies the edits."""

from __future__ import annotations

import random

import pytest

from ram_ray.label_system import LabelSystem
from ram_ray.labels.build import BuildOptions, build, spread
from ram_ray.labels.edits import Edits
from ram_ray.labels.report import BuildReport
from ram_ray.labels.synonyms import shipped_synonyms

COUNTS = {
    ("dog", "object"): 50, ("train", "object"): 20, ("train", "action"): 7, ("gray", "attribute"): 9,
    ("grey", "attribute"): 4, ("motorbike", "object"): 6, ("motor bike", "object"): 8, ("motor-bike", "object"): 1,
    ("beach", "scene"): 30, ("rare", "attribute"): 2, ("person", "object"): 20, ("tennis racquet", "object"): 3,
    ("tennis racket", "object"): 3, ("hat", "object"): 100, ("hat", "action"): 1,
}  # fmt: skip


def _build(counts=COUNTS, **options) -> tuple[LabelSystem, BuildReport]:
    if not all(isinstance(sources, dict) for sources in counts.values()):
        counts = {key: {"captions": count} for key, count in counts.items()}
    settings = {"min_count": 5, "max_labels": 100, "shipped": shipped_synonyms(), "min_share": 0.02}
    return build(counts, BuildOptions(**{**settings, **options}))


def _names(**options) -> list[str]:
    return _build(**options)[0].names


def test_order_is_count_then_kind_then_name() -> None:
    system, _ = _build()
    assert [(label.name, label.count) for label in system.labels] == [
        ("hat", 100), ("dog", 50), ("beach", 30), ("person", 20), ("train", 20), ("motor bike", 15), ("gray", 13),
        ("train", 7), ("tennis racket", 6),
    ]  # fmt: skip
    assert [label.id for label in system.labels] == list(range(9))


def test_spellings_and_compounds_become_synonyms_of_the_more_frequent_name() -> None:
    system, report = _build()
    assert {"motor-bike", "motorbike", "motorcycle"} <= set(system[system.find("motor bike")].synonyms)
    assert system.find("motorbike") == system.find("motorcycle") == system.find("motor bike")
    assert system.find("grey") == system.find("gray") is not None
    assert system.find("tennis racquet") == system.find("tennis racket") is not None
    merges = {merge["name"]: (merge["how"], merge["with"]) for label in report.labels for merge in label["merged"]}
    assert merges["grey"] == ("spelling", "gray") and merges["tennis racquet"] == ("spelling", "tennis racket")
    assert merges["motorbike"][0] == "compound" and merges["motorcycle"][0] == "table"


def test_homographs_stay_apart_and_misread_names_find_the_intended_label() -> None:
    system, report = _build()
    assert system.find("train", "object") != system.find("train", "action")
    assert {system[system.find("train", kind)].count for kind in ("object", "action")} == {20, 7}
    assert system.find("hat", "action") == system.find("hat", "object"), "1 caption of 101 is a mistake of the parser"
    assert {"name": "hat", "kind": "action", "count": 1, "reason": "misread"} in report.dropped


def test_the_order_of_the_counts_does_not_matter() -> None:
    items = list(COUNTS.items())
    random.Random(0).shuffle(items)
    (system, report), (shuffled, shuffled_report) = _build(), _build(dict(items))
    assert system.to_json() == shuffled.to_json() and system.version == shuffled.version
    assert report.to_json() == shuffled_report.to_json()
    assert BuildReport.from_json(report.to_json()) == report


def test_names_of_all_sources_rank_above_names_of_a_single_source() -> None:
    counts = {
        ("watermark", "object"): {"web": 110, "people": 0},
        ("dog", "object"): {"web": 50, "people": 50},
        ("cat", "object"): {"web": 45, "people": 50},
    }
    assert _names(counts=counts) == ["dog", "cat", "watermark"]
    assert _names(counts=counts, spread=0) == ["watermark", "dog", "cat"]
    assert _names(counts=counts, min_sources=2) == ["dog", "cat"]
    totals = {"web": 1000, "people": 10}
    assert spread({"web": 100, "people": 1}, totals) == pytest.approx(1), "rates, not counts"
    assert spread({"web": 100}, totals) == pytest.approx(0.5) and spread({"web": 9}, {"web": 9}) == 1


def test_limits_and_reasons() -> None:
    assert _names(max_labels=2) == ["hat", "dog"]
    assert _names(min_count=30) == ["hat", "dog", "beach"]
    assert _names(kinds=["action"]) == ["train"]
    assert "dog" not in _names(stop=frozenset({"dog"}))
    assert _names(stop=frozenset({"action:train"})).count("train") == 1
    _, report = _build(max_labels=2, stop=frozenset({"beach"}), kinds=["object", "scene"])
    assert report.num_dropped == {"kind": 5, "over max_labels": 4, "stop list": 1}
    assert sum(report.num_dropped.values()) == len(report.dropped)


def test_edits() -> None:
    edits = Edits(
        drop=["person", "object:unicorn"],
        kind={"beach": "object"},
        merge={"dog": ["object:train"]},
        apart=[["gray", "grey"]],
        rename={"hat": "headgear"},
        add=["object:fire extinguisher"],
    )
    system, report = _build(edits=edits)
    assert system.find("person") is None
    assert system[system.find("beach", "object")].kind == "object"
    assert system.find("beach", "scene") == system.find("beach", "object"), "the parser still returns scene"
    assert system.find("train", "object") == system.find("dog") and system.find("train", "action") is not None
    assert system.find("grey") is None, "not merged, it has too few captions"
    assert system[system.find("hat")].name == "headgear"
    added = system[system.find("fire extinguisher")]
    assert added.count == 0 and added.id == len(system) - 1
    assert report.notes == ["edit without effect: drop object:unicorn"]


def test_an_edit_overrides_the_shipped_table() -> None:
    counts = {("couch", "object"): 9, ("sofa", "object"): 30}
    assert _names(counts=counts) == ["sofa"]
    assert _names(counts=counts, edits=Edits(apart=[["sofa", "couch"]])) == ["sofa", "couch"]
    assert _names(counts=counts, edits=Edits(merge={"couch": ["sofa"]})) == ["couch"]


def test_errors_name_the_setting_or_kind() -> None:
    with pytest.raises(ValueError, match="labels.min_count"):
        _build(min_count=1000)
    with pytest.raises(ValueError, match="colour"):
        _build(kinds=["colour"])
    with pytest.raises(ValueError, match="thing"):
        _build({("dog", "thing"): 9})


def test_a_saved_system_loads_as_itself(tmp_path) -> None:
    system, _ = _build({**COUNTS, ("hat", "object"): 1000, ("hat", "action"): 6})
    system.save(str(tmp_path / "label_system.json"))
    loaded = LabelSystem.load(str(tmp_path / "label_system.json"))
    assert loaded.to_json() == system.to_json() and loaded.labels == system.labels
