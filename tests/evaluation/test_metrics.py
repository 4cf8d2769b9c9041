"""Contract: AP, precision and recall equal the reference's where scores are distinct. Where scores are equal, they do
not depend on the order of rows. They are the same for one matrix and for blocks."""

import numpy as np
import pyarrow as pa
import pytest

from ram_ray.evaluation.metrics import (
    average_precision,
    block_arrays,
    per_tag,
    reference_average_precision,
    summarise,
    to_tag_blocks,
)


@pytest.fixture(scope="module")
def reference(shared) -> dict[str, np.ndarray]:
    path = shared / "fixtures/metrics/subset.npz"
    if not path.is_file():
        pytest.skip("the reference's metrics are not in ../shared")
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    arrays["scores"] = (arrays["scores_u16"] / 65535).astype(np.float32)
    arrays["targets"] = np.unpackbits(arrays["targets"], axis=1)[:, :214].astype(bool)
    return arrays


def test_the_references_figures_on_its_own_annotations(reference):
    rows = per_tag(reference["scores"], reference["targets"], thresholds=reference["thresholds"])
    seen = np.array([row["num_positives"] > 0 for row in rows])
    ap = np.array([row["ap"] for row in rows])
    distinct = np.array([len(np.unique(scores)) for scores in reference["scores"].T])
    assert np.abs(ap - reference["APs"])[seen].max() < 5e-5  # 7153 scores of 16 bits: every column has a few ties
    assert distinct.min() < 7153
    report = summarise(rows, names=[""] * 214, kinds=[""] * 214)
    # the reference counts tags without positives as 0, `summarise` leaves them out
    assert report["num_tags"] == seen.sum() == 212
    assert report["mAP"] * 212 / 214 == pytest.approx(float(reference["mAP"]), abs=1e-6)
    assert report["precision"] * 212 / 214 == pytest.approx(float(reference["CP"]), abs=1e-6)
    assert report["recall"] * 212 / 214 == pytest.approx(float(reference["CR"]), abs=1e-6)
    assert np.allclose([line["precision"] for line in report["per_tag"]], reference["Ps"], atol=1e-6)
    assert np.allclose([line["recall"] for line in report["per_tag"]], reference["Rs"], atol=1e-6)


def test_the_references_ap_with_many_ties_is_that_of_one_of_their_orders(reference):
    """The order of ties in numpy's unstable sort depends on the processor's vector width, so figures differ by machine.
    The reference's and ours lie between the AP with positives last and the AP with positives first."""
    tied = np.round(reference["scores"], 1).astype(np.float32)
    columns = list(zip(tied.T, reference["targets"].T, strict=True))
    ours = np.array([reference_average_precision(scores, targets) for scores, targets in columns])
    lowest, highest = (
        np.array([_with_ties(scores, targets, positives_first=first) for scores, targets in columns])
        for first in (False, True)
    )
    assert (highest - lowest).max() > 0.05, "the ties change the AP"
    for ap in (ours, reference["tied_APs"]):
        assert (lowest - 1e-9 <= ap).all() and (ap <= highest + 1e-9).all()


def _with_ties(scores, targets, *, positives_first):
    """Mean precision at the positives, ties in the order that is best or worst for it."""
    hits = targets[np.lexsort((targets != positives_first, -scores))]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return precision[hits].sum() / max(1, hits.sum())


def test_the_references_figures_on_the_whole_benchmark(reference, shared):
    lists = shared / "data" / "labels"
    tags = {tag: i for i, tag in enumerate((lists / "openimages_common_214_ram_taglist.txt").read_text().splitlines())}
    lines = (lists / "openimages_common_214_ram_annots.txt").read_text().splitlines()
    truth = np.zeros((len(lines), 214), dtype=np.float32)
    for row, line in enumerate(lines):
        truth[row, [tags[tag] for tag in line.split(",")[1:]]] = 1
    scores = np.random.default_rng(1).random(truth.shape).astype(np.float32) * 0.8 + 0.15 * truth
    scores = (np.round(scores * 65535).astype(np.uint16) / 65535).astype(np.float32)
    rows = per_tag(scores, truth.astype(bool), thresholds=reference["thresholds"])
    ap = [reference_average_precision(column, hits) for column, hits in zip(scores.T, truth.T, strict=True)]
    # 57,224 scores of 16 bits: every column has ties, in an unknown order; each counts much in the AP of a rare tag
    for values in (ap, [row["ap"] for row in rows]):
        assert np.abs(values - reference["full_APs"]).mean() < 1e-4
        assert np.mean(values) == pytest.approx(float(reference["full_mAP"]), abs=1e-4)
    precision = [row["tp"] / (row["tp"] + row["fp"] + 1e-9) for row in rows]
    recall = [row["tp"] / (row["tp"] + row["fn"] + 1e-9) for row in rows]
    np.testing.assert_allclose(precision, reference["full_Ps"], atol=1e-6)
    np.testing.assert_allclose(recall, reference["full_Rs"], atol=1e-6)
    assert np.mean(precision) == pytest.approx(float(reference["full_CP"]), abs=1e-7)
    assert np.mean(recall) == pytest.approx(float(reference["full_CR"]), abs=1e-7)


def test_ap_by_hand():
    scores, targets = np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 0, 1, 0], bool)
    assert average_precision(scores, targets) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(np.array([0.1, 0.9]), np.array([0, 1], bool)) == 1
    assert np.isnan(average_precision(np.array([0.1, 0.9]), np.zeros(2, bool)))


def test_equal_scores_share_the_precision_at_the_end_of_their_step():
    assert average_precision(np.full(10, 0.5), np.arange(10) < 3) == pytest.approx(0.3)
    assert average_precision(np.array([0.9, 0.5, 0.5]), np.array([1, 1, 0], bool)) == pytest.approx((1 + 2 / 3) / 2)


def test_ties_do_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(0)
    scores, targets = rng.random(500).round(1), rng.random(500) < 0.2
    order = rng.permutation(500)
    mixed = average_precision(scores[order], targets[order])
    assert average_precision(scores, targets) == pytest.approx(mixed, abs=1e-15)


def test_invalid_scores_are_refused():
    with pytest.raises(ValueError, match="1 of 3 scores are NaN"):
        average_precision(np.array([0.1, np.nan, 0.2]), np.ones(3, bool))
    with pytest.raises(ValueError, match="must both be"):
        average_precision(np.ones(3), np.ones(2, bool))


def test_blocks_in_any_order_equal_one_matrix():
    rng = np.random.default_rng(1)
    scores = rng.random((90, 23)).astype(np.float32)
    targets, thresholds = rng.random((90, 23)) < 0.3, rng.random(23)
    parts = [to_tag_blocks(scores[i : i + 40], targets[i : i + 40], tags_per_block=8) for i in (40, 0, 80)]
    table = pa.concat_tables(parts)
    rows = []
    for block in range(3):
        group = table.filter(pa.compute.equal(table["block"], block))
        of_block, of_targets, first = block_arrays(group, num_tags=23, tags_per_block=8)
        rows += per_tag(of_block, of_targets, thresholds=thresholds, first=first)
    assert [row["tag"] for row in rows] == list(range(23))
    for row, whole in zip(rows, per_tag(scores, targets, thresholds=thresholds), strict=True):
        assert row == pytest.approx(whole)


def test_an_empty_batch_and_a_set_with_nothing():
    empty = to_tag_blocks(np.zeros((0, 5)), np.zeros((0, 5)), tags_per_block=8)
    scores, targets, _ = block_arrays(empty, num_tags=5, tags_per_block=8)
    rows = per_tag(scores, targets, thresholds=np.full(5, 0.5))
    report = summarise(rows, names=list("abcde"), kinds=["object"] * 5)
    assert report["mAP"] is None and report["num_tags"] == 0 and len(report["per_tag"]) == 5


def test_random_scores_have_the_mean_prevalence_as_their_map():
    rng = np.random.default_rng(2)
    targets = rng.random((4000, 10)) < np.linspace(0.05, 0.5, 10)
    rows = per_tag(rng.random((4000, 10)), targets, thresholds=np.full(10, 0.5))
    report = summarise(rows, names=[str(i) for i in range(10)], kinds=["object"] * 10)
    assert report["mAP"] == pytest.approx(report["mean_prevalence"], abs=0.02)


def test_rare_tags_have_a_line_but_are_not_averaged():
    scores = np.array([[0.9, 0.1], [0.8, 0.9], [0.1, 0.8]])
    targets = np.array([[1, 1], [1, 0], [0, 0]], bool)
    rows = per_tag(scores, targets, thresholds=np.array([0.5, 0.5]))
    report = summarise(rows, names=["a", "b"], kinds=["object", "action"], min_positives=2)
    assert report["mAP"] == 1 and report["num_tags"] == 1 and report["precision"] == 1
    assert [line["counted"] for line in report["per_tag"]] == [True, False]
    assert report["per_tag"][1]["ap"] == pytest.approx(1 / 3)
