"""Contract: wrong tags go and right ones stay, in every category that is large enough; never more than may, never what
is protected, each with its reason, and the same ones whatever order and chunks the rows come in."""

import numpy as np
import pyarrow as pa
import pytest

from ram_ray.data_engine import clean, clustering
from ram_ray.data_engine.categories import in_memory
from ram_ray.data_engine.clean import CATEGORIES, REMOVALS, SAMPLE_ROWS, SAMPLES, apply_removals, decide
from ram_ray.data_engine.company import TagCounts
from ram_ray.data_engine.crops import REGIONS
from ram_ray.records import ANNOTATION, to_table
from ram_ray.settings.data_engine import CleanConfig
from tests.data_engine.test_crops import tag
from tests.data_engine.test_generate import annotation

DOG = 3
COUNTS = TagCounts(1_000, {1: 500, 2: 500, DOG: 200})


def category(
    *, right: int = 180, strange: int = 12, unseen: int = 8, absent: int = 60, seed: int = 0, labelled: bool = False
) -> tuple[pa.Table, dict[str, str]]:
    """REGIONS rows of a category of two looks, and what is wrong with the keys that are: strange to see, or unseen.

    Strange crops point anywhere and get the tagger's word all the same, in part; unseen ones look right to the teacher.
    """
    rng = np.random.default_rng(seed)
    count = right + strange + unseen + absent
    look = np.eye(24)[rng.integers(0, 2, count)] + 0.12 * rng.normal(size=(count, 24))
    seen = rng.normal(2.0, 0.7, count)
    odd = np.arange(count) >= right
    look[(odd & (np.arange(count) < right + strange)) | (np.arange(count) >= count - absent)] = rng.normal(size=24)
    look[odd] += 0.3 * rng.normal(size=(odd.sum(), 24))
    seen[right : right + strange] = rng.normal(0.8, 0.5, strange)
    seen[right + strange :] = rng.normal(-1.0, 0.7, unseen + absent)
    look[count - absent :] = rng.normal(size=(absent, 24))
    look[right : right + strange] = rng.normal(size=(strange, 24))
    whole = 1 / (1 + np.exp(-(seen + 0.3 * rng.normal(size=count))))
    keys = [f"s{place % 4}/{place:04d}" for place in rng.permutation(count)]
    rows = [
        {
            "key": keys[place],
            "shard": keys[place][:2],
            "tag": DOG,
            "carried": place < count - absent,
            "said": place < count - absent,
            "labelled": labelled,
            "box": [0, 0, 0.5, 1],
            "score": 0.5,
            "whole": whole[place],
            "agreement": 1 / (1 + np.exp(-seen[place])),
            "others": [1, 2] if place % 2 else [],
            "embedding": look[place].astype("<f2").tobytes(),
        }
        for place in range(count)
    ]
    planted = {
        keys[place]: "strange" if place < right + strange else "unseen" for place in range(right, count - absent)
    }
    return pa.Table.from_pylist(rows, schema=REGIONS), planted


def removed_of(table: pa.Table, **config) -> dict[str, str]:
    found = decide(table, tag=DOG, counts=COUNTS, config=CleanConfig(**config), seed=1)
    assert found.removals.schema.equals(REMOVALS)
    return {row["key"]: row["reason"] for row in found.removals.to_pylist()}


def test_planted_wrong_tags_go_and_right_ones_stay():
    table, planted = category()
    removed = removed_of(table)
    assert len(planted.keys() & removed) >= 0.9 * len(planted)
    assert len(removed.keys() - planted) <= 0.02 * 180
    strange = [removed[key] for key, why in planted.items() if why == "strange" and key in removed]
    unseen = [removed[key] for key, why in planted.items() if why == "unseen" and key in removed]
    assert strange.count("outlier") > 0.7 * len(strange) and unseen.count("disagreement") > 0.7 * len(unseen)


def test_the_score_is_the_probability_to_be_wrong():
    table, _ = category()
    scores = decide(table, tag=DOG, counts=COUNTS, config=CleanConfig(wrong=0.4), seed=1).removals["score"].to_numpy()
    assert len(scores) and scores.min() >= 0.4 and scores.max() <= 1


@pytest.mark.parametrize("share", [0.0, 0.03, 0.1])
def test_no_more_than_the_share_goes_and_the_worst_first(share):
    table, _ = category(strange=30, unseen=30)
    removed = decide(table, tag=DOG, counts=COUNTS, config=CleanConfig(most=share, wrong=0), seed=1).removals
    assert len(removed) == int(share * 240)
    if share == 0.03:
        more = decide(table, tag=DOG, counts=COUNTS, config=CleanConfig(most=0.1, wrong=0), seed=1).removals
        assert set(removed["key"].to_pylist()) <= set(more["key"].to_pylist())


def test_the_order_of_the_rows_and_their_chunks_do_not_matter():
    table, _ = category()
    shuffled = table.take(np.random.default_rng(3).permutation(table.num_rows))

    def chunks(columns):
        for start in range(0, len(shuffled), 37):
            yield shuffled.select(list(columns)).slice(start, 37)

    one, two, three = (
        decide(rows, tag=DOG, counts=COUNTS, config=CleanConfig(), seed=1) for rows in (table, shuffled, chunks)
    )
    assert one.removals.equals(two.removals) and one.removals.equals(three.removals)
    assert one.samples.equals(two.samples) and one.samples.equals(three.samples)
    assert one.category == two.category == three.category


def test_a_large_category_is_fitted_on_a_sample_and_decided_alike(monkeypatch):
    table, planted = category(right=900, strange=60, unseen=40, absent=100)
    everything = removed_of(table, images_per_cluster=200)
    for module in (clean, clustering):
        monkeypatch.setattr(module, "FIT_POINTS", 400)
    sampled = removed_of(table, images_per_cluster=200)
    assert len(planted.keys() & sampled) >= 0.7 * len(planted) and len(sampled.keys() - planted) <= 0.01 * 900
    assert len(sampled.keys() ^ everything) <= 0.01 * 1000
    assert removed_of(table.take(np.arange(len(table))[::-1].copy()), images_per_cluster=200) == sampled


def test_every_category_of_enough_images_is_judged_and_no_smaller_one():
    for crops, judged in ((49, False), (50, True), (51, True)):
        table, _ = category(right=crops - 6, strange=3, unseen=3)
        found = decide(table, tag=DOG, counts=COUNTS, config=CleanConfig(min_images=50))
        assert (found.category["clusters"] > 0) == judged and found.category["crops"] == crops
        assert (len(found.removals) > 0) == judged and (len(found.samples) > 0) == judged


def test_what_is_protected_stays_and_is_counted():
    table, _ = category(labelled=True)
    assert removed_of(table) == {} and len(removed_of(table, protect_labels=False)) > 10
    table, _ = category()
    found = decide(table, tag=DOG, counts=COUNTS, config=CleanConfig(), seed=1, protected={DOG})
    assert len(found.removals) == 0 and found.category["protected"] == len(removed_of(table))


def test_a_line_a_category_and_samples_to_look_at():
    table, _ = category()
    found = decide(table, tag=DOG, counts=COUNTS, config=CleanConfig(), seed=1)
    line = pa.Table.from_pylist([found.category], schema=CATEGORIES).to_pylist()[0]
    assert line["crops"] == 200 and line["absent"] == 60 and line["clusters"] >= 2
    assert line["outliers"] + line["disagreements"] == len(found.removals) and 0.02 < line["wrong"] < 0.2
    samples = found.samples.to_pylist()
    assert found.samples.schema.equals(SAMPLE_ROWS)
    assert [sum(row["removed"] == which for row in samples) for which in (False, True)] == [SAMPLES, SAMPLES]
    removed = removed_of(table)
    assert all(
        (row["key"] in removed) == row["removed"] and row["reason"] == removed.get(row["key"]) for row in samples
    )
    assert all(0 <= row["cluster"] < 4 and row["box"] == [0, 0, 0.5, 1] for row in samples)


def test_a_broken_embedding_is_an_error_and_not_a_removal():
    table, _ = category()
    column = table["embedding"].to_pylist()
    column[5] = np.full(24, np.nan, "<f2").tobytes()
    table = table.set_column(table.schema.get_field_index("embedding"), "embedding", pa.array(column, pa.binary()))
    with pytest.raises(ValueError, match="1 of .* embeddings are not finite"):
        decide(in_memory(table), tag=DOG, counts=COUNTS, config=CleanConfig())


def test_removals_take_the_tag_and_keep_the_reason():
    before = [
        annotation("s/1", tags=[tag(0), tag(3, "tagger", 0.75)]),
        annotation("s/2", tags=[tag(3)], removed=[{"id": 1, "reason": "outlier", "score": 0.5, "round": 1}]),
        annotation("s/3", tags=[tag(3)]),
        annotation("s/4", tags=None, removed=None, captions=None, reason="truncated"),
    ]
    table = to_table(before, ANNOTATION)
    removals = pa.Table.from_pylist(
        [
            {"key": "s/1", "shard": "s", "tag": 3, "reason": "outlier", "score": 0.5},
            {"key": "s/2", "shard": "s", "tag": 3, "reason": "disagreement", "score": 0.25},
            {"key": "s/2", "shard": "s", "tag": 5, "reason": "outlier", "score": 0.25},
        ],
        schema=REMOVALS,
    )
    after = apply_removals(table, removals, round=2)
    one, two, three, four = after.to_pylist()
    assert one["tags"] == [tag(0)]
    assert one["removed"] == [{"id": 3, "reason": "outlier", "score": 0.5, "round": 2}]
    assert two["tags"] == [] and [(r["id"], r["round"]) for r in two["removed"]] == [(1, 1), (3, 2)]
    assert one["captions"] == before[0]["captions"]
    assert [three, four] == before[2:]
    assert apply_removals(after, removals, round=2).equals(after)
