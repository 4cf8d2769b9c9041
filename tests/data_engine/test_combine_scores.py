"""Contract: if tags occur together, co-occurrence beside the score finds more missing tags; if tags are independent,
the scores stay as they are."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ram_ray.data_engine.addition_curve import make_curve
from ram_ray.data_engine.calibrate import calibrate
from ram_ray.data_engine.combine_scores import (
    SCORE_CELLS,
    ScoreCombiner,
    Weights,
    count_score_cells,
    fit_weights,
    read_pairs,
    write_pairs,
)
from ram_ray.data_engine.generate import SCORES, Threshold, merge, tagger_logits_of
from ram_ray.data_engine.mention_counts import Cells, count_cells, gather_cells
from ram_ray.data_engine.tag_pairs import CoOccurrence, Pairs
from ram_ray.label_system import Label, LabelSystem
from tests.data_engine.test_generate import annotation, scored
from tests.data_engine.test_mention_counts import captions_of, tags
from tests.data_engine.test_tag_pairs import count

NUM_TAGS = 24
SYSTEM = LabelSystem(Label(id, f"tag{id}", "object") for id in range(NUM_TAGS))
NUM_IMAGES = 1_200


def world(*, scenes: int, separation: float = 1.0, seed: int = 0) -> list[dict]:
    """Rows of images of several scenes, each with its own tags; captions mention 45% of the true tags.

    With a single scene, tags are independent. The tagger's score is weak evidence of a mention.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(NUM_IMAGES):
        likely = np.where(np.arange(NUM_TAGS) % scenes == rng.integers(scenes), 0.2 * scenes, 0.02 * (scenes > 1))
        true = rng.random(NUM_TAGS) < np.minimum(likely, 0.9)
        mentioned = np.flatnonzero(true & (rng.random(NUM_TAGS) < 0.45)).tolist()
        logits = separation * (rng.normal(size=NUM_TAGS) + separation * true) - 2
        truth = np.flatnonzero(true).tolist()
        row = annotation(f"s/{number}", captions=captions_of(mentioned), tags=tags(*mentioned), truth=truth)
        rows.append(scored(row, scores=dict(enumerate((1 / (1 + np.exp(-logits))).tolist()))))
    return rows


def fitted(rows: list[dict], *, size: int = NUM_TAGS) -> tuple[Pairs, Weights]:
    pairs = count(rows, system=SYSTEM)
    blocks = [pa.Table.from_pylist(rows[start : start + 500], schema=SCORES) for start in range(0, len(rows), 500)]
    tables = [count_score_cells(block, co_occurrence=CoOccurrence(pairs)) for block in blocks]
    assert all(table.schema.equals(SCORE_CELLS) for table in tables)
    assert sum(table["images"].to_numpy().sum() for table in tables) == len(rows) * size
    return pairs, fit_weights(tables)


def cells(rows: list[dict], **options) -> Cells:
    block = pa.Table.from_pylist(rows, schema=SCORES)
    return gather_cells([count_cells(block, num_tags=NUM_TAGS, votes=1, **options)], num_tags=NUM_TAGS, votes=1)


def precision(counts: Cells, num_additions: int) -> float:
    correct = calibrate(counts.mention_counts(np.zeros(NUM_TAGS))).correct
    points = make_curve(counts, correct, correct=correct)
    labelled, precisions = ([point[name] for point in points] for name in ("labelled", "precision"))
    return float(np.interp(num_additions, labelled, precisions))


@pytest.fixture(scope="module")
def co_occurring() -> tuple[list[dict], ScoreCombiner, Pairs]:
    """Images whose tags occur together."""
    rows = world(scenes=4)
    pairs, weights = fitted(rows)
    return rows, ScoreCombiner(CoOccurrence(pairs), weights), pairs


def test_co_occurrence_finds_more_missing_tags(co_occurring) -> None:
    rows, combiner, _ = co_occurring
    assert combiner.weights.co_occurrence > 0.3 and combiner.weights.score > 0.3
    scores, combined = cells(rows), cells(rows, logits=combiner)
    assert precision(combined, 1_000) > 1.25 * precision(scores, 1_000)
    assert combined.totals == scores.totals and (combined.images.sum((0, 2)) == NUM_IMAGES).all()


def test_combined_logits_are_those_of_a_mention(co_occurring) -> None:
    rows, combiner, _ = co_occurring
    probabilities = 1 / (1 + np.exp(-np.array([combiner(row) for row in rows], np.float64)))
    assert probabilities.sum() == pytest.approx(sum(len(row["tags"]) for row in rows), rel=0.02)
    mentioned = np.array([np.isin(row["tagger_ids"], [tag["id"] for tag in row["tags"]]) for row in rows])
    assert np.median(probabilities[mentioned]) > 2 * np.median(probabilities[~mentioned])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_without_co_occurrence_the_precision_stays_the_same(seed: int) -> None:
    rows = world(scenes=1, seed=seed)
    pairs, weights = fitted(rows)
    combiner = ScoreCombiner(CoOccurrence(pairs), weights)
    changes = [
        combiner(row) - tagger_logits_of(row) - (combiner(rows[0]) - tagger_logits_of(rows[0])).mean() for row in rows
    ]
    assert weights == Weights() or (abs(weights.co_occurrence) < 1 and np.std(changes) < 0.2)
    assert precision(cells(rows, logits=combiner), 1_000) == pytest.approx(precision(cells(rows), 1_000), rel=0.05)


def test_weights_are_fitted_on_the_selected_images() -> None:
    rows = world(scenes=4)[:200]
    co_occurrence = CoOccurrence(count(rows, system=SYSTEM))
    block = pa.Table.from_pylist([*rows, scored(annotation("s/x", reason="truncated", tags=None))], schema=SCORES)
    counts = count_score_cells(block, co_occurrence=co_occurrence, selected=lambda key: key.endswith("7"))
    assert counts["images"].to_numpy().sum() == 20 * NUM_TAGS
    assert counts["mentioned"].to_numpy().sum() == sum(len(row["tags"]) for row in rows[7::10])


def test_without_mentions_or_rows_the_scores_stay_as_they_are() -> None:
    rows = [
        scored(annotation(f"s/{number}", captions=captions_of([]), tags=[]), scores={0: 0.5, 1: 0.2})
        for number in range(5)
    ]
    pairs, weights = fitted(rows, size=2)
    assert weights == fit_weights([]) == Weights()
    assert ScoreCombiner(CoOccurrence(pairs), weights)(rows[0]).tolist() == tagger_logits_of(rows[0]).tolist()


def test_merging_uses_the_combined_logits_and_a_file_stores_their_pairs(co_occurring, tmp_path) -> None:
    rows, combiner, pairs = co_occurring
    write_pairs(str(tmp_path / "pairs.npz"), pairs)
    again = ScoreCombiner(CoOccurrence(read_pairs(str(tmp_path / "pairs.npz"))), combiner.weights)
    assert all((combiner(row) == again(row)).all() for row in rows[:20])
    row, rule = rows[0], Threshold(0.2)
    added = {tag["id"] for tag in merge(row, rule=rule, logits=combiner)["tags"] if tag["origin"] == "tagger"}
    over = {id for id, logit in zip(row["tagger_ids"], combiner(row).tolist(), strict=True) if logit >= np.log(0.25)}
    assert added == over - {tag["id"] for tag in row["tags"]}
