"""Contract: the names of each caption become ids with their source, parsed or matched; the tags of a row are the union
over its captions; counts are captions of each source; evidence does not depend on how rows are divided into blocks."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ram_ray.captions.tables import load_lemmas
from ram_ray.config import RunConfig
from ram_ray.data.sources import source_of
from ram_ray.label_system import Label, LabelSystem
from ram_ray.labels.annotations import Labeller, LabelSettings, make_finder, to_annotations
from ram_ray.labels.counts import (
    ANY_NAME,
    NAME_COUNTS,
    NAMED_NUMBERS,
    RARE,
    add_part,
    count_block,
    count_captions,
    count_names,
    sum_names,
)
from ram_ray.labels.evidence import EVIDENCE, Evidence, add_evidence, ambiguous_names, find_evidence
from ram_ray.labels.match import Matcher
from ram_ray.labels.options import LabelSystemSettings
from ram_ray.labels.parse_stage import CaptionReader, ParseSettings, _count_parsed
from ram_ray.labels.stages import _encode_names, mark_ambiguous
from ram_ray.records import ANNOTATION, PARSED, SAMPLE, to_table
from ram_ray.results import DualEncoderResult
from ram_ray.settings.labels import LabelsConfig
from ram_ray.settings.runtime import ResourcesConfig

SYSTEM = LabelSystem(
    [
        Label(0, "dog", "object", synonyms=("hound",)),
        Label(1, "train", "object"),
        Label(2, "train", "action"),
        Label(3, "red", "attribute"),
    ]
)
LOCATION = {"shard": "s", "uri": "a/s.tar", "offset": 512, "nbytes": 99, "width": 40, "height": 30}
BY_PARSE = make_finder(SYSTEM, LabelSettings(match=False, max_caption_chars=1000))
BY_BOTH = LabelSettings(match=True, max_caption_chars=1000)
PARSE = ParseSettings.from_config(RunConfig())


def _row(key: str, captions: list[str], parsed: list[tuple[int, str, str]], **more) -> dict:
    tags = [{"caption": caption, "name": name, "kind": kind} for caption, name, kind in parsed]
    return {"key": key, **LOCATION, "captions": captions, "parsed": tags, **more}


def test_names_become_ids_of_their_caption() -> None:
    rows = [
        _row(
            "s/1",
            ["a red dog", "a hound and a train", "nothing"],
            [
                (1, "hound", "object"), (0, "red", "attribute"), (0, "dog", "object"), (1, "train", "object"),
                (1, "dog", "object"), (1, "unicorn", "object"),
            ],
            labels=["dog", "ufo", "hound", "ufo"],
        ),
        _row("s/2", ["they train"], [(0, "train", "action"), (0, "train", "attribute")]),
        _row("s/3", ["x"], []),
    ]  # fmt: skip
    table = to_annotations(to_table(rows, PARSED), BY_PARSE, SYSTEM)
    assert table.schema == ANNOTATION
    first, second, third = table.to_pylist()
    assert [caption["tags"] for caption in first["captions"]] == [[3, 0], [0, 1], []]
    assert [caption["sources"] for caption in first["captions"]] == [["parsed"] * 2, ["parsed"] * 2, []]
    assert [(caption["text"], caption["origin"]) for caption in first["captions"]] == [
        ("a red dog", "original"), ("a hound and a train", "original"), ("nothing", "original"),
    ]  # fmt: skip
    assert first["tags"] == [{"id": id, "origin": "parsed", "score": 1.0} for id in (3, 0, 1)]
    assert (first["truth"], second["truth"]) == ([0], None), "null (not labelled) differs from an empty list"
    assert (first["unknown_labels"], second["unknown_labels"]) == (["ufo", "ufo"], [])
    assert [tag["id"] for tag in second["tags"]] == [2], "the kind decides between labels with the same name"
    assert third["tags"] == [] and third["removed"] == []
    for row in table.to_pylist():
        assert {name: row[name] for name in ("shard", "uri", "offset", "nbytes")} == {
            name: LOCATION[name] for name in ("shard", "uri", "offset", "nbytes")
        }


def test_both_sources_are_recorded() -> None:
    rows = [_row("s/1", ["a dog", "a hound trains, all red"], [(0, "dog", "object"), (1, "train", "action")])]
    (row,) = Labeller(SYSTEM, BY_BOTH)(to_table(rows, PARSED)).to_pylist()
    assert [caption["tags"] for caption in row["captions"]] == [[0], [2, 0, 3]]
    assert [caption["sources"] for caption in row["captions"]] == [["both"], ["parsed", "matched", "matched"]]
    assert [(tag["id"], tag["origin"]) for tag in row["tags"]] == [(0, "parsed"), (2, "parsed"), (3, "matched")]


def test_a_rejected_caption_is_not_matched() -> None:
    row = _row(
        "s/1", ["una red", "a dog"], [(1, "dog", "object")], rejected_captions=[{"caption": 0, "reason": "not_english"}]
    )
    table = to_table([row], PARSED)
    (annotation,) = Labeller(SYSTEM, BY_BOTH)(table).to_pylist()
    assert [caption["tags"] for caption in annotation["captions"]] == [[], [0]]
    assert annotation["captions"][0]["text"] == "una red"
    evidence = find_evidence(table, SYSTEM, Matcher(SYSTEM, load_lemmas(), include_ambiguous=True)).to_pylist()
    assert {row["name"] for row in evidence} == {"dog", None}
    assert _count_parsed(table) == {"rows": 1, "tags": 1, "captions": 2, "rejected_captions/not_english": 1}


def test_an_empty_block_has_all_columns() -> None:
    assert to_annotations(to_table([], PARSED), BY_PARSE, SYSTEM).schema == ANNOTATION
    assert count_names(to_table([], PARSED)).schema == count_captions(to_table([], PARSED)).schema == NAME_COUNTS
    assert find_evidence(to_table([], PARSED), SYSTEM, Matcher(SYSTEM, load_lemmas())).schema == EVIDENCE
    assert _count_parsed(to_table([], PARSED)) == {"rows": 0, "tags": 0, "captions": 0}


def _rows() -> list[dict]:
    return [
        _row("s/1", ["a", "b"], [(0, "dog", "object"), (1, "dog", "object"), (1, "train", "action"),
                                 (1, "train", "action")]),
        _row("s/2", ["c"], [(0, "train", "object"), (0, "dog", "object")]),
        {**_row("t-0001/1", ["c"], [(0, "dog", "object")]), "shard": "t-0001"},
        _row("s/3", ["d"], [(0, "dog", "object")], reason="truncated", detail=""),
    ]  # fmt: skip


def test_counts_are_captions_by_name_kind_and_source_without_rejected_rows() -> None:
    table = to_table(_rows(), PARSED)
    counts = {(row["name"], row["kind"], row["source"]): row["count"] for row in count_names(table).to_pylist()}
    assert counts == {
        ("dog", "object", "s"): 3, ("train", "action", "s"): 1, ("train", "object", "s"): 1, ("dog", "object", "t"): 1,
    }  # fmt: skip
    parts = [count_names(table.slice(index, 1)) for index in range(4)]
    assert pa.concat_tables(parts)["count"].to_pylist() and sum(len(part) for part in parts) == 5
    captions = count_captions(table).to_pylist()
    assert {(row["name"], row["kind"]) for row in captions} == {ANY_NAME}
    assert {row["source"]: row["count"] for row in captions} == {"s": 3, "t": 1}
    counts = {"rows": 2, "tags": 4, "captions": 3}
    assert _count_parsed(table.slice(0, 2)) == counts, "a tag counts once for each image"


def test_the_rows_of_a_name_meet_and_rare_names_are_left_out_and_counted() -> None:
    rows = to_table(_rows(), PARSED)
    parts = [add_part(count_block(rows.slice(index, 1), with_capitals=False), parts=3) for index in range(4)]
    table = pa.concat_tables(parts)
    of_name = {name: set(table.filter(pc.equal(table["name"], name))["part"].to_pylist()) for name in ("dog", "train")}
    assert all(len(numbers) == 1 and numbers <= {0, 1, 2} for numbers in of_name.values())

    def sums(min_count: int, *kept: str) -> dict[tuple[str, str, str], tuple[int, int]]:
        summed = sum_names(table, min_count=min_count, kept=kept)
        assert summed.schema == NAMED_NUMBERS
        return {(row["name"], row["kind"], row["source"]): (row["count"], row["inside"]) for row in summed.to_pylist()}

    captions = {(*ANY_NAME, "s"): (3, 0), (*ANY_NAME, "t"): (1, 0)}
    dogs = {("dog", "object", "s"): (3, 0), ("dog", "object", "t"): (1, 0)}
    trains = {("train", "action", "s"): (1, 0), ("train", "object", "s"): (1, 0)}
    assert sums(1) == sums(4, "train", "car") == {**captions, **dogs, **trains}
    assert sums(2) == {**captions, **dogs, **trains}, "one caption names it as an action, one as an object"
    empty = add_part(count_block(rows.slice(0, 0), with_capitals=False), parts=3)
    assert empty.schema == table.schema and len(sum_names(empty, min_count=4)) == 0
    assert sums(4) == {**captions, **dogs, (*RARE, "s"): (2, 2)}, "a name of two kinds, and a mention of each"


@pytest.mark.parametrize(
    ("shard", "source"),
    [
        ("photos/train-00003", "photos/train"),
        ("cc3m/00003", "cc3m"),
        ("coco2017/00003", "coco2017"),
        ("laion/part-00002/00003", "laion/part"),
        ("x/album", "x/album"),
        ("captions", "captions"),
        ("7", "7"),
    ],
)
def test_the_source_of_a_shard(shard: str, source: str) -> None:
    assert source_of(shard) == source


def test_evidence_adds_up_and_finds_ambiguous_words() -> None:
    rows = [_row(f"s/{index}", [f"the dog number {index}"], [(0, "dog", "object")]) for index in range(9)]
    rows += [_row(f"s/r{index}", [f"red group {index}"], []) for index in range(6)]
    rows += [_row("s/x", ["a dog"], [], reason="truncated")]
    table = to_table(rows, PARSED)
    matcher = Matcher(SYSTEM, load_lemmas(), include_ambiguous=True)

    def evidence(*sizes: int) -> dict[int, Evidence]:
        parts, start = [], 0
        for size in sizes:
            parts.append(find_evidence(table.slice(start, size), SYSTEM, matcher))
            start += size
        label_evidence = {}
        blocks = pa.concat_tables(parts)
        for id in (0, 3):
            label_rows = blocks.filter(pa.array([row_id == id for row_id in blocks["id"].to_pylist()]))
            rows = add_evidence(label_rows).to_pylist()
            names = {row["name"]: (row["matched"], row["agreed"]) for row in rows if row["name"]}
            label_evidence[id] = Evidence(names, [row["example"] for row in rows if row["example"]])
        return label_evidence

    whole = evidence(16)
    assert whole == evidence(5, 3, 8)
    assert whole[0].names == {"dog": (9, 9)} and len(whole[0].examples) == 3 and whole[3].names == {"red": (6, 0)}
    system = mark_ambiguous(SYSTEM, whole, agreement=0.75)
    assert system[3].ambiguous == ("red",) and system[0].ambiguous == () and system.version == SYSTEM.version
    assert [match.id for match in Matcher(system, load_lemmas()).find("a red dog")] == [0]


def test_verbs_and_adjectives_need_a_larger_agreement_than_nouns() -> None:
    evidence = Evidence({"dog": (10, 8), "a dog": (10, 0), "rare": (4, 0)}, [])
    assert ambiguous_names(evidence, "object", agreement=0.75) == ()
    assert ambiguous_names(evidence, "action", agreement=0.75) == ("a dog", "dog")


def test_the_reader_parses_every_caption_of_every_row() -> None:
    rows = [
        {"key": "s/1", **LOCATION, "captions": ["A red dog is running on the beach.", "Two dogs."]},
        {"key": "s/2", **LOCATION, "captions": []},
        {"key": "s/3", **LOCATION, "captions": ["a dog and a dog"], "labels": []},
    ]
    table = CaptionReader(PARSE)(to_table(rows, SAMPLE))
    assert table.schema == PARSED
    first, second, third = table["parsed"].to_pylist()
    assert {"caption": 0, "name": "dog", "kind": "object"} in first
    assert {"caption": 1, "name": "dog", "kind": "object"} in first
    assert {"caption": 0, "name": "red", "kind": "attribute"} in first
    assert second == []
    assert third.count({"caption": 0, "name": "dog", "kind": "object"}) == 1, "a name counts once for each caption"
    assert table["key"].to_pylist() == ["s/1", "s/2", "s/3"] and table["labels"].to_pylist() == [None, None, []]


def test_names_are_encoded_by_the_encoder_of_the_run(ray_cluster: None, tiny_bundle: str) -> None:
    source = f"{tiny_bundle}/../teacher"
    encoder = DualEncoderResult(stage="represent", digest="0", path="", seconds=0, source=source, revision=None)
    config = RunConfig(labels=LabelsConfig(embeddings="represent"), resources=ResourcesConfig(task_cpus=0.5))
    settings = LabelSystemSettings.from_config(config, run_uri=None)
    counts = {("dog", "object"): {"s": 9}, ("beach", "scene"): {"s": 9}, ("rare", "object"): {"s": 1}}
    vectors = _encode_names(counts, settings, encoder, execution=config.execution)
    assert vectors.keys() == {"dog", "beach"} and vectors["dog"].shape == (16,)
    assert np.linalg.norm(vectors["dog"]) == pytest.approx(1, abs=1e-4)
