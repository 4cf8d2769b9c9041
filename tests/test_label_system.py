"""Contract: ids are indices, labels are found by name or synonym, and a version identifies the meaning of outputs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ram_ray.label_system import Label, LabelSystem, is_present


def _labels() -> list[Label]:
    return [
        Label(0, "train", "object", 9, ("railway train",)),
        Label(1, "train", "action", 4),
        Label(2, "red", "attribute", 3, threshold=0.7),
        Label(3, "café", "scene", 2, ("coffee shop", "red")),
    ]


def test_names_and_synonyms_are_found_by_kind() -> None:
    system = LabelSystem(_labels())
    assert system.names == ["train", "train", "red", "café"] and len(system) == 4 and system[2].name == "red"
    assert system.find("train") == 0 and system.find("train", "action") == 1 and system.find("train", "scene") is None
    assert system.find("railway train") == 0 and system.find("coffee shop", "scene") == 3
    assert system.find("red", "scene") == 3 and system.find("nothing") is None


def test_a_name_is_never_hidden_by_a_synonym() -> None:
    system = LabelSystem([Label(0, "cat", "object", synonyms=("kitten",)), Label(1, "kitten", "object")])
    assert system.find("kitten") == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([Label(1, "dog", "object")], "ids must equal indices"),
        ([Label(0, "dog", "animal")], "object, scene, attribute, action"),
        ([Label(0, "dog", "object"), Label(1, "dog", "object")], "occurs twice"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: list[Label], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelSystem(labels)


@pytest.mark.parametrize("storage", ["local", "memory"])
def test_a_saved_system_loads_as_itself(storage: str, tmp_path: Path) -> None:
    uri = str(tmp_path / "labels.json") if storage == "local" else "memory://label-system/labels.json"
    system = LabelSystem(_labels())
    system.save(uri)
    loaded = LabelSystem.load(uri)
    assert loaded.labels == system.labels and loaded.version == system.version


def test_the_version_changes_with_the_meaning_only() -> None:
    labels = _labels()
    version = LabelSystem(labels).version
    same = [replace(label, count=label.count + 1, threshold=0.1, synonyms=label.synonyms[::-1]) for label in labels]
    assert LabelSystem(same).version == version
    for id, change in [(0, {"name": "tram"}), (2, {"kind": "scene"}), (1, {"synonyms": ("rail",)})]:
        changed = [replace(label, **change) if label.id == id else label for label in labels]
        assert LabelSystem(changed).version != version, change


def test_an_edit_must_remove_the_version() -> None:
    tree = json.loads(LabelSystem(_labels()).to_json())
    tree["labels"][0]["name"] = "tram"
    with pytest.raises(ValueError, match="remove its 'version' line"):
        LabelSystem.from_json(json.dumps(tree))
    del tree["version"]
    assert LabelSystem.from_json(json.dumps(tree)).find("tram") == 0


@pytest.mark.parametrize(
    "text", ["", "[1]", "{}", '{"labels": 3}', '{"labels": [{"name": "dog"}]}', '{"labels": [{"nom": "dog"}]}']
)
def test_what_is_not_a_label_system_is_one_error(text: str) -> None:
    with pytest.raises(ValueError, match="not a label system"):
        LabelSystem.from_json(text)


def test_lists_of_other_projects_may_repeat_a_name() -> None:
    labels = [Label(0, "train", "object", chinese="火车"), Label(1, "train", "object"), Label(2, "cat", "object")]
    loaded = LabelSystem.from_json(LabelSystem(labels, unique=False).to_json())
    assert loaded.labels == tuple(labels) and loaded.find("train") == 0 and loaded[0].chinese == "火车"


def test_a_tag_is_present_from_its_threshold_on() -> None:
    scores = np.array([[0.0, 0.4, 0.65, 1.0], [0.2, 0.39999, 0.6499, 0.99]], np.float32)
    thresholds = np.array([0, 0.4, 0.65, 1], np.float64)  # as a list of thresholds is read; scores are float32
    assert is_present(scores, thresholds).tolist() == [[True] * 4, [True, False, False, False]]
    assert is_present(scores, 0).all() and is_present(scores, 1.0).sum() == 1


def test_a_threshold_of_0_is_not_a_missing_one() -> None:
    names = ("dog", "cat", "red")
    system = LabelSystem(Label(id, name, "object", threshold=(None, 0.0, 0.25)[id]) for id, name in enumerate(names))
    assert system.thresholds(0.5).tolist() == [0.5, 0.0, 0.25]
    assert LabelSystem.from_json(system.to_json()).thresholds(0.5).tolist() == [0.5, 0.0, 0.25]
