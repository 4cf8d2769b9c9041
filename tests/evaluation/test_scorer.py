"""Contract: a scorer gives a model's own scores beside the truth, and leaves out what nothing is known of."""

import numpy as np
import pyarrow as pa

from ram_ray.evaluation.metrics import reduce_tag_block
from ram_ray.evaluation.scorer import Scorer, targets_matrix
from tests.data_engine.test_generate import annotation, numpy_batch


def test_targets():
    assert targets_matrix([{0, 2}, set()], 3).tolist() == [[True, False, True], [False] * 3]


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
