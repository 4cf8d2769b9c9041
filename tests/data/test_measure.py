"""Contract: which captions are hidden follows from key and seed alone; planted tags are as many as were asked for,
false, drawn by how often captions name them, and look like the others."""

from __future__ import annotations

from collections import Counter

import pytest

from ram_ray.config import load
from ram_ray.data.measure import Planter, hide_captions, truth_names
from ram_ray.evaluation.evaluate import truth_ids
from ram_ray.label_system import Label, LabelSystem

FIVE = [f"caption {place}" for place in range(5)]
SYSTEM = LabelSystem(
    [Label(0, "train", "object", 60), Label(1, "train", "action", 30), Label(2, "dog", "object", 10)]
    + [Label(id, f"rare {id}", "object", 0) for id in range(3, 6)]
)


def test_one_caption_is_kept_and_nothing_is_lost() -> None:
    rows = [hide_captions({"key": f"s/{place}", "captions": FIVE}, keep=1, seed=3) for place in range(500)]
    assert all(len(row["captions"]) == 1 and sorted(row["captions"] + row["unseen"]) == FIVE for row in rows)
    kept = Counter(row["captions"][0] for row in rows)
    assert len(kept) == 5 and min(kept.values()) > 70, "each of five captions about a fifth of the time"
    assert rows[7] == hide_captions({"key": "s/7", "captions": FIVE}, keep=1, seed=3)
    other = [hide_captions({"key": f"s/{place}", "captions": FIVE}, keep=1, seed=4) for place in range(500)]
    assert 300 < sum(a["captions"] != b["captions"] for a, b in zip(rows, other, strict=True)) < 480


def test_several_captions_keep_their_order_and_few_are_all_kept() -> None:
    row = hide_captions({"key": "s/1", "captions": FIVE}, keep=3, seed=0)
    assert row["captions"] == sorted(row["captions"]) and len(row["captions"]) == 3 and len(row["unseen"]) == 2
    assert hide_captions({"key": "s/1", "captions": FIVE[:2]}, keep=3, seed=0)["unseen"] == []
    assert hide_captions({"key": "s/1", "captions": []}, keep=1, seed=0)["captions"] == []


def test_planted_tags_are_the_share_that_was_asked_for() -> None:
    planter = Planter(SYSTEM, share=0.5, seed=0)
    assert all(len(planter.draw(f"s/{place}", num_tags=4, true={2})) == 2 for place in range(50))
    drawn = [planter.draw(f"s/{place}", num_tags=1, true={2}) for place in range(2000)]
    assert 900 < sum(map(len, drawn)) < 1100, "half a tag an image is one tag in half of the images"
    assert planter.draw("s/5", num_tags=1, true={2}) == drawn[5]
    assert planter.draw("s/1", num_tags=0, true=set()) == []


def test_planted_tags_are_false_and_come_by_their_frequency() -> None:
    planter = Planter(SYSTEM, share=1.0, seed=0)
    found = Counter(planter.draw(f"s/{place}", num_tags=1, true={2})[0] for place in range(3000))
    assert set(found) == {0, 1} and 1.7 < found[0] / found[1] < 2.4
    assert planter.draw("s/1", num_tags=5, true={0, 2}) == [1], "no tag twice, none that no caption names"


def test_a_planted_tag_looks_like_the_others() -> None:
    places = Counter()
    for place in range(300):
        caption = {"text": "a dog", "origin": "original", "tags": [2, 4], "sources": ["both", "parsed"]}
        tags = [{"id": id, "origin": "parsed", "score": 1.0} for id in (2, 4)]
        row = {"key": f"s/{place}", "captions": [caption], "tags": tags}
        Planter(SYSTEM, share=0.5, seed=0).plant(row, true={2, 4})
        ids = [tag["id"] for tag in row["tags"]]
        (planted,) = set(ids) - {2, 4}
        assert sorted(caption["tags"]) == sorted(ids) and len(caption["sources"]) == 3
        assert {(tag["origin"], tag["score"]) for tag in row["tags"]} == {("parsed", 1.0)}
        places[ids.index(planted)] += 1
    assert len(places) == 3 and min(places.values()) > 60


def test_the_truth_reads_back_as_the_ids_that_it_was_written_from() -> None:
    names = truth_names([1, 2], SYSTEM)
    assert names == ["action:train", "object:dog"]
    assert truth_ids(names, None, SYSTEM)[0] == {1, 2}


def test_settings_are_checked() -> None:
    assert not load().data.measure.on and load(sets=["data.measure.planted=0.1"]).data.measure.on
    with pytest.raises(ValueError, match="captions_per_image"):
        load(sets=["data.measure.captions_per_image=0"])
