"""Contract: rows of one image in one source are merged, copies elsewhere and near duplicates are left out, and what a
held-out set shows is never trained on; the decisions do not depend on the order of the pairs."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ram_ray.curation.groups import KINDS, LEFT_OUT, LISTED, MERGED, PAIR, PLACEHOLDER, STAYS, Decisions, decide
from ram_ray.settings.curation import DuplicatesConfig

Row = tuple[int, int, int]  # id, set, source


def train(id: int, source: int = 1) -> Row:
    return id, 0, source


def held_out(id: int) -> Row:
    return id, 1, 9


def make(*pairs: tuple[Row, Row, str, int], shuffle: int | None = None, **config: object) -> dict[int, tuple[int, int]]:
    """Decide about pairs: id -> (target, action)."""
    names = ("id", "set", "source", "other_id", "other_set", "other_source", "kind", "distance")
    rows = [(*one, *other, KINDS.index(kind), distance) for one, other, kind, distance in pairs]
    table = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema=PAIR)
    if shuffle is not None:
        table = table.take(np.random.default_rng(shuffle).permutation(len(table)))
    decided = decide(table, config=DuplicatesConfig(**config))
    return {
        int(id): (int(target), int(action))
        for id, target, action in zip(decided.id, decided.target, decided.action, strict=True)
    }


def test_rows_of_an_image_are_merged_also_through_a_third_row() -> None:
    decided = make((train(1), train(2), "url", 0), (train(2), train(3), "pixels", 0), (train(1), train(3), "near", 0))
    assert decided == {1: (1, STAYS), 2: (1, MERGED), 3: (1, MERGED)}


def test_a_copy_in_another_source_is_left_out_or_listed() -> None:
    pairs = [(train(1), train(2), "url", 0), (train(1), train(3, 2), "bytes", 0), (train(3, 2), train(4, 2), "url", 0)]
    decided = make(*pairs)
    assert decided == {1: (1, STAYS), 2: (1, MERGED), 3: (1, LEFT_OUT), 4: (1, LEFT_OUT)}
    decided = make(*pairs, in_training="keep")
    assert decided == {1: (1, STAYS), 2: (1, MERGED), 3: (1, LISTED), 4: (3, MERGED)}


def test_near_duplicates_are_no_chain() -> None:
    """2 is near 1 and goes; 3 is near 2 alone and stays; 5 is near 3."""
    pairs = [(train(1), train(2), "near", 4), (train(2), train(3), "near", 4), (train(5), train(3), "near", 8)]
    for shuffle in range(4):
        assert make(*pairs, shuffle=shuffle) == {1: (1, STAYS), 2: (1, LEFT_OUT), 3: (3, STAYS), 5: (3, LEFT_OUT)}
    assert make(*pairs, in_training="keep")[2] == (1, LISTED)


def test_nothing_that_is_held_out_is_trained_on() -> None:
    decided = make(
        (train(1), held_out(20), "bytes", 0),
        (train(1), train(2), "url", 0),  # 2 shows the same image
        (train(3), held_out(20), "near", 6),
        (train(4), train(3), "near", 2),  # 4 is near a row that is gone, and not near what is held out
        (held_out(20), held_out(21), "url", 0),
        (held_out(22), held_out(20), "near", 1),
    )
    assert decided[1] == decided[2] == decided[3] == (20, LEFT_OUT)
    assert decided[4] == (4, STAYS)
    assert decided[20] == (20, STAYS) and decided[21] == (20, MERGED)  # held-out rows are merged, never left out
    assert decided[22] == (22, STAYS)
    kept = make((train(1), held_out(20), "bytes", 0), (train(1), train(2), "url", 0), of_eval="keep")
    assert kept == {1: (20, LISTED), 2: (1, MERGED), 20: (20, STAYS)}


def test_the_nearest_held_out_image_is_named() -> None:
    decided = decide_distances((train(1), held_out(20), "near", 6), (train(1), held_out(21), "near", 3))
    assert decided.target[0] == 21 and decided.distance[0] == 3


def decide_distances(*pairs: tuple[Row, Row, str, int]) -> Decisions:
    names = ("id", "set", "source", "other_id", "other_set", "other_source", "kind", "distance")
    rows = [(*one, *other, KINDS.index(kind), distance) for one, other, kind, distance in pairs]
    table = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema=PAIR)
    return decide(table, config=DuplicatesConfig())


def test_an_image_of_too_many_rows_is_a_placeholder() -> None:
    pairs = [(train(1), train(id), "pixels", 0) for id in range(2, 8)]
    decided = make(*pairs, (train(9), train(1), "near", 2), max_rows=5)
    assert all(decided[id] == (1, PLACEHOLDER) for id in range(1, 8)) and decided[9] == (9, STAYS)
    assert make(*pairs, max_rows=7)[1] == (1, STAYS)


def test_many_equal_pairs_do_not_cancel_out() -> None:
    assert make(*[(train(1), train(2), "url", 0)] * 256)[2] == (1, MERGED)


def test_no_pairs_are_no_decisions() -> None:
    assert make() == {}
