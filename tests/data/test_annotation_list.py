"""Contract: a JSON list of released annotations is read entry by entry; every entry becomes a row with its image,
captions and label ids, or is rejected with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ram_ray.config import RunConfig
from ram_ray.data import json_stream
from ram_ray.data.annotation_list import check_system, read_entries
from ram_ray.data.collect import SampleSettings
from ram_ray.data.hidden_captions import hide_captions
from ram_ray.data.shard_counts import count_captions, count_images
from ram_ray.data.shards import list_shards, scan_shard
from ram_ray.records import SAMPLE, to_table
from tests.data.defects import LIMITS, image_bytes

GOOD = {
    "image_path": "a/1.jpg",
    "caption": ["a dog", " ", "a ball"],
    "union_label_id": [0, 2, 1],
    "parse_label_id": [[0], [3], [2, 2]],
}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "a").mkdir(parents=True)
    for number in range(1, 5):
        (folder / "a" / f"{number}.jpg").write_bytes(image_bytes(number))
    (folder / "a" / "broken.jpg").write_bytes(b"no image")
    return folder


def _write(folder: Path, entries: list, *, end: int | None = None) -> str:
    path = folder / "coco_train.json"
    path.write_text(json.dumps(entries)[:end])
    return str(path)


def _scan(uri: str, images: Path | None = None) -> list[dict]:
    (shard,) = list_shards([uri], folders=0, images=str(images) if images else None)
    return list(scan_shard(shard, limits=LIMITS, check="header"))


def test_every_entry_is_a_row_or_has_its_reason(tmp_path: Path, images: Path) -> None:
    flat = {"image_path": "a/2.jpg", "caption": "a beach", "union_label_id": [1], "parse_label_id": [1]}
    bad = {
        "no path": {"caption": ["x"]},
        "no object": "text",
        "outside": {**GOOD, "image_path": "../images/a/1.jpg"},
        "absolute": {**GOOD, "image_path": str(tmp_path / "1.jpg")},
        "not there": {**GOOD, "image_path": "a/9.jpg"},
        "no id": {**GOOD, "image_path": "a/3.jpg", "union_label_id": [True]},
        "negative id": {**GOOD, "image_path": "a/3.jpg", "parse_label_id": [[-1]]},
        "too many lists": {**GOOD, "image_path": "a/3.jpg", "caption": ["x"], "parse_label_id": [[1], [2]]},
    }
    others = [({**GOOD, "image_path": "a/broken.jpg"}, "undecodable"), (GOOD, "duplicate_key")]
    others += [({"image_path": "a/3.jpg", "caption": []}, "no_caption"), ({**GOOD, "image_path": "a/4.jpg"}, None)]
    entries = [GOOD, flat, *bad.values(), *(entry for entry, _ in others)]
    rows = _scan(_write(tmp_path, entries), images)
    reasons = [None, None, *["bad_metadata"] * len(bad), *(reason for _, reason in others)]
    assert [row["reason"] for row in rows] == reasons and len({row["key"] for row in rows}) == len(entries)
    assert to_table(rows, SAMPLE).num_rows == len(rows) and all(row["detail"] for row in rows if row["reason"])
    first, second, *_ = rows
    assert (first["key"], first["shard"]) == ("coco_train/a/1.jpg", "coco_train")
    assert (first["uri"], first["offset"], first["nbytes"]) == (str(images / "a/1.jpg"), 0, len(image_bytes(1)))
    assert first["captions"] == ["a dog", "a ball"] and first["labels"] is None
    assert first["given_tags"] == [
        {"id": 0, "caption": 0},
        {"id": 2, "caption": 1},
        {"id": 1, "caption": None},
    ], "the empty caption is left out with its ids"
    assert second["captions"] == ["a beach"] and second["given_tags"] == [{"id": 1, "caption": 0}]


def test_images_lie_beside_the_list_if_no_folder_is_named(images: Path) -> None:
    (row,) = _scan(_write(images, [{"image": "a/1.jpg", "caption": "a dog"}]))
    assert row["reason"] is None and row["uri"] == str(images / "a/1.jpg") and row["given_tags"] is None


def test_a_list_that_ends_early_is_one_broken_row(tmp_path: Path, images: Path) -> None:
    entries = [{**GOOD, "image_path": f"a/{number}.jpg"} for number in (1, 2)]
    rows = _scan(_write(tmp_path, entries, end=-10), images)
    assert [row["reason"] for row in rows] == [None, "broken_archive"] and "ends early" in rows[1]["detail"]


def test_only_a_list_that_is_named_is_a_shard(tmp_path: Path, images: Path) -> None:
    uri = _write(tmp_path, [GOOD])
    for pattern in (f"{tmp_path}/*", str(tmp_path)):
        assert {shard.format for shard in list_shards([pattern])} == {"folder"}, "its images alone"
    (shard,) = list_shards([f"{tmp_path}/*.json"], images=str(images))
    assert (shard.uri, shard.format, shard.name) == (uri, "json", f"{tmp_path.name}/coco_train")
    assert count_images([shard], enough=9) == 1 and count_captions([shard], enough=9) == 2


def test_label_ids_need_the_list_of_their_names(tmp_path: Path, images: Path) -> None:
    uri = _write(tmp_path, [GOOD])
    for system, named in ((None, False), ("ram_tag_list.txt", True)):
        config = RunConfig.model_validate({"data": {"images": str(images)}, "labels": {"system": system}})
        if named:
            assert SampleSettings.from_config(config, uris=[uri]).images == str(images)
            continue
        with pytest.raises(ValueError, match=r"coco_train.json has label ids: set labels.system"):
            SampleSettings.from_config(config, uris=[uri])
    check_system(_write(tmp_path, [{"image_path": "a.jpg", "caption": "a dog"}]), None)
    for entries in ([{"file_name": "a.jpg"}], ["text"], []):
        with pytest.raises(ValueError, match="name no image"):
            check_system(_write(tmp_path, entries), None)


def test_a_run_that_hides_captions_has_no_tags_of_all_captions(tmp_path: Path, images: Path) -> None:
    (row,) = _scan(_write(tmp_path, [GOOD]), images)
    assert hide_captions(row, num_shown=1, seed=0)["given_tags"] is None


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("read", [1, 7, 100])
def test_a_list_is_read_in_parts_of_any_size(tmp_path: Path, monkeypatch, indent: int | None, read: int) -> None:
    entries = [GOOD, 12, "a, ] text", [], {}, 3.5, None, True]
    path = tmp_path / "list.json"
    path.write_text(json.dumps(entries, indent=indent))
    monkeypatch.setattr(json_stream, "_READ", read)
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
