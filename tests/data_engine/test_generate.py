"""Contract: generation only adds, every tag keeps its first origin, and removed tags stay removed."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from ram_ray.config import RunConfig
from ram_ray.data.folds import fold_index
from ram_ray.data_engine.calibrate import BINS, bin_of
from ram_ray.data_engine.generate import (
    SCORES,
    Calibrated,
    CaptionTags,
    Generator,
    Threshold,
    decode_logits,
    encode_logits,
    merge,
    to_rows,
    votes_of,
)
from ram_ray.data_engine.model_by_fold import ModelByFold
from ram_ray.data_engine.stage_settings import ScoreSettings
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
        "absent": None,
        "partial": None,
        "truth": None,
        "unknown_labels": None,
        "reason": None,
        "detail": None,
    }
    return {**row, **changes}


def settings(*, seed: int = 0, **generate) -> ScoreSettings:
    config = RunConfig.model_validate({"seed": seed, "engine": {"generate": generate}})
    return ScoreSettings.from_config(config, round=0)


def numpy_batch(rows: list[dict], size: int = 32) -> dict[str, np.ndarray]:
    """The batch as Ray Data makes it of an Arrow table: a list becomes an array, and a struct a dict."""
    frame = to_table(rows, ANNOTATION).to_pandas()
    pixels = np.random.default_rng(0).integers(0, 256, (len(rows), size, size, 3), dtype=np.uint8)
    return {**{name: frame[name].to_numpy() for name in frame}, "pixels": pixels}


def origins(row: dict) -> list[tuple[int, str]]:
    return [(tag["id"], tag["origin"]) for tag in row["tags"]]


def scored(row: dict, *, captions: list[tuple[str, list[int]]] = (), scores: dict[int, float] | None = None) -> dict:
    """A SCORES row: generated captions with their tags, and the tagger's probabilities, best first."""
    ids = sorted(scores or {}, key=lambda id: -scores[id])
    logits = encode_logits(np.array([scores[id] for id in ids])) if ids else np.zeros(0, "<f2")
    generated = [
        {"text": text, "origin": "generated", "tags": tags, "sources": ["parsed"] * len(tags)}
        for text, tags in captions
    ]
    return {**row, "generated": generated, "tagger_ids": ids, "tagger_logits": logits.tobytes()}


def test_the_union_keeps_the_first_origin_and_the_order_parsed_caption_tagger():
    row = scored(annotation(), captions=[("a red dog", [2, 0, 2])], scores={5: 0.9, 2: 0.8, 0: 0.75, 3: 0.6})
    text = repr(row)
    merged = merge(row, rule=Threshold(0.7))
    assert origins(merged) == [(0, "parsed"), (2, "generated_caption"), (5, "tagger")]
    assert merged["tags"][2]["score"] == pytest.approx(0.9, abs=1e-3) and merged["tags"][1]["score"] == 1
    assert merged["captions"][1]["text"] == "a red dog" and merged["captions"][1]["tags"] == [2, 0, 2]
    assert merged.keys() == set(ANNOTATION.names) and repr(row) == text


def test_a_tag_of_a_generated_caption_needs_the_score_of_caption_threshold():
    row = scored(annotation(), captions=[("a red light", [2, 4, 1])], scores={5: 0.9, 2: 0.65, 4: 0.3})
    assert origins(merge(row, rule=Threshold(0.7, caption_threshold=0.6))) == [
        (0, "parsed"),
        (2, "generated_caption"),
        (5, "tagger"),
    ]


def test_the_next_round_starts_from_the_original_captions_and_the_surviving_tags():
    first = merge(scored(annotation(), captions=[("a red dog", [2])], scores={5: 0.9, 4: 0.8}), rule=Threshold(0.7))
    removal = {"id": 4, "reason": "outlier", "score": 0.6, "round": 1}
    cleaned = {**first, "tags": [tag for tag in first["tags"] if tag["id"] != 4], "removed": [removal]}
    second = merge(scored(cleaned, captions=[("a light", [4])], scores={4: 0.99, 1: 0.75}), rule=Threshold(0.7))
    assert [caption["text"] for caption in second["captions"]] == ["a dog", "a light"]
    assert origins(second) == [(0, "parsed"), (2, "generated_caption"), (5, "tagger"), (1, "tagger")]
    assert second["removed"] == [removal]


def test_without_new_captions_those_of_the_round_before_are_kept():
    first = merge(scored(annotation(), captions=[("a red dog", [2])]), rule=Threshold(0.7))
    assert merge(scored(first), rule=Threshold(0.7)) == first


def test_a_caption_that_mentions_a_tag_lowers_its_threshold():
    min_bins = np.full((2, 6), BINS)
    min_bins[:, 2], min_bins[:, 5] = bin_of(np.array([2.0, 0.0])), bin_of(np.array([2.0, 1.0]))  # 3 and 4: never
    correct = np.linspace(0, 1, 2 * 6 * BINS).reshape(2, 6, BINS)
    rule = Calibrated(min_bins, correct)
    row = scored(annotation(), captions=[("red", [2, 3]), ("a red dog", [2, 0])], scores={2: 0.6, 5: 0.7, 3: 0.95})
    merged = merge(row, rule=rule)
    assert origins(merged) == [(0, "parsed"), (2, "generated_caption")]
    assert merged["tags"][1]["score"] == pytest.approx(correct[1, 2, bin_of(np.log(0.6 / 0.4))], abs=0.01)
    likely = merge(scored(annotation(), scores={2: 0.9, 5: 0.89}), rule=rule)
    assert origins(likely) == [(0, "parsed"), (5, "tagger"), (2, "tagger")], "likeliest first"


def test_logits_keep_probabilities_that_half_precision_would_lose():
    probabilities = np.array([0.999, 0.9995, 0.5, 1e-4, 1.0])
    decoded = 1 / (1 + np.exp(-decode_logits(encode_logits(probabilities).tobytes()).astype(float)))
    assert np.allclose(decoded, probabilities, rtol=2e-3, atol=1e-6) and decoded[0] < decoded[1] < decoded[4]


def test_rows_survive_the_way_through_numpy():
    rows = [
        annotation("s/1", removed=[{"id": 1, "reason": "outlier", "score": 0.5, "round": 1}], truth=[0]),
        annotation("s/2", captions=[], tags=[], truth=[]),
        annotation("s/3", captions=None, tags=None, removed=None, reason="truncated", detail="cut"),
    ]
    assert to_rows(numpy_batch(rows)) == rows


def test_a_real_model_scores_every_tag_and_nothing_of_rejected_rows(tiny_bundle):
    generator = Generator(tiny_bundle, settings(threshold=0.5), device="cpu")
    batch = numpy_batch([annotation("s/1"), annotation("s/2", reason="truncated", tags=None), annotation("s/3")])
    table = generator(batch)
    assert table.schema.equals(SCORES)
    probabilities = generator.predictor.probabilities(batch["pixels"])
    rows = table.to_pylist()
    for index in (0, 2):
        ids, logits = rows[index]["tagger_ids"], decode_logits(rows[index]["tagger_logits"])
        assert ids == np.argsort(-probabilities[index], kind="stable").tolist()
        assert np.allclose(1 / (1 + np.exp(-logits)), probabilities[index][ids], atol=1e-3)
        assert [caption["origin"] for caption in rows[index]["generated"]] == ["generated"]
        over = np.flatnonzero(probabilities[index] >= 0.5).tolist()
        added = [tag["id"] for tag in merge(rows[index], rule=Threshold(0.5))["tags"] if tag["origin"] == "tagger"]
        assert set(added) == set(over) - {0}
    assert rows[1]["tagger_ids"] == rows[1]["generated"] == [] and merge(rows[1], rule=Threshold(0.5))["tags"] is None


def test_captions_can_be_switched_off(tiny_bundle):
    row = Generator(tiny_bundle, settings(captions=0), device="cpu")(numpy_batch([annotation()])).to_pylist()[0]
    assert row["generated"] == [] and len(row["tagger_ids"]) == 6


def test_several_captions_differ_and_do_not_depend_on_the_batch(tiny_bundle):
    drawn = {"captions": 3, "decoding": "nucleus", "top_p": 1.0, "max_caption_tokens": 6}
    generator = Generator(tiny_bundle, settings(**drawn, seed=4), device="cpu")
    batch = numpy_batch([annotation("s/1"), annotation("s/2"), annotation("s/3")])

    def texts(indices: list[int]) -> list[list[str]]:
        rows = generator({name: column[indices] for name, column in batch.items()}).to_pylist()
        return [[caption["text"] for caption in row["generated"]] for row in rows]

    together = texts([0, 1, 2])
    assert all(len(captions) == 3 for captions in together)
    assert len({text for captions in together for text in captions}) > 6
    assert [texts([index])[0] for index in range(3)] == together
    again = Generator(tiny_bundle, settings(**drawn, seed=5), device="cpu")(batch).to_pylist()
    assert [[caption["text"] for caption in row["generated"]] for row in again] != together


def test_the_words_of_a_generated_caption_become_tags(tmp_path):
    labels = LabelSystem([Label(0, "dog", "object"), Label(1, "beach", "object"), Label(2, "umbrella", "object")])
    labels.save(str(tmp_path / "labels.json"))
    rows = [
        scored(annotation("s/1"), captions=[("a dog under an umbrella", [])], scores={1: 0.9, 0: 0.8}),
        scored(annotation("s/2", reason="truncated", tags=None)),
    ]
    table = CaptionTags("en_ud_ewt", str(tmp_path / "labels.json"))(pa.Table.from_pylist(rows, schema=SCORES))
    assert table.schema.equals(SCORES)
    usable, rejected = table.to_pylist()
    assert usable["generated"][0]["tags"] == [0, 2] and usable["generated"][0]["sources"] == ["both", "both"]
    assert votes_of(usable) == {0: 1, 2: 1}
    assert origins(merge(usable, rule=Threshold(0.7))) == [(0, "parsed"), (2, "generated_caption"), (1, "tagger")]
    assert rejected["reason"] == "truncated" and rejected["generated"] == []


def test_each_image_is_scored_by_the_model_of_its_fold(tiny_bundle):
    keys = [f"s/{number}" for number in range(9)]
    batch = numpy_batch([annotation(key) for key in keys])
    no_captions = settings(captions=0)

    def make(bundle: str, score_settings: ScoreSettings) -> Generator:
        generator = Generator(tiny_bundle, score_settings, device="cpu")
        shift = float(bundle)
        with torch.no_grad():
            generator.predictor.model.recognition.fc.bias += shift
        return generator

    alone = [make(bundle, no_captions)(batch).to_pylist() for bundle in ("0", "2")]
    both = {row["key"]: row for row in ModelByFold(make, ["0", "2"], no_captions)(batch).to_pylist()}
    assert both.keys() == set(keys) and {fold_index(key, 2) for key in keys} == {0, 1}
    for index, key in enumerate(keys):
        assert both[key] == alone[fold_index(key, 2)][index] != alone[1 - fold_index(key, 2)][index]


def test_what_a_person_excludes_is_not_added():
    row = scored(annotation(absent=[5, 2]), captions=[("a red dog", [2])], scores={5: 0.9, 1: 0.8})
    merged = merge(row, rule=Threshold(0.7))
    assert origins(merged) == [(0, "parsed"), (1, "tagger")] and merged["absent"] == [5, 2]
