"""Contract: names become ids a caption, the union of a row's captions its tags, and counts are of captions."""

from __future__ import annotations

import pyarrow as pa

from ram_ray.config import LabelsConfig
from ram_ray.label_system import Label, LabelSystem
from ram_ray.labels.stages import ParseActor, _count_names, _count_parsed, to_annotations
from ram_ray.records import ANNOTATION, PARSED, SAMPLE, to_table

SYSTEM = LabelSystem(
    [
        Label(0, "dog", "object", synonyms=("hound",)),
        Label(1, "train", "object"),
        Label(2, "train", "action"),
        Label(3, "red", "attribute"),
    ]
)
PLACE = {"shard": "s", "uri": "s.tar", "offset": 512, "nbytes": 99, "width": 40, "height": 30}


def _row(key: str, captions: list[str], parsed: list[tuple[int, str, str]], **more) -> dict:
    tags = [{"caption": caption, "name": name, "kind": kind} for caption, name, kind in parsed]
    return {"key": key, **PLACE, "captions": captions, "parsed": tags, **more}


def test_names_become_ids_of_their_caption() -> None:
    rows = [
        _row(
            "s/1",
            ["a red dog", "a hound and a train", "nothing"],
            [
                (1, "hound", "object"), (0, "red", "attribute"), (0, "dog", "object"), (1, "train", "object"),
                (1, "dog", "object"), (1, "unicorn", "object"),
            ],
            labels=["dog"],
        ),
        _row("s/2", ["they train"], [(0, "train", "action"), (0, "train", "attribute")]),
        _row("s/3", ["x"], []),
    ]  # fmt: skip
    table = to_annotations(to_table(rows, PARSED), SYSTEM)
    assert table.schema == ANNOTATION
    first, second, third = table.to_pylist()
    assert [one["tags"] for one in first["captions"]] == [[3, 0], [0, 1], []]
    assert [(one["text"], one["origin"]) for one in first["captions"]] == [
        ("a red dog", "original"), ("a hound and a train", "original"), ("nothing", "original"),
    ]  # fmt: skip
    assert first["tags"] == [{"id": id, "origin": "parsed", "score": 1.0} for id in (3, 0, 1)]
    assert (first["labels"], second["labels"]) == (["dog"], None), "not labelled is not labelled with nothing"
    assert [one["id"] for one in second["tags"]] == [2], "the kind decides between names that look the same"
    assert third["tags"] == [] and third["removed"] == []
    for row in table.to_pylist():
        assert {name: row[name] for name in ("shard", "uri", "offset", "nbytes")} == {
            name: PLACE[name] for name in ("shard", "uri", "offset", "nbytes")
        }


def test_an_empty_block_keeps_its_columns() -> None:
    assert to_annotations(to_table([], PARSED), SYSTEM).schema == ANNOTATION
    counted = _count_names(to_table([], PARSED))
    assert counted.schema == pa.schema([("name", pa.string()), ("kind", pa.string()), ("count", pa.int64())])
    assert _count_parsed(to_table([], PARSED)) == {"rows": 0, "tags": 0}


def test_counts_are_of_captions_by_name_and_kind_and_pass_over_rejected_rows() -> None:
    rows = [
        _row("s/1", ["a", "b"], [(0, "dog", "object"), (1, "dog", "object"), (1, "train", "action")]),
        _row("s/2", ["c"], [(0, "train", "object"), (0, "dog", "object")]),
        _row("s/3", ["d"], [(0, "dog", "object")], reason="truncated", detail=""),
    ]
    table = to_table(rows, PARSED)
    counts = {(row["name"], row["kind"]): row["count"] for row in _count_names(table).to_pylist()}
    assert counts == {("dog", "object"): 3, ("train", "action"): 1, ("train", "object"): 1}
    assert _count_parsed(table.slice(0, 2)) == {"rows": 2, "tags": 4}, "tags are counted once a picture"


def test_the_actor_parses_every_caption_of_every_row() -> None:
    rows = [
        {"key": "s/1", **PLACE, "captions": ["A red dog is running on the beach.", "Two dogs."]},
        {"key": "s/2", **PLACE, "captions": []},
        {"key": "s/3", **PLACE, "captions": ["a dog and a dog"], "labels": []},
    ]
    table = ParseActor(LabelsConfig())(to_table(rows, SAMPLE))
    assert table.schema == PARSED
    first, second, third = table["parsed"].to_pylist()
    assert {"caption": 0, "name": "dog", "kind": "object"} in first
    assert {"caption": 1, "name": "dog", "kind": "object"} in first
    assert {"caption": 0, "name": "red", "kind": "attribute"} in first
    assert second == []
    assert third.count({"caption": 0, "name": "dog", "kind": "object"}) == 1, "once a caption"
    assert table["key"].to_pylist() == ["s/1", "s/2", "s/3"] and table["labels"].to_pylist() == [None, None, []]
