"""Contract: every tag is counted once, by its source and its status; shares have the documented denominators; an
unknown share is None and never 0."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ram_ray.data_engine.statistics import TAG_STATISTICS, count_block, tag_shares
from ram_ray.records import ANNOTATION, to_table


def _row(key: str, *, mentioned: list[int], tags: list[int], removed: list[int] = (), truth=None, **more) -> dict:
    return {
        "key": key,
        "shard": "s",
        "captions": [
            {"text": "x", "origin": "original", "tags": mentioned},
            {"text": "y", "origin": "generated", "tags": [3]},  # a generated caption is no mention
        ],
        "tags": [{"id": id, "origin": "parsed" if id in mentioned else "tagger", "score": 1.0} for id in tags],
        "removed": [{"id": id, "reason": "outlier", "score": 0.5, "round": 1} for id in removed],
        "truth": truth,
        **more,
    }


@pytest.fixture
def rows() -> list[dict]:
    table = to_table(
        [
            # mentioned dog (true) and cat (false, removed); added cow (true) and ant (false, removed)
            _row("s/0", mentioned=[0, 1], tags=[0, 2], removed=[1, 3], truth=[0, 2]),
            # mentioned dog (true, removed); added ant (false); cow is true and neither mentioned nor added
            _row("s/1", mentioned=[0], tags=[3], removed=[0], truth=[0, 2]),
            _row("s/2", mentioned=[0], tags=[0, 3], truth=None),
            _row("s/3", mentioned=[0], tags=[0], truth=[0], reason="truncated"),
        ],
        ANNOTATION,
    )
    counts = count_block(table)
    assert counts.schema == TAG_STATISTICS
    return counts.to_pylist()


def _of(rows: list[dict], tag: int, source: str, status: str) -> tuple[int, int, int]:
    (row,) = [row for row in rows if (row["tag"], row["source"], row["status"]) == (tag, source, status)]
    return row["images"], row["labelled"], row["correct"]


def test_a_tag_is_counted_by_its_source_and_its_fate(rows: list[dict]) -> None:
    assert _of(rows, 0, "mentioned", "kept") == (2, 1, 1), "the truth of the second image is not known"
    assert _of(rows, 0, "mentioned", "outlier") == (1, 1, 1)
    assert _of(rows, 1, "mentioned", "outlier") == (1, 1, 0)
    assert _of(rows, 2, "added", "kept") == (1, 1, 1)
    assert _of(rows, 3, "added", "kept") == (2, 1, 0)
    assert _of(rows, 3, "added", "outlier") == (1, 1, 0)
    assert _of(rows, 0, "truth", "mentioned") == (2, 2, 2) and _of(rows, 2, "truth", "unmentioned") == (2, 2, 2)


def test_the_shares(rows: list[dict]) -> None:
    assert tag_shares(rows) == {
        "added_precision": 1 / 2,  # cow, and not ant
        "recovered": 1 / 2,  # cow in one image of two
        "false_removed": 2 / 3,  # cat and one ant, of cat and two ants
        "true_removed": 1 / 3,  # a dog, of two dogs and a cow
        "mentioned_false_removed": 1.0,  # the cat
        "mentioned_true_removed": 1 / 2,  # a dog of two
    }


def test_an_unknown_share_is_none(rows: list[dict]) -> None:
    table = to_table([_row("s/0", mentioned=[0], tags=[0, 1], truth=None)], ANNOTATION)
    assert set(tag_shares(count_block(table).to_pylist()).values()) == {None}
    assert set(tag_shares([]).values()) == {None}


def test_blocks_add_up(rows: list[dict]) -> None:
    empty = count_block(to_table([], ANNOTATION))
    assert empty.schema == TAG_STATISTICS and not len(empty)
    twice = pa.Table.from_pylist(rows + rows, schema=TAG_STATISTICS).group_by(["tag", "source", "status"])
    summed = twice.aggregate([(name, "sum") for name in ("images", "labelled", "correct")])
    doubled = [
        {**row, **{name: row[f"{name}_sum"] for name in ("images", "labelled", "correct")}}
        for row in summed.to_pylist()
    ]
    assert tag_shares(doubled) == tag_shares(rows)


def test_a_human_label_is_not_an_addition_of_the_engine() -> None:
    row = _row("s/0", mentioned=[0], tags=[0, 1, 2])
    row["tags"][1]["origin"] = "human"
    counts = count_block(to_table([row], ANNOTATION)).to_pylist()
    assert {counted["tag"]: counted["source"] for counted in counts} == {0: "mentioned", 1: "mentioned", 2: "added"}
