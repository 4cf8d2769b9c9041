"""Contract: truth comes from human labels, or from original captions where there are none, and what the label system
does not know is counted."""

import numpy as np
import pytest

from ram_ray.data.ground_truth import label_id, resolve_labels, score_tags, tag_counts, true_tags
from ram_ray.label_system import Label, LabelSystem
from ram_ray.records import ANNOTATION, to_table
from ram_ray.results import Counts
from tests.data_engine.test_generate import annotation


@pytest.fixture(scope="module")
def system() -> LabelSystem:
    return LabelSystem(
        [
            Label(0, "dog", "object", 50, ("puppy",)),
            Label(1, "orange", "object", 3),
            Label(2, "orange", "attribute", 40),
            Label(3, "run", "action", 9),
        ]
    )


def test_labels_by_name_synonym_and_kind(system):
    assert [label_id(name, system) for name in ("Dog ", "puppy", "run", "cat")] == [0, 0, 3, None]
    assert label_id("Attribute: orange", system) == 2
    assert label_id("orange", system) == 2  # captions use the colour more
    assert label_id("object:orange", system) == 1 and label_id("action:orange", system) is None


def test_names_become_ids_once_and_an_empty_list_is_not_a_missing_one(system):
    assert resolve_labels(["dog", "ufo", "puppy", "ufo"], system) == ([0], ["ufo", "ufo"])
    assert resolve_labels([], system) == ([], []) and resolve_labels(None, system) == (None, [])


def test_human_labels_come_before_captions():
    captions = [
        {"text": "a dog", "origin": "original", "tags": np.array([0, 3])},
        {"text": "an orange", "origin": "generated", "tags": [1]},
    ]
    assert true_tags(np.array([0]), captions) == {0} and true_tags([], captions) == set()
    assert true_tags(None, captions) == {0, 3}
    assert true_tags(None, []) is None and true_tags(None, None) is None


def test_a_stages_tags_against_the_truth():
    rows = [
        annotation("s/1", truth=[0, 3], unknown_labels=["ufo"], tags=[{"id": 0, "origin": "parsed", "score": 1.0}]),
        annotation("s/2", truth=[], tags=[{"id": 3, "origin": "tagger", "score": 0.9}]),
        annotation("s/3"),
        annotation("s/4", reason="truncated", tags=None, truth=[0]),
    ]
    table = to_table(rows, ANNOTATION)
    line = {"images": 3, "tags": 3, "labelled": 2, "tp": 1, "fp": 1, "fn": 1, "unknown": 1}
    assert tag_counts(table).to_pylist() == [line]


def test_counts_of_tags_add_up():
    counts = score_tags([[1, 2], [3]], [[2], [3, 4]])
    assert counts == Counts(tp=2, fp=1, fn=1)
    total = counts + score_tags([[]], [[7]])
    assert total == Counts(2, 1, 2) and total.precision == pytest.approx(2 / 3) and total.recall == 0.5
    with pytest.raises(ValueError):
        score_tags([[1]], [[1], [2]])
