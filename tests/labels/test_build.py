"""Label systems from counts: the most frequent first, always the same, spellings merged, kinds kept apart."""

from __future__ import annotations

import random

import pytest

from ram_ray.label_system import LabelSystem
from ram_ray.labels.build import build_label_system

COUNTS = {
    ("dog", "object"): 50, ("train", "object"): 20, ("train", "action"): 7, ("gray", "attribute"): 9,
    ("grey", "attribute"): 4, ("motorbike", "object"): 6, ("motor bike", "object"): 8, ("motor-bike", "object"): 1,
    ("beach", "scene"): 30, ("rare", "attribute"): 2, ("person", "object"): 20, ("tennis racquet", "object"): 3,
    ("tennis racket", "object"): 3,
}  # fmt: skip


def _build(counts=COUNTS, **options) -> LabelSystem:
    return build_label_system(counts, **{"max_labels": 100, "min_count": 5, **options})


def test_order_is_count_then_kind_then_name() -> None:
    system = _build()
    assert [(one.name, one.count) for one in system.labels] == [
        ("dog", 50), ("beach", 30), ("person", 20), ("train", 20), ("motor bike", 15), ("gray", 13), ("train", 7),
        ("tennis racket", 6),
    ]  # fmt: skip
    assert [one.id for one in system.labels] == list(range(8))


def test_spellings_become_synonyms_of_the_more_frequent_name() -> None:
    system = _build()
    assert system[system.find("motor bike")].synonyms == ("motor-bike", "motorbike")
    assert system.find("motorbike") == system.find("motor bike")
    assert system.find("grey") == system.find("gray")
    assert system.find("tennis racquet") == system.find("tennis racket") is not None


def test_homographs_stay_apart() -> None:
    system = _build()
    assert system.find("train", "object") != system.find("train", "action")
    assert {system[system.find("train", kind)].count for kind in ("object", "action")} == {20, 7}


def test_the_order_of_the_counts_does_not_matter() -> None:
    triples = [(name, kind, 1) for (name, kind), count in COUNTS.items() for _ in range(count)]
    random.Random(0).shuffle(triples)
    again = _build(triples)
    assert again.to_json() == _build().to_json()
    assert again.version == _build().version


def test_limits() -> None:
    assert _build(max_labels=2).names == ["dog", "beach"]
    assert _build(min_count=20).names == ["dog", "beach", "person", "train"]
    assert _build(kinds=["action"]).names == ["train"]
    assert "dog" not in _build(stop=frozenset({"dog"})).names
    assert _build(key=lambda name: name[0]).find("person") is not None


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="labels.min_count"):
        _build(min_count=1000)
    with pytest.raises(ValueError, match="colour"):
        _build(kinds=["colour"])
    with pytest.raises(ValueError, match="thing"):
        _build([("dog", "thing", 9)])


def test_saved_and_read_again(tmp_path) -> None:
    system = _build()
    system.save(str(tmp_path / "label_system.json"))
    assert LabelSystem.load(str(tmp_path / "label_system.json")).to_json() == system.to_json()
