"""Contract: which rows of a data set are trained on, with which tags and weight, and how often each tag is there."""

from __future__ import annotations

from ram_ray.data.folds import Fold
from ram_ray.records import ANNOTATION
from ram_ray.records import to_table as to_records
from ram_ray.training.rows import tag_weights, tagged_rows
from ram_ray.training.table import RowSelection, count_block


def test_rejected_and_untagged_rows_are_left_out() -> None:
    source = {"shard": "s", "uri": "u", "offset": 1, "nbytes": 2}
    tags = [{"id": 4, "origin": "parsed", "score": 1.0}, {"id": 1, "origin": "tagger", "score": 0.9}]
    caption = {"text": "a dog", "origin": "original", "tags": [4]}
    removed = [{"id": id, "reason": "outlier", "score": 0.7, "round": 1} for id in (7, 0)]
    rows = [
        {"key": "s/1", **source, "captions": [caption], "tags": tags, "removed": removed},
        {"key": "s/2", **source, "captions": [caption], "tags": [], "removed": []},
        {"key": "s/3", **source, "captions": [caption], "tags": tags, "removed": [], "reason": "truncated"},
    ]
    (row,) = tagged_rows(to_records(rows, ANNOTATION))
    assert row == {
        "key": "s/1", "shard": "s", "images": [{"uri": "u", "offset": 1, "nbytes": 2}], "tags": [1, 4],
        "removed": [0, 7], "absent": [], "partial": False, "captions": [{"text": "a dog", "tags": [4]}],
    }  # fmt: skip


def test_a_row_without_tags_teaches_what_is_absent() -> None:
    row = {"key": "s/1", "shard": "s", "uri": "u", "offset": 1, "nbytes": 2, "captions": [], "tags": [], "removed": []}
    rows = [{**row, "absent": [3, 5], "partial": True}, {**row, "key": "s/2", "absent": [], "partial": True}]
    (made,) = tagged_rows(to_records(rows, ANNOTATION), weights={})
    assert (made["key"], made["tags"], made["absent"], made["partial"], made["weight"]) == (
        "s/1",
        [],
        [3, 5],
        True,
        1.0,
    )


def test_a_frequent_tag_gives_an_image_less_weight() -> None:
    weights = tag_weights({0: 80, 1: 10, 2: 20}, num_images=100, cap=0.2)
    assert weights == {0: 0.25, 1: 1.0, 2: 1.0}
    source = {"shard": "s", "uri": "u", "offset": 1, "nbytes": 2, "captions": [], "removed": []}
    tags = [[0], [0, 1], [2]]
    rows = [
        {"key": f"s/{number}", **source, "tags": [{"id": id, "origin": "parsed", "score": 1.0} for id in ids]}
        for number, ids in enumerate(tags)
    ]
    weighted = tagged_rows(to_records(rows, ANNOTATION), weights=weights)
    assert [row["weight"] for row in weighted] == [0.25, 1.0, 1.0], "an image has the weight of its rarest tag"


def test_images_of_each_tag_are_counted_in_the_selected_shards() -> None:
    location = {"uri": "u", "offset": 1, "nbytes": 2, "captions": [], "removed": []}
    rows = [
        {"key": f"{shard}/{number}", "shard": shard, **location, "tags": [{"id": id, "origin": "parsed"} for id in ids]}
        for number, (shard, ids) in enumerate(
            [("d/web-0", [0, 1]), ("d/web-1", [0]), ("coco/0", [0, 2]), ("d/web-1", [])]
        )
    ]
    block = to_records(rows, ANNOTATION)
    coco = {0: 1, 2: 1, -1: 1}
    web, everything = {0: 2, 1: 1, -1: 2}, {0: 3, 1: 1, 2: 1, -1: 3}
    for shards, counts in (("*", everything), ("web-*", web), ("coco*", coco), ("coco/*", coco), ("x", {-1: 0})):
        counted = count_block(block, selection=RowSelection(shards))
        assert dict(zip(counted["id"].to_pylist(), counted["count"].to_pylist(), strict=True)) == counts
    fold = Fold.of_index(0, 2)
    counted = count_block(block, selection=RowSelection("*", fold))
    tags = [row["tags"] for row in rows if not fold.contains(row["key"]) and row["tags"]]
    assert 0 < len(tags) < 3 and sum(map(len, tags)) + len(tags) == sum(counted["count"].to_pylist())
