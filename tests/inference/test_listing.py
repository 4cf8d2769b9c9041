"""Contract: what is tagged is every image file and every image of a shard; other files are counted; the output's own
folder is passed over; only what the output does not have in this version is left."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest

from ram_ray.data.tagged_parts import read_done, tagged_schema, write_part
from ram_ray.inference.image_files import find_images
from ram_ray.inference.listing import (
    LISTED,
    Lister,
    find_work,
    is_image,
    leave_fresh,
)
from ram_ray.settings.data import DataConfig
from tests.serving.image_files import image_file


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    (folder / "2024").mkdir(parents=True)
    for name in ("0.jpg", "1.JPEG", "2024/0.png"):
        (folder / name).write_bytes(image_file(1))
    for name in ("notes.txt", "._0.jpg", "2024/Thumbs.db"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    return tmp_path


def listed(*data: Path, out: Path | None = None) -> pa.Table:
    work = find_work([str(path) for path in data], out=str(out) if out else None)
    lister = Lister(DataConfig())
    found = [row for item in work.items for row in lister({"work": json.dumps(item)})]
    return pa.Table.from_pylist(found, schema=LISTED)


def write_rows(table: pa.Table, out: Path, name: str) -> None:
    rows = table.select(["key", "uri", "member", "version"]).to_pylist()
    tagged = [{**row, "tags": [], "scores": []} for row in rows]
    write_part(pa.Table.from_pylist(tagged, schema=tagged_schema()), str(out), name)


def test_images_are_listed_and_other_files_counted(album: Path) -> None:
    work = find_work([str(album / "album")])
    assert [row["key"] for row in work.items[0]["rows"]] == ["album/0.jpg", "album/1.JPEG", "album/2024/0.png"]
    folder = str(album / "album")
    assert work.other_files == {(folder, ".txt"): 1, (folder, ".jpg"): 1, (f"{folder}/2024", ".db"): 1}
    assert [Path(path).name for path in find_images(folder)] == ["0.jpg", "1.JPEG", "0.png"]
    with pytest.raises(ValueError, match="no images"):
        find_images(str(album / "nowhere"))


def test_sidecars_are_counted_and_not_told(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(image_file())
    for name in ("a.jpg.xmp", "a.xmp", "a.txt", "b.xmp"):
        (tmp_path / name).write_text("x")
    for data in ([f"{tmp_path}"], [f"{tmp_path}/*"], [f"{tmp_path}", f"{tmp_path}/*"]):
        work = find_work(data)
        assert str(work.unread).startswith("1 file .xmp, such as") and "b.xmp" in str(work.unread)
        assert work.other_files.total() == 4


def test_sidecars_that_a_killed_call_began_are_removed(tmp_path: Path) -> None:
    """`write_text` writes another name first; a call that is killed there leaves it."""
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(image_file())
    (tmp_path / "\udce9.jpg").write_bytes(image_file())
    left = [f"{name}.{digit * 32}.part" for name, digit in (("a.jpg.xmp", "0"), ("\udce9.txt", "a"), ("b.txt", "b"))]
    others = ["c.jpg.xmp." + "0f" * 16 + ".part", "a.jpg.xmp.part", "a.jpg.xmp.old.part"]
    for name in [*left, *others]:
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (1, 1))
    os.utime(tmp_path / left[2])  # now: another call may be about to rename it
    work = find_work([str(tmp_path)])
    assert str(work.unread).startswith("3 files .part"), "only those of no image here are told"
    assert work.other_files == {(str(tmp_path), ".part"): 6}
    assert len(work.unfinished) == 2
    work.remove_unfinished()
    assert work.other_files == {(str(tmp_path), ".part"): 4}
    assert sorted(file.name for file in tmp_path.glob("*.part")) == sorted([left[2], *others])


def test_the_output_inside_the_data_is_passed_over(album: Path) -> None:
    out = album / "album" / "tagged"
    write_rows(listed(album / "album"), out, "part-1")
    assert len(listed(album / "album", out=out)) == 3
    assert not find_work([str(album / "album")], out=str(out)).has_shards


def test_only_new_and_changed_images_are_left(album: Path) -> None:
    out, folder = album / "out", album / "album"
    write_rows(listed(folder), out, "part-1")
    assert not len(leave_fresh(listed(folder), read_done(str(out))))
    assert not len(leave_fresh(listed(folder / "*.jpg"), read_done(str(out)))), "the same file by another spelling"
    (folder / "new.jpg").write_bytes(image_file(2))
    os.utime(folder / "0.jpg", (1, 1))  # of the same size
    fresh = leave_fresh(listed(folder), read_done(str(out)))
    assert dict(zip(fresh["key"].to_pylist(), fresh["stale"].to_pylist(), strict=True)) == {
        "album/0.jpg": True,
        "album/new.jpg": False,
    }


def test_a_key_belongs_to_one_file(album: Path) -> None:
    """Two folders of one name, named in two calls."""
    other = album / "b" / "album" / "0.jpg"
    other.parent.mkdir(parents=True)
    other.write_bytes(image_file(3))
    out = album / "out"
    write_rows(listed(album / "album"), out, "part-1")
    fresh = leave_fresh(listed(other.parent), read_done(str(out)))
    assert fresh["key"].to_pylist() == [str(other)] and fresh["stale"].to_pylist() == [False]
    write_rows(fresh, out, "part-2")
    assert not len(leave_fresh(listed(other.parent), read_done(str(out))))
    os.utime(other, (1, 1))
    again = leave_fresh(listed(other.parent), read_done(str(out)))
    assert again["key"].to_pylist() == [str(other)] and again["stale"].to_pylist() == [True]


def test_odd_names_and_links(album: Path) -> None:
    folder = album / "album"
    for name in ("a::b.jpg", "\udce9.jpg", "no ending"):
        (folder / name).write_bytes(image_file(1))
    (folder / "gone.jpg").symlink_to(album / "gone")
    (folder / "loop").symlink_to(folder)
    (album / "more").mkdir()
    (album / "more" / "2.jpg").write_bytes(image_file(2))
    (folder / "more").symlink_to(album / "more")
    table = listed(folder, folder / "*.jpg")
    errors = dict(zip(table["key"].to_pylist(), table["error"].to_pylist(), strict=True))
    names = ["0.jpg", "1.JPEG", "2024/0.png", "a::b.jpg", r"\xe9.jpg", "no ending", "more/2.jpg"]
    assert errors.pop("album/gone.jpg").startswith("bad_metadata: a link to ")
    assert errors == {f"album/{name}": "" for name in names}
    work = find_work([str(folder), str(folder / "*.*")])
    assert work.other_files.total() == 4 and "1 link not followed" in str(work.unread)
    assert "1 file .db, such as 'album/2024/Thumbs.db'" in str(work.unread), "a file that two patterns name is one"
    found = find_images(str(folder))
    assert len(found) == 7 and all(Path(path).is_file() for path in found)


def test_an_image_of_a_list_is_new_when_its_own_file_changes(album: Path) -> None:
    (album / "list.csv").write_text("file_name,caption\nalbum/0.jpg,a dog\nalbum/1.JPEG,a cat\n")
    out = album / "out"
    write_rows(listed(album / "list.csv"), out, "part-1")
    assert not len(leave_fresh(listed(album / "list.csv"), read_done(str(out))))
    os.utime(album / "album" / "0.jpg", (1, 1))
    fresh = leave_fresh(listed(album / "list.csv"), read_done(str(out)))
    assert fresh["uri"].to_pylist() == [str(album / "album" / "0.jpg")]
    assert fresh["stale"].to_pylist() == [True]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (image_file(1), True),
        (image_file(1, format="WEBP"), True),
        (image_file(1)[:10], True),
        (b"\0\0\0\x18ftypheic\0\0", True),
        (b"<!DOCTYPE html>", False),
        (b"", False),
    ],
)
def test_an_image_begins_like_one(data: bytes, expected: bool) -> None:
    assert is_image(data) is expected
