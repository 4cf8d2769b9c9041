"""Contract: truth comes from human labels, or from original captions where there are none, and what the label system
does not know is counted."""

import numpy as np
import pyarrow as pa
import pytest

from ram_ray.evaluation.metrics import reduce_tag_block
from ram_ray.evaluation.scorer import Scorer, label_id, tag_counts, targets_matrix, truth_ids
from ram_ray.label_system import Label, LabelSystem
from ram_ray.records import ANNOTATION, to_table
from tests.data_engine.test_generate import annotation, numpy_batch


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
    assert [label_id(one, system) for one in ("Dog ", "puppy", "run", "cat")] == [0, 0, 3, None]
    assert label_id("orange", system) == 2  # captions use the colour more
    assert label_id("object:orange", system) == 1 and label_id("action:orange", system) is None


def test_labels_are_believed_before_captions_and_an_empty_list_means_nothing(system):
    captions = [
        {"text": "a dog", "origin": "original", "tags": np.array([0, 3])},
        {"text": "an orange", "origin": "generated", "tags": [1]},
    ]
    assert truth_ids(["dog", "ufo", "ufo"], captions, system) == ({0}, {"ufo": 2})
    assert truth_ids([], captions, system)[0] == set()
    assert truth_ids(None, captions, system)[0] == {0, 3}
    assert truth_ids(None, [], system)[0] is None


def test_targets():
    assert targets_matrix([{0, 2}, set()], 3).tolist() == [[True, False, True], [False] * 3]


def test_a_stages_tags_against_the_truth(system):
    rows = [
        annotation("s/1", labels=["dog", "run", "ufo"], tags=[{"id": 0, "origin": "parsed", "score": 1.0}]),
        annotation("s/2", labels=[], tags=[{"id": 3, "origin": "tagger", "score": 0.9}]),
        annotation("s/3"),
        annotation("s/4", reason="truncated", tags=None, labels=["dog"]),
    ]
    table = to_table(rows, ANNOTATION)
    line = {"images": 3, "tags": 3, "labelled": 2, "tp": 1, "fp": 1, "fn": 1, "unknown": 1}
    assert tag_counts(table, system=system).to_pylist() == [line]
    assert tag_counts(table, system=system, labels_only=False)["labelled"].to_pylist() == [3]


def test_a_real_models_scores_meet_their_truth(tiny_bundle):
    scorer = Scorer(tiny_bundle, device="cpu", tags_per_block=4)
    rows = [
        annotation("s/1", labels=["dog", "traffic light"]),
        annotation("s/2", labels=["dog"], reason="truncated"),
        annotation("s/3", labels=["person"]),
        annotation("s/4", captions=[]),
    ]
    batch = numpy_batch(rows)
    table = scorer(batch)
    assert table["rows"].to_pylist() == [2, 2]
    scores = scorer.predictor.probabilities(batch["pixels"][[0, 2]])
    assert np.allclose(table["scores"][1].as_py(), scores[:, 4:].ravel(), atol=1e-5)
    assert table["targets"][1].as_py() == [True, False, False, True]
    reduced = reduce_tag_block(
        table.filter(pa.compute.equal(table["block"], 0)), thresholds=scorer.predictor.thresholds, tags_per_block=4
    )
    assert [row["num_positives"] for row in reduced.to_pylist()] == [1, 0, 0, 0]


def test_a_batch_of_which_nothing_is_known(tiny_bundle):
    table = Scorer(tiny_bundle, device="cpu")(numpy_batch([annotation(captions=[])]))
    assert table["rows"].to_pylist() == [0]
