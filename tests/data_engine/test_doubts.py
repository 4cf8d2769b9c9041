"""Contract: of each label at least the configured share of the mentions is in doubt, those of the lowest scores; where
there are few, all; the same whatever the blocks; and only annotations that name their scores have any."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ram_ray.config import RunConfig, load
from ram_ray.data_engine import doubts
from ram_ray.data_engine.calibrate import BINS, edge_of
from ram_ray.data_engine.doubts import count_mentions, doubt_limits, find_doubts, read_doubts
from ram_ray.data_engine.generate import SCORES, encode_logits
from ram_ray.label_system import Label, LabelSystem
from ram_ray.records import to_table
from ram_ray.results import GeneratedAnnotations
from ram_ray.runtime.artifacts import Run
from tests.data_engine.test_crops import tag
from tests.data_engine.test_generate import annotation
from tests.stage_results import annotations_result, label_system_result

NUM_IMAGES = 200
DOG, CAT, TREE = 0, 1, 2
LABELS = LabelSystem(Label(id, name, "object") for id, name in enumerate(["dog", "cat", "tree"]))


def probability(number: int) -> float:
    """The tagger's probability of a dog on an image."""
    return (number + 0.5) / NUM_IMAGES


def scores() -> pa.Table:
    """Each image mentions a dog, one in five has no score of it; five mention a cat; all got a tree from the tagger."""
    rows = []
    for number in range(NUM_IMAGES):
        tags = [tag(DOG), *([tag(CAT)] if number < 5 else []), tag(TREE, "tagger", 0.9)]
        ids = [TREE, CAT, *([DOG] if number % 5 else [])]
        logits = encode_logits(np.array([0.9, 0.5, probability(number)][: len(ids)]))
        row = annotation(f"s/{number:03d}", tags=tags)
        rows.append({**row, "generated": [], "tagger_ids": ids, "tagger_logits": logits.tobytes()})
    rows.append({**annotation("s/bad", tags=[tag(DOG)], reason="truncated"), "tagger_ids": [], "tagger_logits": b""})
    return to_table(rows, SCORES)


def counted(tables: list[pa.Table]) -> np.ndarray:
    mentions = np.zeros((len(LABELS), BINS), np.int64)
    for table in tables:
        mentions.flat[table["cell"].to_numpy()] += table["mentions"].to_numpy()
    return mentions


def test_mentions_are_counted_by_score_whatever_the_blocks() -> None:
    table = scores()
    mentions = counted([count_mentions(table)])
    assert mentions.sum(axis=1).tolist() == [NUM_IMAGES, 5, 0], "not of rejected rows, and not what the tagger added"
    assert mentions[DOG, 0] >= NUM_IMAGES // 5, "a mention without a score has the lowest"
    blocks = [count_mentions(table.slice(start, 7)) for start in range(0, len(table), 7)]
    assert np.array_equal(counted(blocks), mentions)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.9])
def test_the_share_of_a_label_is_below_its_limit(share: float) -> None:
    mentions = counted([count_mentions(scores())])
    dog, cat, tree = doubt_limits(mentions, share=share)
    assert (cat, tree) == (None, None) and dog is not None
    edges = 1 / (1 + np.exp(-edge_of(np.arange(BINS) + 1)))
    below = mentions[DOG][edges <= dog].sum() / NUM_IMAGES
    largest_bin = mentions[DOG].max() / NUM_IMAGES
    assert share <= below <= share + largest_bin


def config(*sets: str) -> RunConfig:
    return load(sets=["resources.task_cpus=0.5", "resources.shuffle_partitions=2", *sets])


def generated(path: str | None) -> GeneratedAnnotations:
    counts = annotations_result("generated", num_rows=NUM_IMAGES).model_dump()
    zero = ("generated_caption", "tagger", "added", "added_generated_caption", "added_tagger", "added_correct")
    return GeneratedAnnotations.model_validate({**counts, **dict.fromkeys((*zero, "added_wrong"), 0), "scores": path})


def test_the_stage(ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doubts, "MIN_MENTIONS", 5)
    LABELS.save(f"{tmp_path}/label_system.json")
    labels, run = label_system_result(str(tmp_path), num_labels=len(LABELS)), Run(str(tmp_path / "run"))
    assert find_doubts(run, config(), generated(None), labels, round=1) is None
    sets = config("engine.clean.doubt_share=0.3")
    with pytest.raises(ValueError, match="its manifest names none; delete generated.json and the folder generated"):
        find_doubts(run, sets, generated(None), labels, round=1)
    table = scores()
    for number, part in enumerate((table.slice(0, 120), table.slice(120))):
        folder = tmp_path / "scores" / "shard=s"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(part.drop_columns("shard"), folder / f"{number}.parquet")
    found = find_doubts(run, sets, generated(str(tmp_path / "scores")), labels, round=1)
    assert found is not None and (found.mentions, found.labels) == (NUM_IMAGES + 5, 2)
    expected = doubt_limits(counted([count_mentions(table)]), share=0.3)
    assert json.loads(Path(found.uri).read_text()) == expected and expected[TREE] is None
    assert read_doubts(found.uri).tolist() == [*expected[:TREE], np.inf]


def test_a_detector_that_sees_nothing_has_no_doubts() -> None:
    with pytest.raises(ValueError, match="doubt_share says which images the detector sees, and whole_image is none"):
        config("engine.clean={detector: whole_image, doubt_share: 0.1}")
