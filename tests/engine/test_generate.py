"""Contract: generation only adds, every tag keeps its first origin, and what was removed stays removed."""

import numpy as np
import pyarrow as pa

from ram_ray.engine.config import GenerateConfig
from ram_ray.engine.generate import GENERATED, CaptionTags, Generator, merge, to_rows
from ram_ray.label_system import Label, LabelSystem
from ram_ray.records import ANNOTATION, to_table


def annotation(key: str = "s/1", **changes) -> dict:
    row = {
        "key": key,
        "shard": "s",
        "uri": "s.tar",
        "offset": 0,
        "nbytes": 10,
        "captions": [{"text": "a dog", "origin": "original", "tags": [0], "sources": ["parsed"]}],
        "tags": [{"id": 0, "origin": "parsed", "score": 1.0}],
        "removed": [],
        "labels": None,
        "reason": None,
        "detail": None,
    }
    return {**row, **changes}


def numpy_batch(rows: list[dict], size: int = 32) -> dict[str, np.ndarray]:
    """The batch as Ray Data makes it of an Arrow table: a list becomes an array, and a struct a dict."""
    frame = to_table(rows, ANNOTATION).to_pandas()
    pixels = np.random.default_rng(0).integers(0, 256, (len(rows), size, size, 3), dtype=np.uint8)
    return {**{name: frame[name].to_numpy() for name in frame}, "pixels": pixels}


def origins(row: dict) -> list[tuple[int, str]]:
    return [(tag["id"], tag["origin"]) for tag in row["tags"]]


def test_the_union_keeps_the_first_origin_and_the_order_parsed_caption_tagger():
    row = annotation()
    before = repr(row)
    merged = merge(row, caption="a red dog", caption_ids=[2, 0, 2], tagger_ids=[5, 2, 0], tagger_scores=[0.9, 0.8, 0.7])
    assert origins(merged) == [(0, "parsed"), (2, "generated_caption"), (5, "tagger")]
    assert merged["tags"][2]["score"] == 0.9
    assert merged["captions"][1] == {"text": "a red dog", "origin": "generated", "tags": [2, 0, 2]}
    assert repr(row) == before


def test_the_next_round_starts_from_the_original_captions_and_what_survived():
    first = merge(annotation(), caption="a red dog", caption_ids=[2], tagger_ids=[5, 4], tagger_scores=[0.9, 0.8])
    gone = {"id": 4, "reason": "outlier", "score": 0.6, "round": 1}
    cleaned = {**first, "tags": [tag for tag in first["tags"] if tag["id"] != 4], "removed": [gone]}
    second = merge(cleaned, caption="a light", caption_ids=[4], tagger_ids=[4, 1], tagger_scores=[0.99, 0.7])
    assert [caption["text"] for caption in second["captions"]] == ["a dog", "a light"]
    assert origins(second) == [(0, "parsed"), (2, "generated_caption"), (5, "tagger"), (1, "tagger")]
    assert second["removed"] == [gone]


def test_rows_survive_the_way_through_numpy():
    rows = [
        annotation("s/1", removed=[{"id": 1, "reason": "outlier", "score": 0.5, "round": 1}], labels=["dog"]),
        annotation("s/2", captions=[], tags=[], labels=[]),
        annotation("s/3", captions=None, tags=None, removed=None, reason="truncated", detail="cut"),
    ]
    assert to_rows(numpy_batch(rows)) == rows


def test_a_real_model_over_its_threshold_and_nothing_for_rejected_rows(tiny_bundle):
    generator = Generator(tiny_bundle, GenerateConfig(threshold=0.5), device="cpu")
    batch = numpy_batch([annotation("s/1"), annotation("s/2", reason="truncated", tags=None), annotation("s/3")])
    table = generator(batch)
    assert table.schema.equals(GENERATED)
    probabilities = generator.predictor.probabilities(batch["pixels"])
    for place in (0, 2):
        ids, scores = table["tagger_ids"][place].as_py(), table["tagger_scores"][place].as_py()
        assert set(ids) == set(np.flatnonzero(probabilities[place] >= 0.5))
        assert scores == sorted(scores, reverse=True)
        assert np.allclose(scores, probabilities[place][ids], atol=1e-5)
        assert isinstance(table["generated_caption"][place].as_py(), str)
    assert table["tagger_ids"][1].as_py() == [] and table["generated_caption"][1].as_py() is None


def test_captions_can_be_switched_off(tiny_bundle):
    generator = Generator(tiny_bundle, GenerateConfig(captions=False, threshold=0.01), device="cpu")
    table = generator(numpy_batch([annotation()]))
    assert table["generated_caption"].to_pylist() == [None]
    assert len(table["tagger_ids"][0]) == 6


def test_the_words_of_a_generated_caption_become_tags(tmp_path):
    labels = LabelSystem([Label(0, "dog", "object"), Label(1, "beach", "object"), Label(2, "umbrella", "object")])
    labels.save(str(tmp_path / "labels.json"))
    generated = {"generated_caption": "a dog under an umbrella", "tagger_ids": [1, 0], "tagger_scores": [0.9, 0.8]}
    rows = [
        {**annotation("s/1"), **generated},
        {**annotation("s/2", reason="truncated", tags=None), "generated_caption": None, "tagger_ids": []},
    ]
    table = pa.Table.from_pylist(rows, schema=GENERATED)
    stage = CaptionTags("en_ud_ewt", str(tmp_path / "labels.json"))
    merged = stage(table)
    assert merged.schema.equals(ANNOTATION)
    good, rejected = merged.to_pylist()
    assert origins(good) == [(0, "parsed"), (2, "generated_caption"), (1, "tagger")]
    assert good["captions"][1]["tags"] == [0, 2]
    assert rejected["reason"] == "truncated" and rejected["tags"] is None
