"""Contract: where captions' tags keep company, weighing it beside the score finds more of what is missing; where they
keep none, the scores stay as they are."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ram_ray.data_engine.calibrate import calibrate
from ram_ray.data_engine.curve import make_curve
from ram_ray.data_engine.evidence import Cells, count_cells, gather
from ram_ray.data_engine.generate import SCORES, Threshold, merge, own_logits
from ram_ray.data_engine.pairs import Company, Pairs
from ram_ray.data_engine.weigh import WEIGHED, Weigher, Weights, count_weighed, fit_weights, read_weigher, write_weigher
from ram_ray.label_system import Label, LabelSystem
from tests.data_engine.test_evidence import said, tags
from tests.data_engine.test_generate import annotation, scored
from tests.data_engine.test_pairs import count

NUM_TAGS = 24
SYSTEM = LabelSystem(Label(id, f"tag{id}", "object") for id in range(NUM_TAGS))
PICTURES = 1_200


def world(*, scenes: int, sharp: float = 1.0, seed: int = 0) -> list[dict]:
    """Pictures of so many kinds, each with tags of its own; captions say 45% of what is there.

    With one kind, tags stand together by chance alone. The tagger's score is a weak witness of what is said.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(PICTURES):
        likely = np.where(np.arange(NUM_TAGS) % scenes == rng.integers(scenes), 0.2 * scenes, 0.02 * (scenes > 1))
        true = rng.random(NUM_TAGS) < np.minimum(likely, 0.9)
        mention = np.flatnonzero(true & (rng.random(NUM_TAGS) < 0.45)).tolist()
        logits = sharp * (rng.normal(size=NUM_TAGS) + sharp * true) - 2
        labels = [SYSTEM[id].name for id in np.flatnonzero(true).tolist()]
        row = annotation(f"s/{number}", captions=said(mention), tags=tags(*mention), labels=labels)
        rows.append(scored(row, scores=dict(enumerate((1 / (1 + np.exp(-logits))).tolist()))))
    return rows


def fitted(rows: list[dict], *, size: int = NUM_TAGS) -> tuple[Pairs, Weights]:
    pairs = count(rows, system=SYSTEM)
    blocks = [pa.Table.from_pylist(rows[at : at + 500], schema=SCORES) for at in range(0, len(rows), 500)]
    counted = [count_weighed(block, company=Company(pairs)) for block in blocks]
    assert all(one.schema.equals(WEIGHED) for one in counted)
    assert sum(one["images"].to_numpy().sum() for one in counted) == len(rows) * size
    return pairs, fit_weights(counted)


def cells(rows: list[dict], **options) -> Cells:
    block = pa.Table.from_pylist(rows, schema=SCORES)
    return gather([count_cells(block, system=SYSTEM, votes=1, **options)], num_tags=NUM_TAGS, votes=1)


def precision(found: Cells, number: int) -> float:
    right = calibrate(found.evidence(np.zeros(NUM_TAGS))).right
    points = make_curve(found, right, right=right)
    return float(np.interp(number, [one["known"] for one in points], [one["precision"] for one in points]))


@pytest.fixture(scope="module")
def friends() -> tuple[list[dict], Weigher, Pairs]:
    """Pictures whose tags keep company."""
    rows = world(scenes=4)
    pairs, weights = fitted(rows)
    return rows, Weigher(Company(pairs), weights), pairs


def test_company_finds_more_of_what_is_missing(friends) -> None:
    rows, weigher, _ = friends
    assert weigher.weights.company > 0.3 and weigher.weights.score > 0.3
    alone, both = cells(rows), cells(rows, logits=weigher)
    assert precision(both, 1_000) > 1.25 * precision(alone, 1_000)
    assert both.totals == alone.totals and (both.images.sum((0, 2)) == PICTURES).all()


def test_weighed_logits_are_those_of_being_said(friends) -> None:
    rows, weigher, _ = friends
    chances = 1 / (1 + np.exp(-np.array([weigher(row) for row in rows], np.float64)))
    assert chances.sum() == pytest.approx(sum(len(row["tags"]) for row in rows), rel=0.02)
    said_of = np.array([np.isin(row["tagger_ids"], [tag["id"] for tag in row["tags"]]) for row in rows])
    assert np.median(chances[said_of]) > 2 * np.median(chances[~said_of])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_without_company_what_is_found_stays_as_it_was(seed: int) -> None:
    rows = world(scenes=1, seed=seed)
    pairs, weights = fitted(rows)
    weigher = Weigher(Company(pairs), weights)
    moved = [weigher(row) - own_logits(row) - (weigher(rows[0]) - own_logits(rows[0])).mean() for row in rows]
    assert weights == Weights() or (abs(weights.company) < 1 and np.std(moved) < 0.2)
    assert precision(cells(rows, logits=weigher), 1_000) == pytest.approx(precision(cells(rows), 1_000), rel=0.05)


def test_weights_are_fitted_on_the_pictures_that_are_chosen() -> None:
    rows = world(scenes=4)[:200]
    company = Company(count(rows, system=SYSTEM))
    block = pa.Table.from_pylist([*rows, scored(annotation("s/x", reason="truncated", tags=None))], schema=SCORES)
    some = count_weighed(block, company=company, chosen=lambda key: key.endswith("7"))
    assert some["images"].to_numpy().sum() == 20 * NUM_TAGS
    assert some["said"].to_numpy().sum() == sum(len(row["tags"]) for row in rows[7::10])


def test_nothing_said_and_no_rows_leave_the_scores_alone() -> None:
    rows = [scored(annotation(f"s/{n}", captions=said([]), tags=[]), scores={0: 0.5, 1: 0.2}) for n in range(5)]
    pairs, weights = fitted(rows, size=2)
    assert weights == fit_weights([]) == Weights()
    assert Weigher(Company(pairs), weights)(rows[0]).tolist() == own_logits(rows[0]).tolist()


def test_merging_goes_by_the_weighed_logits_and_a_file_keeps_them(friends, tmp_path) -> None:
    rows, weigher, pairs = friends
    write_weigher(str(tmp_path / "weigher.npz"), pairs, weigher.weights)
    again, kept = read_weigher(str(tmp_path / "weigher.npz"))
    assert kept == weigher.weights
    assert all((weigher(row) == Weigher(Company(again), kept)(row)).all() for row in rows[:20])
    row, rule = rows[0], Threshold(0.2)
    added = {tag["id"] for tag in merge(row, rule=rule, logits=weigher)["tags"] if tag["origin"] == "tagger"}
    over = {id for id, logit in zip(row["tagger_ids"], weigher(row).tolist(), strict=True) if logit >= np.log(0.25)}
    assert added == over - {tag["id"] for tag in row["tags"]}
