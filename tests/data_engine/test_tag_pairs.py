"""Contract: a tag scores above 0 with tags that it often occurs with and below 0 with others, an image does not support
itself, mentioned and unmentioned tags are scored alike, and counts of blocks add up."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ram_ray.data.folds import fold_index
from ram_ray.data_engine.co_occurrence import SMOOTHING
from ram_ray.data_engine.generate import SCORES
from ram_ray.data_engine.mention_rate_bound import mention_rate_bounds
from ram_ray.data_engine.tag_pairs import FOLDS, PAIRS, CoOccurrence, Pairs, count_pairs, gather_pairs, mentioned_ids
from ram_ray.label_system import Label, LabelSystem
from tests.data_engine.test_generate import annotation, scored
from tests.data_engine.test_mention_counts import captions_of, tags

NAMES = ("dog", "sea", "hat", "tree", "tree cup")
SYSTEM = LabelSystem(Label(id, name, "object") for id, name in enumerate(NAMES))
DOG, SEA, HAT, TREE, CUP = range(5)


def rows_of(ids_by_image: list[list[int]]) -> list[dict]:
    return [
        scored(annotation(f"s/{number}", captions=captions_of(ids), tags=tags(*ids)))
        for number, ids in enumerate(ids_by_image)
    ]


def count(rows: list[dict], *, size: int = 100, system: LabelSystem = SYSTEM) -> Pairs:
    """Pairs of blocks, summed as Ray Data sums them."""
    blocks = [pa.Table.from_pylist(rows[start : start + size], schema=SCORES) for start in range(0, len(rows), size)]
    counted = pa.concat_tables([count_pairs(block, num_tags=len(system)) for block in blocks])
    assert counted.schema.equals(PAIRS)
    names = PAIRS.names[1:]
    summed = counted.group_by("pair").aggregate([(name, "sum") for name in names]).rename_columns(PAIRS.names)
    return gather_pairs([summed.slice(0, 7), summed.slice(7)], system)


def score(co_occurrence: CoOccurrence, *mentioned: int, tag: int, fold: int = 0) -> float:
    return float(co_occurrence(np.array(sorted(mentioned), np.int64), tags=np.array([tag]), fold=fold)[0])


def test_frequent_pairs_score_above_0_and_rare_ones_below() -> None:
    ids = [[SEA, HAT]] * 100 + [[TREE]] * 100 + [[SEA]] * 10 + [[]] * 100
    co_occurrence = CoOccurrence(count(rows_of(ids)))
    assert score(co_occurrence, SEA, tag=HAT) > 0.8 and score(co_occurrence, TREE, tag=HAT) < -1
    assert score(co_occurrence, SEA, TREE, tag=HAT) == pytest.approx(
        score(co_occurrence, SEA, tag=HAT) + score(co_occurrence, TREE, tag=HAT)
    )
    assert score(co_occurrence, tag=HAT) == score(co_occurrence, HAT, tag=HAT) == 0, "alone, or with itself"
    assert score(co_occurrence, SEA, HAT, tag=HAT) == score(co_occurrence, SEA, tag=HAT), (
        "the same whether the tag is mentioned or not"
    )
    assert score(co_occurrence, CUP, tag=TREE) == score(co_occurrence, TREE, tag=CUP) == 0, "names that share a word"
    many = co_occurrence(np.array([SEA, TREE]), tags=np.array([DOG, HAT, SEA]), fold=1)
    assert many.shape == (3,) and many[1] == score(co_occurrence, SEA, TREE, tag=HAT, fold=1)


def test_images_are_scored_with_the_counts_of_the_other_parts() -> None:
    ids = [[SEA, HAT], *[[SEA]] * 50, *[[HAT]] * 50, *[[]] * 99]
    rows = rows_of(ids)
    co_occurrence, own = CoOccurrence(count(rows)), fold_index(rows[0]["key"], FOLDS)
    others = [image for image, row in zip(ids, rows, strict=True) if fold_index(row["key"], FOLDS) != own]
    sea, hat = (sum(tag in image for image in others) for tag in (SEA, HAT))
    expected = sea * hat / len(others)
    assert score(co_occurrence, SEA, tag=HAT, fold=own) == pytest.approx(np.log(SMOOTHING / (expected + SMOOTHING)))
    assert score(co_occurrence, SEA, tag=HAT, fold=(own + 1) % FOLDS) > score(co_occurrence, SEA, tag=HAT, fold=own)


def test_tags_that_the_engine_added_or_removed_do_not_count() -> None:
    removed = [{"id": SEA, "reason": "outlier", "score": 0.5, "round": 1}]
    row = annotation("s/1", captions=captions_of([SEA, HAT], [DOG]), tags=tags(DOG, HAT, TREE), removed=removed)
    generated = {"text": "y", "origin": "generated", "tags": [CUP], "sources": ["parsed"]}
    row["captions"].append(generated)
    assert mentioned_ids(scored(row, captions=[("z", [TREE])])).tolist() == [DOG, HAT]


def test_independent_tags_score_alike_mentioned_or_not() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((3_000, 5)) < 0.3
    rows = rows_of([np.flatnonzero(image).tolist() for image in truth])
    co_occurrence = CoOccurrence(count(rows))
    scores = np.array(
        [co_occurrence(mentioned_ids(row), tags=np.arange(3), fold=fold_index(row["key"], FOLDS)) for row in rows]
    )
    for tag in range(3):
        positive, negative = scores[truth[:, tag], tag][:, None], scores[~truth[:, tag], tag][None]
        auc = (positive > negative).mean() + 0.5 * (positive == negative).mean()
        assert auc == pytest.approx(0.5, abs=0.03)


def test_rejected_rows_and_no_rows_count_nothing() -> None:
    rejected = scored(annotation("s/1", reason="truncated", tags=None, captions=None))
    empty = count([rejected, *rows_of([[]])])
    assert empty.num_images.sum() == 1 and len(empty.other) == 0 and empty.tag_counts().sum() == 0
    assert score(CoOccurrence(empty), SEA, tag=HAT) == 0
    assert (mention_rate_bounds(gather_pairs([], SYSTEM)) == 0).all()


def test_a_tag_that_implies_another_bounds_its_mention_rate() -> None:
    """The sea is on all images with a hat, and three of four captions mention it; "tree cup" does not bound "tree"."""
    ids = [[HAT, SEA]] * 90 + [[HAT]] * 30 + [[TREE, CUP]] * 40 + [[DOG]] * 40 + [[DOG, SEA]] * 5
    rows = rows_of(ids)
    rows[0] = {**rows[0], "reason": "truncated"}
    pairs = count(rows)
    assert pairs.tag_counts().sum(axis=1).tolist() == [45, 94, 119, 40, 40] and pairs.num_images.sum() == 204
    bound = mention_rate_bounds(pairs)
    assert bound[SEA] == pytest.approx((89 + 10 * 94 / 204) / (119 + 10)) and bound[HAT] > 0.85
    assert bound[TREE] == bound[CUP] == 0 and bound[DOG] < 0.1


def test_human_labels_are_counted_with_captions() -> None:
    human = [{"id": id, "origin": "human", "score": 1.0} for id in (SEA, HAT)]
    rows = [scored(annotation("s/1", captions=captions_of([DOG, TREE]), tags=[*human, *tags(DOG)], absent=[TREE]))]
    assert mentioned_ids(rows[0]).tolist() == [DOG, SEA, HAT]
    assert count(rows).tag_counts().sum(axis=1).tolist() == [1, 1, 1, 0, 0]
