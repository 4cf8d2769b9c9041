"""Contract: in every label that is large enough wrong tags are removed and right ones stay; never more than the
largest share, never protected tags, each with its reason, and the same whatever the order and chunks of the rows."""

import numpy as np
import pyarrow as pa
import pytest

from ram_ray.data_engine import clustering, measured_crops
from ram_ray.data_engine.clean import CLEANED_LABELS, REMOVALS, SAMPLE_ROWS, SAMPLES, apply_removals, decide_removals
from ram_ray.data_engine.co_occurrence import TagCounts
from ram_ray.data_engine.crops import REGIONS
from ram_ray.data_engine.regions_by_label import in_memory
from ram_ray.records import ANNOTATION, to_table
from ram_ray.settings.data_engine import CleanConfig
from tests.data_engine.test_crops import tag
from tests.data_engine.test_generate import annotation

DOG = 3
COUNTS = TagCounts(1_000, {1: 500, 2: 500, DOG: 200})


def make_regions(
    *,
    right: int = 180,
    outlier: int = 12,
    unseen: int = 8,
    negatives: int = 60,
    seed: int = 0,
    confirmed: bool = False,
    human: bool = False,
) -> tuple[pa.Table, dict[str, str]]:
    """REGIONS rows of a label with two prototypes, and the reason of each wrong key: "outlier" or "unseen".

    Outliers have random embeddings and medium probabilities; unseen tags have embeddings of the label.
    """
    rng = np.random.default_rng(seed)
    count = right + outlier + unseen + negatives
    embeddings = np.eye(24)[rng.integers(0, 2, count)] + 0.12 * rng.normal(size=(count, 24))
    logits = rng.normal(2.0, 0.7, count)
    wrong = np.arange(count) >= right
    unlike = (wrong & (np.arange(count) < right + outlier)) | (np.arange(count) >= count - negatives)
    embeddings[unlike] = rng.normal(size=24)
    embeddings[wrong] += 0.3 * rng.normal(size=(wrong.sum(), 24))
    logits[right : right + outlier] = rng.normal(0.8, 0.5, outlier)
    logits[right + outlier :] = rng.normal(-1.0, 0.7, unseen + negatives)
    embeddings[count - negatives :] = rng.normal(size=(negatives, 24))
    embeddings[right : right + outlier] = rng.normal(size=(outlier, 24))
    whole = 1 / (1 + np.exp(-(logits + 0.3 * rng.normal(size=count))))
    keys = [f"s{number % 4}/{number:04d}" for number in rng.permutation(count)]
    rows = [
        {
            "key": keys[row],
            "shard": keys[row][:2],
            "tag": DOG,
            "positive": row < count - negatives,
            "mentioned": row < count - negatives,
            "confirmed": confirmed,
            "human": human,
            "box": [0, 0, 0.5, 1],
            "detected": True,
            "detector_score": 0.5,
            "image_score": whole[row],
            "region_score": 1 / (1 + np.exp(-logits[row])),
            "predicted": logits[row] >= 0,
            "other_mentions": [1, 2] if row % 2 else [],
            "embedding": embeddings[row].astype("<f2").tobytes(),
        }
        for row in range(count)
    ]
    planted = {keys[row]: "outlier" if row < right + outlier else "unseen" for row in range(right, count - negatives)}
    return pa.Table.from_pylist(rows, schema=REGIONS), planted


def removed_of(table: pa.Table, **config) -> dict[str, str]:
    removals = decide_removals(table, tag=DOG, counts=COUNTS, config=CleanConfig(**config), seed=1).removals
    assert removals.schema.equals(REMOVALS)
    return {row["key"]: row["reason"] for row in removals.to_pylist()}


def test_planted_wrong_tags_are_removed_and_right_ones_stay():
    table, planted = make_regions()
    removed = removed_of(table)
    assert len(planted.keys() & removed) >= 0.9 * len(planted)
    assert len(removed.keys() - planted) <= 0.02 * 180
    outlier = [removed[key] for key, reason in planted.items() if reason == "outlier" and key in removed]
    unseen = [removed[key] for key, reason in planted.items() if reason == "unseen" and key in removed]
    assert outlier.count("outlier") > 0.7 * len(outlier) and unseen.count("disagreement") > 0.7 * len(unseen)


def test_the_score_is_the_probability_to_be_wrong():
    table, _ = make_regions()
    scores = (
        decide_removals(table, tag=DOG, counts=COUNTS, config=CleanConfig(min_wrong_probability=0.4), seed=1)
        .removals["score"]
        .to_numpy()
    )
    assert len(scores) and scores.min() >= 0.4 and scores.max() <= 1


@pytest.mark.parametrize("share", [0.0, 0.03, 0.1])
def test_no_more_than_the_share_is_removed_and_the_worst_first(share):
    table, _ = make_regions(outlier=30, unseen=30)
    removed = decide_removals(
        table, tag=DOG, counts=COUNTS, config=CleanConfig(max_removed_share=share, min_wrong_probability=0), seed=1
    ).removals
    assert len(removed) == int(share * 240)
    if share == 0.03:
        more = decide_removals(
            table, tag=DOG, counts=COUNTS, config=CleanConfig(max_removed_share=0.1, min_wrong_probability=0), seed=1
        ).removals
        assert set(removed["key"].to_pylist()) <= set(more["key"].to_pylist())


def test_the_order_of_the_rows_and_their_chunks_do_not_matter():
    table, _ = make_regions()
    shuffled = table.take(np.random.default_rng(3).permutation(table.num_rows))

    def chunks(columns):
        for start in range(0, len(shuffled), 37):
            yield shuffled.select(list(columns)).slice(start, 37)

    first, *others = (
        decide_removals(rows, tag=DOG, counts=COUNTS, config=CleanConfig(), seed=1)
        for rows in (table, shuffled, chunks)
    )
    for other in others:
        assert other.removals.equals(first.removals) and other.samples.equals(first.samples)
        assert other.label_row == first.label_row


def test_a_large_label_is_fitted_on_a_sample_and_decided_alike(monkeypatch):
    table, planted = make_regions(right=900, outlier=60, unseen=40, negatives=100)
    everything = removed_of(table, images_per_cluster=200)
    for module in (measured_crops, clustering):
        monkeypatch.setattr(module, "FIT_POINTS", 400)
    sampled = removed_of(table, images_per_cluster=200)
    assert len(planted.keys() & sampled) >= 0.7 * len(planted) and len(sampled.keys() - planted) <= 0.01 * 900
    assert len(sampled.keys() ^ everything) <= 0.01 * 1000
    assert removed_of(table.take(np.arange(len(table))[::-1].copy()), images_per_cluster=200) == sampled


def test_every_label_of_enough_images_is_decided_and_no_smaller_one():
    for crops, decided in ((49, False), (50, True), (51, True)):
        table, _ = make_regions(right=crops - 6, outlier=3, unseen=3)
        decision = decide_removals(table, tag=DOG, counts=COUNTS, config=CleanConfig(min_images=50))
        assert (decision.label_row["clusters"] > 0) == decided and decision.label_row["crops"] == crops
        assert (len(decision.removals) > 0) == decided and (len(decision.samples) > 0) == decided


@pytest.mark.parametrize("share", [0.0, 0.05, 0.1])
def test_the_papers_rule_removes_the_farthest_share_and_what_is_not_predicted(share):
    table, planted = make_regions(outlier=20)
    decision = decide_removals(
        table, tag=DOG, counts=COUNTS, config=CleanConfig(rule="paper", outlier_share=share), seed=1
    )
    assert decision.removals.schema.equals(REMOVALS)
    rows = {row["key"]: row for row in table.to_pylist() if row["positive"]}
    removed = {row["key"]: row for row in decision.removals.to_pylist()}
    outliers = {key for key, row in removed.items() if row["reason"] == "outlier"}
    assert len(outliers) == int(share * len(rows))
    others = {key for key, row in rows.items() if not row["predicted"] and key not in outliers}
    assert others == removed.keys() - outliers and 0 < len(others) < 20
    for key in others:
        assert removed[key]["score"] == pytest.approx(1 - rows[key]["region_score"], abs=1e-6)
    label_row = decision.label_row
    assert (label_row["outliers"], label_row["disagreements"]) == (len(outliers), len(others))
    assert label_row["clusters"] == 4 and "wrong_share" not in label_row
    if share == 0.1:  # 20 of 208: as many as random embeddings
        assert sum(planted.get(key) == "outlier" for key in outliers) >= 0.9 * 20
        assert len({removed[key]["score"] for key in outliers}) > 1 and all(
            removed[key]["score"] > 0 for key in outliers
        )


def test_the_papers_rule_measures_a_crop_to_its_own_cluster_and_spares_protected_tags():
    table, _ = make_regions()
    config = CleanConfig(rule="paper")
    first = decide_removals(table, tag=DOG, counts=COUNTS, config=config, seed=1)
    shuffled = table.take(np.random.default_rng(3).permutation(table.num_rows))
    again = decide_removals(shuffled, tag=DOG, counts=COUNTS, config=config, seed=1)
    assert again.removals.equals(first.removals) and again.samples.equals(first.samples)
    spared = decide_removals(table, tag=DOG, counts=COUNTS, config=config, seed=1, protected={DOG})
    assert len(spared.removals) == 0 and spared.label_row["protected"] == len(first.removals) > 20
    few = decide_removals(table, tag=DOG, counts=COUNTS, config=CleanConfig(rule="paper", min_images=500))
    assert len(few.removals) == 0 and few.label_row["clusters"] == 0


def test_protected_tags_stay_and_are_counted():
    table, _ = make_regions(confirmed=True)
    assert removed_of(table) == {} and len(removed_of(table, protect_labels=False)) > 10
    table, _ = make_regions(human=True)
    assert removed_of(table) == removed_of(table, protect_labels=False) == {}, "human labels that are trained on stay"
    table, _ = make_regions()
    decision = decide_removals(table, tag=DOG, counts=COUNTS, config=CleanConfig(), seed=1, protected={DOG})
    assert len(decision.removals) == 0 and decision.label_row["protected"] == len(removed_of(table))


def test_the_row_of_a_label_and_its_samples():
    table, _ = make_regions()
    decision = decide_removals(table, tag=DOG, counts=COUNTS, config=CleanConfig(), seed=1)
    counts = pa.Table.from_pylist([decision.label_row], schema=CLEANED_LABELS).to_pylist()[0]
    assert counts["crops"] == 200 and counts["negatives"] == 60 and counts["clusters"] >= 2
    assert counts["outliers"] + counts["disagreements"] == len(decision.removals) and 0.02 < counts["wrong_share"] < 0.2
    samples = decision.samples.to_pylist()
    assert decision.samples.schema.equals(SAMPLE_ROWS)
    assert [sum(row["removed"] == value for row in samples) for value in (False, True)] == [SAMPLES, SAMPLES]
    removed = removed_of(table)
    assert all(
        (row["key"] in removed) == row["removed"] and row["reason"] == removed.get(row["key"]) for row in samples
    )
    assert all(0 <= row["cluster"] < 4 and row["box"] == [0, 0, 0.5, 1] for row in samples)


def test_an_embedding_that_is_not_finite_is_an_error_and_not_a_removal():
    table, _ = make_regions()
    column = table["embedding"].to_pylist()
    column[5] = np.full(24, np.nan, "<f2").tobytes()
    table = table.set_column(table.schema.get_field_index("embedding"), "embedding", pa.array(column, pa.binary()))
    with pytest.raises(ValueError, match="1 of .* embeddings are not finite"):
        decide_removals(in_memory(table), tag=DOG, counts=COUNTS, config=CleanConfig())


def test_applied_removals_take_the_tag_and_record_the_reason():
    rows = [
        annotation("s/1", tags=[tag(0), tag(3, "tagger", 0.75)]),
        annotation("s/2", tags=[tag(3)], removed=[{"id": 1, "reason": "outlier", "score": 0.5, "round": 1}]),
        annotation("s/3", tags=[tag(3)]),
        annotation("s/4", tags=None, removed=None, captions=None, reason="truncated"),
    ]
    table = to_table(rows, ANNOTATION)
    removals = pa.Table.from_pylist(
        [
            {"key": "s/1", "shard": "s", "tag": 3, "reason": "outlier", "score": 0.5},
            {"key": "s/2", "shard": "s", "tag": 3, "reason": "disagreement", "score": 0.25},
            {"key": "s/2", "shard": "s", "tag": 5, "reason": "outlier", "score": 0.25},
        ],
        schema=REMOVALS,
    )
    cleaned = apply_removals(table, removals, round=2)
    first, second, *others = cleaned.to_pylist()
    assert first["tags"] == [tag(0)]
    assert first["removed"] == [{"id": 3, "reason": "outlier", "score": 0.5, "round": 2}]
    assert second["tags"] == []
    assert [(removal["id"], removal["round"]) for removal in second["removed"]] == [(1, 1), (3, 2)]
    assert first["captions"] == rows[0]["captions"]
    assert others == rows[2:]
    assert apply_removals(cleaned, removals, round=2).equals(cleaned)
