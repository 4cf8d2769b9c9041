"""Contract: company speaks for a tag among its usual others and against one among strangers, no picture vouches for
itself, a tag is measured alike whether it is said or not, and counts of blocks add up."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ram_ray.data.parts import part_of
from ram_ray.data_engine.company import SMOOTHING
from ram_ray.data_engine.generate import SCORES
from ram_ray.data_engine.implied import implied_rate
from ram_ray.data_engine.pairs import PAIRS, PARTS, Company, Pairs, count_pairs, gather_pairs, said_ids
from ram_ray.label_system import Label, LabelSystem
from tests.data_engine.test_evidence import said, tags
from tests.data_engine.test_generate import annotation, scored

NAMES = ("dog", "sea", "hat", "tree", "tree cup")
SYSTEM = LabelSystem(Label(id, name, "object") for id, name in enumerate(NAMES))
DOG, SEA, HAT, TREE, CUP = range(5)


def rows_of(given: list[list[int]]) -> list[dict]:
    return [scored(annotation(f"s/{n}", captions=said(one), tags=tags(*one))) for n, one in enumerate(given)]


def count(rows: list[dict], *, size: int = 100, system: LabelSystem = SYSTEM) -> Pairs:
    """Pairs of blocks, added up as Ray Data adds them up."""
    blocks = [pa.Table.from_pylist(rows[at : at + size], schema=SCORES) for at in range(0, len(rows), size)]
    counted = pa.concat_tables([count_pairs(one, num_tags=len(system)) for one in blocks])
    assert counted.schema.equals(PAIRS)
    names = PAIRS.names[1:]
    summed = counted.group_by("pair").aggregate([(name, "sum") for name in names]).rename_columns(PAIRS.names)
    return gather_pairs([summed.slice(0, 7), summed.slice(7)], system)


def ask(company: Company, *others: int, of: int, part: int = 0) -> float:
    return float(company(np.array(sorted(others), np.int64), of=np.array([of]), part=part)[0])


def test_usual_company_speaks_for_a_tag_and_strangers_against_it() -> None:
    given = [[SEA, HAT]] * 100 + [[TREE]] * 100 + [[SEA]] * 10 + [[]] * 100
    company = Company(count(rows_of(given)))
    assert ask(company, SEA, of=HAT) > 0.8 and ask(company, TREE, of=HAT) < -1
    assert ask(company, SEA, TREE, of=HAT) == pytest.approx(ask(company, SEA, of=HAT) + ask(company, TREE, of=HAT))
    assert ask(company, of=HAT) == ask(company, HAT, of=HAT) == 0, "alone, or with itself: nothing is told"
    assert ask(company, SEA, HAT, of=HAT) == ask(company, SEA, of=HAT), "said or not, the others tell the same"
    assert ask(company, CUP, of=TREE) == ask(company, TREE, of=CUP) == 0, "names that share a word"
    many = company(np.array([SEA, TREE]), of=np.array([DOG, HAT, SEA]), part=1)
    assert many.shape == (3,) and many[1] == ask(company, SEA, TREE, of=HAT, part=1)


def test_pictures_are_measured_by_the_other_parts() -> None:
    given = [[SEA, HAT], *[[SEA]] * 50, *[[HAT]] * 50, *[[]] * 99]
    rows = rows_of(given)
    company, own = Company(count(rows)), part_of(rows[0]["key"], PARTS)
    here = [part_of(row["key"], PARTS) == own for row in rows]
    sea, hat = (sum(tag in one for one, mine in zip(given, here, strict=True) if not mine) for tag in (SEA, HAT))
    chance = sea * hat / (len(given) - sum(here))
    assert ask(company, SEA, of=HAT, part=own) == pytest.approx(np.log(SMOOTHING / (chance + SMOOTHING)))
    assert ask(company, SEA, of=HAT, part=(own + 1) % PARTS) > ask(company, SEA, of=HAT, part=own)


def test_what_the_engine_added_or_removed_is_no_company() -> None:
    removed = [{"id": SEA, "reason": "outlier", "score": 0.5, "round": 1}]
    row = annotation("s/1", captions=said([SEA, HAT], [DOG]), tags=tags(DOG, HAT, TREE), removed=removed)
    made = {"text": "y", "origin": "generated", "tags": [CUP], "sources": ["parsed"]}
    row["captions"].append(made)
    assert said_ids(scored(row, captions=[("z", [TREE])])).tolist() == [DOG, HAT]


def test_tags_that_keep_no_company_measure_alike_whether_they_are_said_or_not() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((3_000, 5)) < 0.3
    rows = rows_of([np.flatnonzero(one).tolist() for one in truth])
    company = Company(count(rows))
    found = np.array([company(said_ids(row), of=np.arange(3), part=part_of(row["key"], PARTS)) for row in rows])
    for tag in range(3):
        carried, absent = found[truth[:, tag], tag], found[~truth[:, tag], tag]
        above = (carried[:, None] > absent[None]).mean() + 0.5 * (carried[:, None] == absent[None]).mean()
        assert above == pytest.approx(0.5, abs=0.03)


def test_rejected_rows_and_no_rows_count_nothing() -> None:
    rejected = scored(annotation("s/1", reason="truncated", tags=None, captions=None))
    nothing = count([rejected, *rows_of([[]])])
    assert nothing.pictures.sum() == 1 and len(nothing.other) == 0 and nothing.said().sum() == 0
    assert ask(Company(nothing), SEA, of=HAT) == 0
    assert (implied_rate(gather_pairs([], SYSTEM)) == 0).all()


def test_words_that_imply_a_tag_say_how_often_it_is_said() -> None:
    """The sea is seen wherever there is a hat, and said in three of four such captions; "tree cup" is no witness."""
    given = [[HAT, SEA]] * 90 + [[HAT]] * 30 + [[TREE, CUP]] * 40 + [[DOG]] * 40 + [[DOG, SEA]] * 5
    rows = rows_of(given)
    rows[0] = {**rows[0], "reason": "truncated"}
    pairs = count(rows)
    assert pairs.said().sum(axis=1).tolist() == [45, 94, 119, 40, 40] and pairs.pictures.sum() == 204
    bound = implied_rate(pairs)
    assert bound[SEA] == pytest.approx((89 + 10 * 94 / 204) / (119 + 10)) and bound[HAT] > 0.85
    assert bound[TREE] == bound[CUP] == 0 and bound[DOG] < 0.1
