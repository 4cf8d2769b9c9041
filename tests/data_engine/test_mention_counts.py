"""Contract: cells count every image once for every tag, blocks add up to the whole, and the curve has how many of the
likeliest additions are right, beside those of the most frequent tags."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ram_ray.data_engine.addition_curve import make_curve, uncalibrated_scores
from ram_ray.data_engine.calibrate import BINS, bin_of
from ram_ray.data_engine.generate import SCORES
from ram_ray.data_engine.mention_counts import CELLS, Cells, count_cells, gather_cells, mentions
from ram_ray.label_system import Label, LabelSystem
from tests.data_engine.test_generate import annotation, scored

SYSTEM = LabelSystem(Label(id, name, "object") for id, name in enumerate(["dog", "sea", "hat", "cup", "tree"]))


def captions_of(*captions: list[int]) -> list[dict]:
    return [{"text": "x", "origin": "original", "tags": ids, "sources": ["parsed"] * len(ids)} for ids in captions]


def tags(*ids: int) -> list[dict]:
    return [{"id": id, "origin": "parsed", "score": 1.0} for id in ids]


ROWS = [
    scored(
        annotation("s/1", captions=captions_of([0]), tags=tags(0), truth=[0, 1, 4]),
        captions=[("a", [1])],
        scores={0: 0.9, 1: 0.8, 2: 0.3},
    ),
    scored(
        annotation(
            "s/2",
            captions=captions_of([0, 1], [0, 3], [0]),
            tags=tags(0, 3),
            removed=[{"id": 1, "reason": "outlier", "score": 0.5, "round": 1}],
        ),
        scores={0: 0.9, 1: 0.8},
    ),
    scored(annotation("s/3", captions=captions_of([2], [2]), tags=tags(2), truth=[]), scores={2: 0.2}),
    scored(annotation("s/4", reason="truncated", tags=None, captions=None)),
]


def cells(rows: list[dict], *, size: int = 10, **options) -> Cells:
    blocks = [pa.Table.from_pylist(rows[start : start + size], schema=SCORES) for start in range(0, len(rows), size)]
    tables = [count_cells(block, num_tags=len(SYSTEM), votes=1, **options) for block in blocks]
    assert all(table.schema.equals(CELLS) for table in tables)
    return gather_cells(tables, num_tags=len(SYSTEM), votes=1)


def test_every_image_is_in_a_single_cell_of_every_tag() -> None:
    counts = cells(ROWS)
    assert (counts.images.sum((0, 2)) == 3).all() and (counts.labelled.sum((0, 2)) == 2).all()
    high, sea = bin_of(np.log(0.9 / 0.1)), bin_of(np.log(0.8 / 0.2))
    assert counts.images[0, 0, high] == counts.mentioned[0, 0, high] == 2
    assert counts.images[1, 1, sea] == counts.true_candidates[1, 1, sea] == 1 and counts.mentioned[:, 1].sum() == 0
    assert counts.candidates.sum((0, 2)).tolist() == [1, 2, 2, 2, 3], "neither a tag of the image nor removed"
    assert counts.labelled_candidates.sum((0, 2)).tolist() == [1, 2, 1, 2, 2]
    assert counts.true_candidates.sum((0, 2)).tolist() == [0, 1, 0, 0, 1] and counts.true_candidates[0, 4, 0] == 1
    assert counts.totals == {
        "num_images": 3,
        "labelled_images": 2,
        "true_tags": 3,
        "true_tags_present": 1,
        "multi_caption_images": 2,
        "captions": 5,
    }
    assert [counts.tags[name].tolist() for name in ("once", "twice", "often")] == [
        [0, 0, 0, 1, 0],
        [0, 0, 1, 0, 0],
        [1, 0, 0, 0, 0],
    ]
    assert counts.mention_counts(np.zeros(5)).captions == 2.5


def test_blocks_add_up_and_other_parts_are_left_out() -> None:
    whole, parts = cells(ROWS), cells(ROWS, size=1)
    for name in ("images", "mentioned", "candidates", "labelled", "labelled_candidates", "true_candidates"):
        assert (getattr(whole, name) == getattr(parts, name)).all()
    assert whole.totals == parts.totals
    selected = cells(ROWS, selected=lambda key: key == "s/3")
    assert selected.totals["num_images"] == 1 and selected.images.sum() == len(SYSTEM)


def test_a_tag_is_in_the_bin_of_the_logits_that_are_passed() -> None:
    counts = cells(ROWS, logits=lambda row: np.full(len(row["tagger_ids"]), 3.0))
    assert counts.images[0, 0, bin_of(3.0)] == 2 and counts.images.sum() == 3 * len(SYSTEM)


def test_the_curve_counts_additions_and_right_ones_beside_the_most_frequent_tags() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(300):
        true = [id for id in range(5) if rng.random() < (0.5, 0.3, 0.2, 0.1, 0.1)[id]]
        mentioned = [id for id in true if rng.random() < 0.5]
        scores = {id: float(np.clip(0.7 * (id in true) + 0.3 * rng.random(), 0.01, 0.99)) for id in range(5)}
        row = annotation(f"s/{number}", captions=captions_of(mentioned), tags=tags(*mentioned), truth=true)
        rows.append(scored(row, scores=scores))
    counts = cells(rows)
    points = make_curve(counts, uncalibrated_scores(counts))
    added = [point["added"] for point in points]
    assert added == sorted(set(added)) and added[-1] == counts.candidates.sum() == points[-1]["labelled"]
    unmentioned = counts.totals["true_tags"] - counts.totals["true_tags_present"]
    precise = max((point for point in points if point["precision"] > 0.99), key=lambda point: point["added"])
    assert precise["correct"] == pytest.approx(unmentioned, rel=0.02) and precise["recall"] > 0.99
    assert precise["baseline_precision"] < 0.45 < precise["precision"] and precise["estimated"] is None
    last = points[-1]
    assert last["precision"] == last["baseline_precision"] and last["recall"] == last["baseline_recall"] == 1


def test_a_generated_caption_comes_first_without_calibration_and_no_truth_is_no_precision() -> None:
    counts = cells([{**row, "truth": None} for row in ROWS])
    first = make_curve(counts, uncalibrated_scores(counts))[0]
    assert first == {"threshold": 1.0, "added": 1, "estimated": None}
    correct = np.full((2, len(SYSTEM), BINS), 0.25)
    assert make_curve(counts, correct, correct=correct) == [{"threshold": 0.25, "added": 10, "estimated": 0.25}]


def test_human_labels_are_one_caption_more_and_what_they_exclude_is_no_mention() -> None:
    human = {"id": 4, "origin": "human", "score": 1.0}
    row = annotation("s/1", captions=captions_of([0, 1], [0]), tags=[human, *tags(0)], absent=[1, 3])
    assert mentions(row) == [{0}, {0}, {4}]
    assert mentions(annotation("s/2", captions=[], tags=[human])) == [{4}]
    counts = cells([scored(row, scores={1: 0.9, 2: 0.8})])
    assert counts.candidates.sum((0, 2)).tolist() == [0, 0, 1, 0, 0], "only the hat may be added"
    assert counts.mentioned.sum((0, 2)).tolist() == [1, 0, 0, 0, 1] and counts.totals["captions"] == 3
