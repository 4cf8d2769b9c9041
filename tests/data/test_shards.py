"""Contract: reading shards loses nothing in silence.

Every image and every defect is a row with a key of its own; a defect has its right reason, and what is whole arrives,
whatever lies beside it; a row's location gives the identical bytes; memory does not grow with what the archive holds.
"""

from __future__ import annotations

import io
import json
import tarfile
import tracemalloc
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ram_ray.data.images import Limits, read_bytes
from ram_ray.data.shards import Shard, list_shards, scan_shard, shard_matches, shard_name
from ram_ray.records import SAMPLE, to_table
from tests.data.defects import LIMITS, NUM_DEFECTS, Planted, image_bytes, plant, sample, write_tar

PHOTOS = Path(__file__).resolve().parents[2] / "../shared/data/photos"


def scan(*uris: object, check: str = "decode", limits: Limits = LIMITS) -> list[dict]:
    shards = list_shards([str(uri) for uri in uris], folders=0)  # the folders are pytest's
    return [row for shard in shards for row in scan_shard(shard, limits=limits, check=check)]


def outcome(rows: list[dict]) -> dict[str, str | None]:
    return {row["key"]: row["reason"] for row in rows}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return plant(tmp_path_factory.mktemp("planted"))


@pytest.mark.parametrize("check", ["decode", "header"])
def test_every_planted_defect_is_one_row_and_every_good_row_arrives(planted: Planted, check: str) -> None:
    rows = scan(*planted.uris, check=check)
    seen = [defect for defect in planted.defects if check == "decode" or defect.header]
    unseen = {defect.key for defect in planted.defects if check == "header" and not defect.header}
    rejected = {row["key"]: row["reason"] for row in rows if row["reason"]}
    assert rejected == {defect.key: defect.reason for defect in seen}
    assert Counter(rejected.values()) == Counter(defect.reason for defect in seen)
    assert {row["key"] for row in rows if not row["reason"]} == planted.good | unseen
    assert len({row["key"] for row in rows}) == len(rows) == len(planted.good) + NUM_DEFECTS
    assert check == "header" or len(rejected) == NUM_DEFECTS
    assert to_table(rows, SAMPLE).num_rows == len(rows)  # types and Unicode hold
    assert all(row["detail"] for row in rows if row["reason"])


def test_good_rows_can_be_read_back_from_their_locations(planted: Planted) -> None:
    rows = [row for row in scan(*planted.uris) if not row["reason"]][::-1]
    contents = read_bytes(
        [row["uri"] for row in rows], [row["offset"] for row in rows], [row["nbytes"] for row in rows]
    )
    for row, data in zip(rows, contents, strict=True):
        assert isinstance(data, bytes) and len(data) == row["nbytes"], row["key"]
    images = {row["key"]: data for row, data in zip(rows, contents, strict=True)}
    assert images["table/row-4"] == image_bytes(505)
    assert images["album/deep/3.png"] == image_bytes(603, "PNG")
    assert images["web/good-002"] == image_bytes(102)


def test_byte_ranges_equal_tarfile_in_every_tar_dialect(tmp_path: Path) -> None:
    long = "deep/" + "x" * 150 + "/\u00e9t\u00e9"
    for name, dialect in (("pax", tarfile.PAX_FORMAT), ("gnu", tarfile.GNU_FORMAT), ("ustar", tarfile.USTAR_FORMAT)):
        keys = ["./a", "v1.2/b", *([long] if name != "ustar" else [])]
        members = [member for seed, key in enumerate(keys) for member in sample(key, seed)]
        infos = write_tar(tmp_path / f"{name}.tar", members, format=dialect)
        rows = scan(tmp_path / f"{name}.tar")
        assert [row["key"] for row in rows] == [f"{name}/{key.removeprefix('./')}" for key in keys]
        for key, row in zip(keys, rows, strict=True):
            info = infos[f"{key}.jpg"]
            assert (row["reason"], row["offset"], row["nbytes"]) == (None, info.offset_data, info.size)


def test_texts_are_joined_from_txt_and_json_without_duplicates(tmp_path: Path) -> None:
    tree = {"caption": "a dog", "captions": ["two  dogs", "a dog", ""], "labels": ["dog"], "url": "x"}
    members = [*sample("a", 1, text=" a cat\n"), ("a.json", json.dumps(tree).encode()), ("a.cls", b"3")]
    members += [("b.jpg", image_bytes(2)), ("b.json", b'{"captions": [], "labels": ["cat"]}')]
    write_tar(tmp_path / "s.tar", members)
    first, second, third = scan(tmp_path / "s.tar")
    assert (third["key"], third["reason"]) == ("s/#unread-.cls", "unsupported_format")
    assert first["captions"] == ["a cat", "a dog", "two dogs"] and first["labels"] == ["dog"]
    assert (first["width"], first["height"]) == (72, 56)
    assert second["reason"] is None and second["labels"] == ["cat"], "labels alone are something to learn from"


def test_members_of_a_sample_may_lie_apart(tmp_path: Path) -> None:
    apart = [sample(f"k{index}", index) for index in range(5)]
    write_tar(tmp_path / "s.tar", [members[0] for members in apart] + [members[1] for members in reversed(apart)])
    assert outcome(scan(tmp_path / "s.tar")) == {f"s/k{index}": None for index in range(5)}


def test_odd_members_are_passed_over_or_named(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as tar:
        for kind, name in ((tarfile.DIRTYPE, "d"), (tarfile.SYMTYPE, "link.jpg"), (tarfile.CHRTYPE, "null.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        for name, data in [("README", b"hello"), ("._a.jpg", b"x"), *sample("a", 1), ("photo.v2.jpg", image_bytes(2))]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    rows = {row["key"]: row for row in scan(path)}
    endings = ("#lost-link", "#unread-._*", "#unread-no-ending")
    expected = {"s/a": None, "s/photo": "bad_metadata", **{f"s/{ending}": "unsupported_format" for ending in endings}}
    assert {key: row["reason"] for key, row in rows.items()} == expected
    assert rows["s/#lost-link"]["detail"] == "2 links not followed, such as 'null.jpg'"


def test_names_that_are_no_unicode_become_valid_keys(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", sample("caf\udce9", 1), encoding="utf-8", format=tarfile.GNU_FORMAT)
    (row,) = scan(tmp_path / "s.tar")
    assert row["key"] == "s/caf\\xe9" and row["reason"] is None


def test_archives_one_after_the_other_are_all_read(tmp_path: Path) -> None:
    for name in "ab":
        write_tar(tmp_path / f"{name}.tar", sample(name, 1))
    (tmp_path / "c.tar").write_bytes((tmp_path / "a.tar").read_bytes() + (tmp_path / "b.tar").read_bytes())
    assert outcome(scan(tmp_path / "c.tar")) == {"c/a": None, "c/b": None}


@pytest.mark.parametrize("cut", range(0, 14))
def test_a_tar_cut_anywhere_gives_one_broken_row_and_all_that_is_whole(tmp_path: Path, cut: int) -> None:
    infos = write_tar(tmp_path / "s.tar", [member for seed in range(3) for member in sample(f"k{seed}", seed)])
    data = (tmp_path / "s.tar").read_bytes()
    end = infos["k2.txt"].offset_data + 512
    length = end * (cut + 1) // 15 if cut < 13 else end  # the last: a clean cut before the end marker
    (tmp_path / "s.tar").write_bytes(data[:length])
    rows = scan(tmp_path / "s.tar")
    whole = [
        f"s/k{index}"
        for index in range(3)
        if infos[f"k{index}.txt"].offset_data + infos[f"k{index}.txt"].size <= length
    ]
    assert [row["key"] for row in rows if not row["reason"]] == whole
    assert [row["reason"] for row in rows if row["reason"]] == ["broken_archive"]


def test_extension_headers_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for key in "abc":
            for name, data in sample(key, 1):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                if name == "b.jpg":
                    info.pax_headers = {"comment": "x" * (2 << 20)}
                tar.addfile(info, io.BytesIO(data))
    assert Counter(outcome(scan(path)).values()) == {None: 3, "broken_archive": 1}


def test_a_big_member_and_a_big_text_are_never_held(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    big = 2 << 30
    with path.open("wb") as file:
        for name in ("big.jpg", "big.json"):
            info = tarfile.TarInfo(name)
            info.size = big
            file.write(info.tobuf())
            file.seek(big, 1)  # a hole: takes no disk
        info = tarfile.TarInfo("big.txt")
        file.write(info.tobuf() + bytes(1024))
    write_tar(tmp_path / "a.tar", sample("a", 1))
    with path.open("ab") as file:
        file.write((tmp_path / "a.tar").read_bytes())
    tracemalloc.start()
    rows = scan(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows[0]["key"] == "s/big" and rows[0]["reason"] == "too_large" and rows[0]["nbytes"] == big
    assert outcome(rows)["s/a"] is None, "what comes after it is read"
    assert peak < 30 << 20, f"{peak >> 20} MiB"


def test_parquet_as_hugging_face_writes_it(tmp_path: Path) -> None:
    images = [{"bytes": image_bytes(seed), "path": f"{seed}.jpg"} for seed in range(5)]
    captions = [["cat", "dog"], ["fish"], [], None, ["cat", "cat"]]
    table = pa.table({"image": images, "captions": pa.array(captions, pa.list_(pa.string()))})
    pq.write_table(table, tmp_path / "hf.parquet", row_group_size=2)
    rows = scan(tmp_path / "hf.parquet")
    assert [row["reason"] for row in rows] == [None, None, "no_caption", "no_caption", None]
    assert [row["offset"] for row in rows] == [0, 1, 2, 3, 4] and rows[4]["captions"] == ["cat", "cat"]
    assert rows[0]["key"] == "hf/0"
    wanted = [4, 0, 3]
    contents = read_bytes([rows[0]["uri"]] * 3, wanted, [rows[index]["nbytes"] for index in wanted])
    assert contents == [image_bytes(index) for index in wanted]


def test_a_parquet_file_that_is_none_or_holds_no_images(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing here")
    assert outcome(scan(tmp_path / "a.parquet")) == {"a/#broken-0": "broken_archive"}
    pq.write_table(pa.table({"url": ["u"], "caption": ["c"]}), tmp_path / "b.parquet")
    (row,) = scan(tmp_path / "b.parquet")
    assert row["reason"] == "bad_metadata" and "no column of image bytes among url: string, caption" in row["detail"]
    assert "img2dataset" in row["detail"]


def test_a_folder_keeps_its_readers_inside(tmp_path: Path) -> None:
    (tmp_path / "out.jpg").write_bytes(image_bytes(1))
    root = tmp_path / "album"
    (root / "in").mkdir(parents=True)
    (root / "in/a.jpg").write_bytes(image_bytes(1))
    names = ["../out.jpg", str(tmp_path / "out.jpg"), "in/../../out.jpg", "in", 7, "x\0y", "in/a.jpg", "./in//a.jpg"]
    lines = [json.dumps({"file_name": name, "caption": "a dog"}) for name in names]
    (root / "captions.jsonl").write_text("\n".join([*lines, "x" * (5 << 20), ""]))
    reasons = [row["reason"] for row in scan(root)]
    assert reasons == [*["bad_metadata"] * 6, None, "duplicate_key", "bad_metadata"]


def test_listing_finds_names_and_tells_kinds_apart(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        write_tar(tmp_path / folder / "0.tar", sample("a", 1))
    write_tar(tmp_path / "first/1.tar", sample("a", 1))
    (tmp_path / "first/1.parquet").write_bytes(b"")  # img2dataset's table beside its tar
    (tmp_path / "first/1_stats.json").write_bytes(b"{}")
    (tmp_path / "album").mkdir()
    (tmp_path / "album/captions.jsonl").write_bytes(b"")
    shards = list_shards(
        [f"{tmp_path}/first", f"file://{tmp_path}/second/*.tar", f"{tmp_path}/first/1*", f"{tmp_path}/al*"]
    )
    assert [(shard.format, Path(shard.uri).relative_to(tmp_path).as_posix()) for shard in shards] == [
        ("folder", "album"),
        ("tar", "first/0.tar"),
        ("tar", "first/1.tar"),
        ("tar", "second/0.tar"),
    ]
    assert [shard.name for shard in shards] == [f"{tmp_path.name}/album", "first/0", "first/1", "second/0"]
    assert shards == list_shards([f"{tmp_path}/*"]), "names and order do not depend on how shards were named"
    assert shards[1:3] == list_shards([f"{tmp_path}/first"]), "nor on what else there is"


def test_two_shards_of_one_name_are_one_line_that_says_what_tells_them_apart(tmp_path: Path) -> None:
    for folder in ("a/x/coco", "b/x/coco"):
        (tmp_path / folder).mkdir(parents=True)
        write_tar(tmp_path / folder / "0.tar", sample("a", 1))
    both = [f"{tmp_path}/a/x/coco", f"{tmp_path}/b/x/coco"]
    with pytest.raises(ValueError, match="two shards are called 'coco/0': .*/a/x/.* and .*/b/x/.*") as caught:
        list_shards(both)
    assert "set data.shard_folders to 3" in str(caught.value) and "\n" not in str(caught.value)
    assert [shard.name for shard in list_shards(both, folders=3)] == ["a/x/coco/0", "b/x/coco/0"]
    (tmp_path / "a/x/coco/0.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match="rename one of them"):
        list_shards([f"{tmp_path}/a/x/coco/0.tar", f"{tmp_path}/a/x/coco/0.parquet"])


def test_a_name_is_a_part_of_the_shards_own_uri() -> None:
    names = {
        ("s3://bucket/data/coco/00000.tar", 1): "coco/00000",
        ("s3://bucket/data/coco/00000.tar", 2): "data/coco/00000",
        ("s3://bucket/00000.parquet", 1): "bucket/00000",
        ("s3://bucket/00000.parquet", 9): "bucket/00000",
        ("/data/my photos/album", 1): "my_photos/album",
        ("/00000.tar", 1): "00000",
        ("/data/coco/00000.tar", 0): "00000",
    }
    assert {(uri, folders): shard_name(uri, folders=folders) for uri, folders in names} == names


@pytest.mark.parametrize(
    ("name", "matching", "other"),
    [
        (
            "coco/00000",
            ["coco*", "coco", "coco/*", "*/00000", "00000", "*", "co*/0000?"],
            ["coco/", "cocoa*", "0", "vg/*"],
        ),
        ("drawn/clean-00003", ["clean-*", "drawn", "drawn/clean-*", "*-00003"], ["clean", "web-*", "clean-*/*"]),
        ("b/data/coco/00000", ["coco*", "coco/*", "data/coco/*", "b/*", "data", "b/data/*"], ["data/vg/*", "x/coco/*"]),
    ],
)
def test_a_glob_means_a_folder_a_stem_or_a_whole_name(name: str, matching: list[str], other: list[str]) -> None:
    assert [pattern for pattern in [*matching, *other] if shard_matches(name, pattern)] == matching


def test_a_storage_that_fails_is_no_defect_of_a_row(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(scan_shard(Shard("x", str(tmp_path / "x.tar"), "tar"), limits=LIMITS, check="header"))


@pytest.mark.skipif(not PHOTOS.exists(), reason="the shared photo shards are not on this machine")
def test_real_photo_shards() -> None:
    path = PHOTOS / "photos-train-00000.tar"
    rows = scan(path, limits=Limits(32, 50_000_000, 50_000_000))
    assert len(rows) == 600 and {row["reason"] for row in rows} == {None}
    assert {len(row["captions"]) for row in rows} == {5}
    assert {(row["width"], row["height"]) for row in rows} == {(224, 224)}
    with tarfile.open(path) as tar:
        truth = {info.name.removesuffix(".jpg"): info for info in tar.getmembers() if info.name.endswith(".jpg")}
        picked = rows[::37]
        contents = read_bytes(
            [row["uri"] for row in picked], [row["offset"] for row in picked], [row["nbytes"] for row in picked]
        )
        for row, data in zip(picked, contents, strict=True):
            member = tar.extractfile(truth[row["key"].partition("/")[2]])
            assert member is not None and data == member.read()


def test_negative_labels_are_read_from_every_format(tmp_path: Path) -> None:
    trees = [{"labels": ["dog"], "negative_labels": ["cat"]}, {"negative_labels": ["cat"]}]
    trees += [{"labels": ["dog", "cat"], "negative_labels": ["cat"]}, {"labels": ["dog"], "negative_labels": "cat"}]
    members = [[(f"{seed}.jpg", image_bytes(seed)), (f"{seed}.json", json.dumps(tree).encode())] for seed, tree in
               enumerate(trees)]  # fmt: skip
    write_tar(tmp_path / "s.tar", [member for pair in members for member in pair])
    (tmp_path / "album").mkdir()
    for seed in range(4):
        (tmp_path / "album" / f"{seed}.jpg").write_bytes(image_bytes(seed))
    lines = [json.dumps({"file_name": f"{seed}.jpg", **tree}) for seed, tree in enumerate(trees)]
    (tmp_path / "album" / "captions.jsonl").write_text("\n".join(lines))
    columns = {name: pa.array([tree.get(name) for tree in trees[:3]], pa.list_(pa.string())) for name in trees[0]}
    table = pa.table({"image": [image_bytes(seed) for seed in range(3)], **columns})
    pq.write_table(table, tmp_path / "t.parquet")
    for name in ("s.tar", "album", "t.parquet"):
        first, second, both, *wrong = scan(tmp_path / name)
        assert (first["labels"], first["negative_labels"]) == (["dog"], ["cat"])
        assert (second["labels"], second["negative_labels"], second["reason"]) == (None, ["cat"], None)
        assert both["reason"] == "bad_metadata" and "both contain 'cat'" in both["detail"]
        assert all(row["reason"] == "bad_metadata" and "negative_labels must be" in row["detail"] for row in wrong)
