"""Contract: a tag goes because its crop is far from its category or the tagger does not see it there; the rest stays,
and every removal says why."""

import numpy as np
import pyarrow as pa
import pytest

from ram_ray.config import CleanConfig
from ram_ray.engine.clean import (
    IMAGE_REGIONS,
    REGIONS,
    REMOVALS,
    RegionEmbedder,
    apply_removals,
    crop,
    decide,
    embeddings_of,
    explode_regions,
    to_pixels,
)
from ram_ray.records import ANNOTATION, to_table
from tests.engine.test_generate import annotation, numpy_batch


def tag(id: int, origin: str = "parsed", score: float = 1.0) -> dict:
    return {"id": id, "origin": origin, "score": score}


def category(embeddings: np.ndarray, agreement: np.ndarray, *, id: int = 3) -> pa.Table:
    rows = [
        {
            "key": f"s{place % 4}/{place:04d}",
            "shard": f"s{place % 4}",
            "tag": id,
            "box": [0, 0, 1, 1],
            "score": 0.5,
            "agreement": float(agreement[place]),
            "embedding": embeddings[place].astype("<f2").tobytes(),
        }
        for place in range(len(embeddings))
    ]
    return pa.Table.from_pylist(rows, schema=REGIONS)


@pytest.fixture
def dogs() -> tuple[pa.Table, set[str], set[str]]:
    """100 crops: 6 look like something else, and of 3 more the tagger says that there is no dog."""
    rng = np.random.default_rng(0)
    points = np.array([1.0] + [0.0] * 15) + 0.05 * rng.normal(size=(100, 16))
    strange = rng.choice(100, 6, replace=False)
    points[strange] = rng.normal(size=(6, 16))
    agreement = np.full(100, 0.8)
    unseen = rng.choice(np.setdiff1d(np.arange(100), strange), 3, replace=False)
    agreement[unseen] = 0.02
    table = category(points, agreement)
    keys = np.array(table["key"].to_pylist())
    return table, set(keys[strange]), set(keys[unseen])


def test_strangers_and_what_the_tagger_does_not_see_go(dogs):
    table, strange, unseen = dogs
    removed = decide(table, config=CleanConfig(min_images=50, outliers=0.06), seed=1)
    assert removed.schema.equals(REMOVALS)
    reasons = {row["key"]: row["reason"] for row in removed.to_pylist()}
    assert {key for key, reason in reasons.items() if reason == "outlier"} == strange
    assert {key for key, reason in reasons.items() if reason == "disagreement"} == unseen
    scores = {row["key"]: row["score"] for row in removed.to_pylist()}
    assert all(scores[key] == pytest.approx(0.02) for key in unseen)
    assert all(scores[key] > 0.3 for key in strange)
    assert set(removed["shard"].to_pylist()) <= {"s0", "s1", "s2", "s3"}


def test_the_order_of_the_rows_does_not_matter(dogs):
    table, _, _ = dogs
    shuffled = table.take(np.random.default_rng(3).permutation(table.num_rows))
    one, two = (decide(rows, config=CleanConfig(), seed=1) for rows in (table, shuffled))
    assert one.equals(two)


def test_both_reasons_count_once_as_outlier():
    points = np.eye(2)[[0] * 59 + [1]] + 0.0
    agreement = np.full(60, 0.9)
    agreement[59] = 0.0
    removed = decide(category(points, agreement), config=CleanConfig(outliers=0.02, images_per_cluster=60))
    assert [(row["key"], row["reason"]) for row in removed.to_pylist()] == [("s3/0059", "outlier")]


def test_small_categories_are_left_alone():
    points, agreement = np.random.default_rng(0).normal(size=(49, 8)), np.zeros(49)
    assert decide(category(points, agreement), config=CleanConfig(min_images=50)).num_rows == 0
    assert decide(category(points, agreement), config=CleanConfig(min_images=49)).num_rows == 49


def test_a_broken_embedding_is_an_error_and_not_a_removal():
    points = np.ones((60, 8))
    points[5, 0] = np.nan
    with pytest.raises(ValueError, match="1 of 60 embeddings"):
        decide(category(points, np.ones(60)), config=CleanConfig())


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


def test_a_box_becomes_pixels_and_a_crop_fills_the_picture():
    assert to_pixels((0.25, 0, 0.5, 1), (32, 32)) == (8, 0, 16, 32)
    assert to_pixels((0.999, 0.999, 1, 1), (32, 32)) == (31, 31, 32, 32)
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[8:16, 16:24] = 200
    assert (crop(picture, (16, 8, 24, 16)) == 200).all()
    assert crop(picture, (0, 0, 32, 32)) is picture


@pytest.fixture(scope="module")
def embedder(tiny_bundle) -> RegionEmbedder:
    return RegionEmbedder(tiny_bundle, f"{tiny_bundle}/../teacher", CleanConfig(batch_size=4), device="cpu")


def test_every_tag_of_every_image_is_embedded_and_judged_on_its_own_crop(embedder):
    rows = [
        annotation("s/1", tags=[tag(0), tag(4), tag(2)]),
        annotation("s/2", tags=[]),
        annotation("s/3", tags=[tag(1)], reason="undecodable"),
        annotation("s/4", tags=[tag(5)]),
    ]
    batch = numpy_batch(rows)
    images = embedder(batch)
    assert images.schema.equals(IMAGE_REGIONS) and images["key"].to_pylist() == ["s/1", "s/2", "s/3", "s/4"]
    regions = explode_regions(images)
    assert regions.schema.equals(REGIONS)
    assert list(zip(regions["key"].to_pylist(), regions["tag"].to_pylist(), strict=True)) == [
        ("s/1", 0),
        ("s/1", 4),
        ("s/1", 2),
        ("s/4", 5),
    ]
    embeddings = embeddings_of(regions)
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=2e-3)
    for place, row in enumerate(regions.to_pylist()):
        picture = batch["pixels"][0 if row["key"] == "s/1" else 3]
        alone = crop(picture, to_pixels(row["box"], (32, 32)))[None]
        assert row["agreement"] == pytest.approx(embedder.predictor.probabilities(alone)[0, row["tag"]], abs=1e-5)
        assert np.allclose(embeddings[place], embedder.teacher.encode_images(alone)[0], atol=2e-3)


def test_a_tag_that_the_detector_did_not_find_is_judged_on_the_whole_picture(embedder, monkeypatch):
    monkeypatch.setattr(embedder.detector, "detect", lambda images, *, tags, tag_ids: [[] for _ in tag_ids])
    row = explode_regions(embedder(numpy_batch([annotation(tags=[tag(0), tag(1)])]))).to_pylist()[0]
    assert row["box"] == [0, 0, 1, 1] and row["score"] == 0


def test_a_batch_in_which_no_image_has_tags(embedder):
    images = embedder(numpy_batch([annotation(tags=[])]))
    assert explode_regions(images).num_rows == 0
