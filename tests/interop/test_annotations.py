"""Contract: the released annotations are read entry by entry and become ANNOTATION rows with the origin of each tag.
Every entry becomes a row or is rejected with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import ram_ray.interop.annotations as released
from ram_ray.interop.annotations import import_annotations, read_entries
from ram_ray.label_system import Label, LabelSystem
from ram_ray.records import ANNOTATION, REJECTED, conform

SYSTEM = LabelSystem(Label(id, name, "object") for id, name in enumerate(["dog", "beach", "ball"]))
GOOD = {
    "image_path": "a/1.jpg",
    "caption": ["a dog", "a ball"],
    "union_label_id": [0, 2, 1],
    "parse_label_id": [[0], [2]],
}


def _write(folder: Path, entries: list) -> str:
    path = folder / "coco_train.json"
    path.write_text(json.dumps(entries))
    return str(path)


def test_entries_become_annotations_or_rejected_rows(tmp_path: Path) -> None:
    bad = [
        {"caption": ["no path"]},
        {**GOOD, "image_path": "a/2.jpg", "union_label_id": [3]},
        {**GOOD, "image_path": "a/3.jpg", "union_label_id": [True]},
        {**GOOD, "image_path": "a/4.jpg", "parse_label_id": [[0], [1], [2]]},
        {"image_path": "a/5.jpg"},
        GOOD,
        "text",
    ]
    flat = {"image_path": "a/6.jpg", "caption": "a beach", "union_label_id": [1], "parse_label_id": [1]}
    counts = import_annotations(_write(tmp_path, [GOOD, *bad, flat]), SYSTEM, str(tmp_path / "out"))
    assert counts == {"rows_in": 9, "rows_out": 2, "rejected": 7, "tags": 4}
    (part,) = (tmp_path / "out" / "annotations" / "shard=coco_train").glob("*.parquet")
    table = pq.read_table(part, partitioning=None)
    first, second = table.to_pylist()
    assert [(tag["id"], tag["origin"]) for tag in first["tags"]] == [(0, "parsed"), (2, "parsed"), (1, "tagger")]
    assert [caption["tags"] for caption in first["captions"]] == [[0], [2]] and second["captions"][0][
        "text"
    ] == "a beach"
    assert set(table.column_names) == set(ANNOTATION.names) - {"shard"}
    (part,) = (tmp_path / "out" / "rejected").glob("*.parquet")
    rejected = conform(pq.read_table(part), REJECTED).to_pylist()
    assert [row["reason"] for row in rejected].count("duplicate_key") == 1 and len(rejected) == 7
    assert len({row["key"] for row in rejected}) == 7
    assert LabelSystem.load(str(tmp_path / "out" / "label_system.json")).version == SYSTEM.version
    with pytest.raises(ValueError, match="new folder"):
        import_annotations(_write(tmp_path, [GOOD]), SYSTEM, str(tmp_path / "out"))


def test_an_interrupted_import_starts_again(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(json.dumps([GOOD] + [{}] * 12_000)[:-1])
    with pytest.raises(ValueError, match="ends early"):
        import_annotations(str(tmp_path / "bad.json"), SYSTEM, str(tmp_path / "out"))
    assert list((tmp_path / "out").rglob("*.parquet"))
    counts = import_annotations(_write(tmp_path, [GOOD]), SYSTEM, str(tmp_path / "out"))
    assert counts["rows_in"] == 1 and len(list((tmp_path / "out").rglob("*.parquet"))) == 1
    assert not (tmp_path / "out" / "unfinished.txt").exists()


def test_images_must_exist_in_their_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(b"12345")
    entries = [GOOD, {**GOOD, "image_path": "a/gone.jpg"}, {**GOOD, "image_path": "../a/1.jpg"}]
    counts = import_annotations(_write(tmp_path, entries), SYSTEM, str(tmp_path / "out"), images=str(tmp_path))
    assert (counts["rows_out"], counts["rejected"]) == (1, 2)
    (part,) = (tmp_path / "out" / "annotations").rglob("*.parquet")
    (row,) = pq.read_table(part, partitioning=None).to_pylist()
    assert (row["uri"], row["offset"], row["nbytes"]) == (str(tmp_path / "a" / "1.jpg"), 0, 5)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("read", [1, 7, 100])
def test_a_list_is_read_in_parts_of_any_size(tmp_path: Path, monkeypatch, indent: int | None, read: int) -> None:
    entries = [GOOD, 12, "a, ] text", [], {}, 3.5, None, True]
    path = tmp_path / "list.json"
    path.write_text(json.dumps(entries, indent=indent))
    monkeypatch.setattr(released, "_READ", read)
    assert list(read_entries(str(path))) == entries


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "ends early"), ('{"a": 1}', "not a JSON list"), ('[{"a": 1}, {"a"', "ends early"),
        ("[1, nonsense]", "not JSON"), ("[1 2]", "not JSON"),
        ("[" * 200_000, "cannot be read|ends early"), ('["' + "x" * 1_200_000 + '"]', "cannot be read"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_a_list_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        list(read_entries(str(tmp_path / "bad.json")))
