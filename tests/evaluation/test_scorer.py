"""Contract: a scorer returns a model's own scores with the truth, and leaves out images without truth."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np

from ram_ray.evaluation.metrics import block_arrays, per_tag
from ram_ray.evaluation.scorer import KeyedScorer, Scorer, targets_matrix
from ram_ray.inference.predictor import Predictor
from ram_ray.label_system import LabelSystem
from ram_ray.models.bundle_config import read_config
from tests.data_engine.test_generate import annotation, numpy_batch


def test_targets():
    assert targets_matrix([{0, 2}, set()], 3).tolist() == [[True, False, True], [False] * 3]


def test_a_models_scores_are_joined_with_the_truth(tiny_bundle):
    scorer = Scorer(tiny_bundle, device="cpu", tags_per_block=4)
    rows = [
        annotation("s/1", truth=[0, 4]),
        annotation("s/2", truth=[0], reason="truncated"),
        annotation("s/3", truth=[5]),
        annotation("s/4", captions=[]),
    ]
    batch = numpy_batch(rows)
    table = scorer(batch)
    assert table["rows"].to_pylist() == [2, 2]
    scores = scorer.predictor.probabilities(batch["pixels"][[0, 2]])
    assert np.allclose(table["scores"][1].as_py(), scores[:, 4:].ravel(), atol=1e-5)
    assert table["targets"][1].as_py() == [True, False, False, True]
    assert table["targets"][0].as_py() == [True, *[False] * 7]
    keyed = KeyedScorer("", predictor=scorer.predictor)(batch)
    assert keyed["keys"].to_pylist() == [["s/1", "s/3"]]
    assert np.allclose(keyed["scores"][0].as_py(), scores.ravel(), atol=1e-5)
    assert keyed["targets"][0].as_py() == [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1]


def test_a_batch_without_truth(tiny_bundle):
    table = Scorer(tiny_bundle, device="cpu")(numpy_batch([annotation(captions=[])]))
    assert table["rows"].to_pylist() == [0]
    assert len(KeyedScorer(tiny_bundle, device="cpu")(numpy_batch([annotation(captions=[])]))) == 0


def test_predicted_tags_are_those_that_the_served_model_returns(tiny_bundle, tmp_path):
    """Tags without a threshold, with a threshold of 0, of exactly a score and of 1, and a muted tag."""
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    batch = numpy_batch([annotation(f"s/{number}", truth=[0, 2]) for number in range(8)])
    scores = Predictor.from_pretrained(tiny_bundle, device="cpu").probabilities(batch["pixels"])
    own = [None, 0.0, float(np.sort(scores[:, 2])[5]), 1.0, 0.0, None]
    labels = LabelSystem.load(str(bundle / "label_system.json")).labels
    changed = LabelSystem(replace(label, threshold=own[label.id]) for label in labels)
    changed.save(str(bundle / "label_system.json"))
    tree = json.loads((bundle / "config.json").read_text())
    default = float(np.median(scores[:, 0]))
    (bundle / "config.json").write_text(json.dumps({**tree, "threshold": default, "muted": [4]}))

    served = read_config(str(bundle))  # as the stage `evaluate` does
    thresholds = changed.thresholds(served.threshold)
    assert thresholds.tolist() == np.float32([default, 0, own[2], 1, 0, default]).tolist()
    predictor = Predictor.from_pretrained(str(bundle), device="cpu")
    np.testing.assert_array_equal(predictor.thresholds, thresholds)
    table = Scorer("", predictor=predictor)(batch)
    scored, targets, _ = block_arrays(table, num_tags=6)
    rows = per_tag(scored, targets, thresholds=thresholds, muted=served.muted)
    predicted = Counter(tag.id for tags in predictor.tag(batch["pixels"]) for tag in tags)
    assert [row["tp"] + row["fp"] for row in rows] == [predicted[id] for id in range(6)]
    assert predicted[1] == 8 and predicted[2] == 3 and predicted[3] == predicted[4] == 0 and 0 < predicted[0] < 8
    assert [row["num_positives"] for row in rows] == [8, 0, 8, 0, 0, 0]
