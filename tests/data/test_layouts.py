"""Contract: data is read as people have it. The table `layouts.LAYOUTS` says what must come out of each folder, tar and
Parquet file: of the stage `shards`, of `parse`, and of batch tagging, through the programs that a user starts. Nothing
vanishes: what is not read is a row with its reason. 1,000 HEIC beside 10 JPEG are 1,010 rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from ram_ray.data import waiting
from ram_ray.data.images import Limits, read_bytes
from ram_ray.data.shards import list_shards, scan_shard
from ram_ray.inference.listing import find_work
from ram_ray.runtime.location import expand_braces, locate, to_path, to_text
from ram_ray.settings.data import LayoutConfig
from tests.data.defects import image_bytes
from tests.data.layouts import LAYOUTS, Layout, apart, caption, heic, images, pairs, tar, write_csv, write_layouts

ROOT = Path(__file__).resolve().parents[2]
LIMITS = Limits(min_side=16, max_pixels=50_000_000, max_bytes=50_000_000)
NUM_HEIC, NUM_JPEG = 1000, 10


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "lay"
    write_layouts(root)
    return root


def run(*arguments: str) -> str:
    """What a program prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8:backslashreplace"}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, cwd=ROOT, env=environment, check=False)
    screen = (done.stdout + done.stderr).decode("utf-8", "backslashreplace")
    assert done.returncode == 0, screen
    return screen


def name_of(path: str) -> str | None:
    """The layout that a shard or a key belongs to."""
    parts = path.split("/")
    stems = {layout.name.partition(".")[0]: layout.name for layout in LAYOUTS}
    return next((stems[part] for part in parts if part in stems), None)


def scan(*uris: object, layout: LayoutConfig | None = None, **options: str) -> list[dict]:
    layout = layout or LayoutConfig()
    shards = list_shards([str(uri) for uri in uris], folders=1, layout=layout, **options)
    return [row for shard in shards for row in scan_shard(shard, limits=LIMITS, check="header", layout=layout)]


def outcome(rows: list[dict]) -> dict[str, str | None]:
    return {row["key"].partition("/")[2]: row["reason"] for row in rows}


def test_every_layout_through_the_stages_shards_and_parse(data: Path, tmp_path: Path, tiny_bundle: str) -> None:
    teacher = Path(tiny_bundle).parent / "teacher"  # so that the stage before `parse` trains nothing
    settings = {
        "represent.clip": teacher,
        "tokenizer": teacher,
        "resources.task_cpus": 0.75,
        "resources.num_cpus": 3,
        "resources.object_store_gb": 0.3,
        "data.duplicates": "{same: [], near: null}",  # the layouts have the same images
    }
    sets = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    screen = run("jobs/parse.py", "--data", f"{data}/*", "--run", str(tmp_path / "run"), *sets)
    assert "shards rejects" in screen and "bad_metadata" in screen, "a line counts the reasons"
    (folder,) = (path for path in (tmp_path / "run/annotations/parse").iterdir() if path.is_dir())
    parsed = ds.dataset(folder, partitioning="hive").to_table().to_pylist()
    rejected = pq.read_table(tmp_path / "run/rejected/shards").to_pylist()
    usable = Counter(name_of(row["key"]) for row in parsed)
    reasons = Counter((name_of(row["key"]), row["reason"]) for row in rejected)
    captions = {(name_of(row["key"]), len(row["captions"])) for row in parsed}
    assert None not in usable and not any(name is None for name, _ in reasons)
    table = [(layout.name, usable[layout.name], _of(reasons, layout.name)) for layout in LAYOUTS]
    assert table == [(layout.name, layout.usable, layout.rejected) for layout in LAYOUTS]
    assert captions == {(layout.name, layout.captions) for layout in LAYOUTS if layout.usable}
    assert all(row["detail"] for row in rejected)


def test_every_layout_and_a_thousand_heic_tagged_in_batch(data: Path, tmp_path: Path, tiny_bundle: str) -> None:
    album = tmp_path / "album"
    album.mkdir()
    contents = [heic(seed) for seed in range(20)]
    for index in range(NUM_HEIC):
        (album / f"IMG_{index:04d}.HEIC").write_bytes(contents[index % len(contents)])
    images(album, *(f"{index}.jpg" for index in range(NUM_JPEG)))
    out = tmp_path / "out"
    arguments = ["--model", tiny_bundle, "--data", f"{data}/*", str(album), "--out", str(out), "--top-k", "1"]
    screen = run("jobs/tag_images.py", *arguments)
    rows = [json.loads(line) for file in out.glob("*.jsonl") for line in file.read_text("utf-8").splitlines()]
    assert len({row["key"] for row in rows}) == len(rows)
    of_album = [row for row in rows if row["key"].startswith("album/")]
    assert len(of_album) == NUM_HEIC + NUM_JPEG == 1010
    assert not [row for row in of_album if row["error"]] and all(row["tags"] for row in of_album)
    others = [row for row in rows if not row["key"].startswith("album/")]
    tagged = Counter(name_of(row["key"]) for row in others if row["error"] is None)
    errors = Counter((name_of(row["key"]), row["error"].partition(":")[0]) for row in others if row["error"])
    table = [(layout.name, tagged[layout.name], _of(errors, layout.name)) for layout in LAYOUTS]
    assert table == [(layout.name, _tagged(layout), layout.errors) for layout in LAYOUTS]
    assert "scan.jp2" in screen and "Thumbs.db" in screen, "a line names what is not read"
    keys = [row["key"] for row in others if name_of(row["key"]) == "f_names"]
    assert len(keys) == _tagged(next(layout for layout in LAYOUTS if layout.name == "f_names"))
    for key in keys:
        assert (data / to_path(key)).is_file(), "a key finds its file again"


def _of(counts: Counter, name: str) -> dict[str, int]:
    return {reason: count for (layout, reason), count in counts.items() if layout == name}


def _tagged(layout: Layout) -> int:
    return layout.usable if layout.tagged is None else layout.tagged


def test_where_the_key_of_a_tar_ends_is_a_setting(tmp_path: Path) -> None:
    tar(tmp_path / "s.tar", [*pairs("22.0{}.jpg", "22.0{}.txt"), *pairs("photo{}.final.jpg", "photo{}.final.txt")])
    first = scan(tmp_path / "s.tar")
    assert {row["reason"] for row in first} == {"bad_metadata"} and all("key_end" in row["detail"] for row in first)
    last = scan(tmp_path / "s.tar", layout=LayoutConfig(key_end="last_dot"))
    keys = [*(f"s/22.0{index}" for index in range(3)), *(f"s/photo{index}.final" for index in range(3))]
    assert outcome(last) == dict.fromkeys(keys)


def test_endings_columns_encoding_and_lines_are_settings(tmp_path: Path) -> None:
    folder = tmp_path / "album"
    images(folder, "0.picture", "1.picture")
    (folder / "0.de").write_bytes("ein Hund am Caf\xe9\nzwei Hunde".encode("cp1252"))
    (folder / "1.de").write_bytes(b"eine Katze")
    with pytest.raises(ValueError, match=r"not read: 2 files \.de, such as .*, 2 files \.picture"):
        scan(folder)
    layout = LayoutConfig(
        image_extensions=(".Picture",), caption_extensions=("de",), encoding="cp1252", caption_lines=True
    )
    rows = scan(folder, layout=layout)
    assert [row["captions"] for row in rows] == [["ein Hund am Caf\xe9", "zwei Hunde"], ["eine Katze"]]
    assert scan(folder, layout=layout.model_copy(update={"encoding": "utf-8"}))[0]["reason"] == "bad_metadata"
    write_csv(tmp_path / "list.csv", [["foto", "in_english", "caption"], ["album/0.picture", "a dog", "ein Hund"]])
    named = LayoutConfig(image_columns=("foto",), caption_columns=("in_english",))
    (row,) = scan(tmp_path / "list.csv", layout=named)
    assert (row["captions"], row["reason"]) == (["a dog"], None)
    with pytest.raises(ValueError, match="no encoding"):
        LayoutConfig(encoding="utf-88")


def test_a_named_column_of_parquet_is_a_part_of_the_location(tmp_path: Path) -> None:
    columns = {"image": [b"other"] * 2, "photo": [image_bytes(1), image_bytes(2)], "words": ["a dog", "a cat"]}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    layout = LayoutConfig(image_columns=("photo",), caption_columns=("words",))
    rows = scan(tmp_path / "p.parquet", layout=layout)
    assert [(row["captions"], row["reason"]) for row in rows] == [(["a dog"], None), (["a cat"], None)]
    assert _contents(rows) == [image_bytes(1), image_bytes(2)]


def test_every_row_leads_to_the_bytes_of_its_image(data: Path) -> None:
    rows = [row for row in scan(f"{data}/*") if row["reason"] is None]
    for row, content in zip(rows, _contents(rows), strict=True):
        assert isinstance(content, bytes) and len(content) == row["nbytes"] > 0, row["key"]


def _contents(rows: list[dict]) -> list:
    return read_bytes(*([row[name] for row in rows] for name in ("uri", "offset", "nbytes")))


@pytest.mark.parametrize("first", ["images", "texts"])
def test_texts_may_lie_any_distance_behind_their_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    monkeypatch.setattr(waiting, "MAX_HELD", 7)  # so that most of what waits goes to the file
    members = apart(num=50)
    members = members if first == "images" else members[50:] + members[:50]
    tar(tmp_path / "s.tar", [*members, ("lost.jpg", image_bytes(1)), ("late.txt", "a dog")])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    rows = scan(tmp_path / "s.tar")
    assert {row["key"]: row["captions"] for row in rows if not row["reason"]} == {
        row["key"]: [caption(index)] for index, row in enumerate(rows[:50])
    }
    assert [row["reason"] for row in rows[50:]] == ["no_caption", "bad_metadata"]
    assert not os.listdir(tmp_path / "temporary"), "its file is removed"


def test_a_brace_pattern_names_its_files(tmp_path: Path) -> None:
    for index in range(4):
        tar(tmp_path / f"train-000{index}.tar", pairs(num=1))
    (tmp_path / "{a,b}.tar").write_bytes((tmp_path / "train-0000.tar").read_bytes())
    names = [shard.name.partition("/")[2] for shard in list_shards([f"{tmp_path}/train-{{0000..0002}}.tar"])]
    assert names == ["train-0000", "train-0001", "train-0002"]
    assert len(find_work([f"{tmp_path}/train-{{0001,0003}}.tar"]).items) == 2
    assert len(list_shards([f"{tmp_path}/{{a,b}}.tar"])) == 1, "a file that is called so is itself"
    with pytest.raises(ValueError, match=r"train-0004\.tar: nothing is there"):
        list_shards([f"{tmp_path}/train-{{0003..0004}}.tar"])
    with pytest.raises(ValueError, match="more than"):
        expand_braces("{0..99999999}.tar")


def test_parts_for_training_and_for_evaluation_are_not_taken_together(tmp_path: Path) -> None:
    for part in ("train", "test"):
        images(tmp_path / "album" / part)
    (tmp_path / "hub").mkdir()
    for name in ("train-00000-of-00001", "validation-00000-of-00001"):
        (tmp_path / "hub" / f"{name}.parquet").write_bytes(b"")
    for folder in ("album", "hub"):
        with pytest.raises(ValueError, match="parts for training and for evaluation: name one of them"):
            list_shards([str(tmp_path / folder)])
    assert len(scan(tmp_path / "album/train")) == 3
    assert len(find_work([str(tmp_path / "album")]).items[0]["rows"]) == 6, "tagging takes both"


def test_a_folder_with_two_lists_is_one_line(tmp_path: Path) -> None:
    images(tmp_path / "album")
    for name in ("one", "two"):
        write_csv(tmp_path / "album" / f"{name}.csv", [["file_name", "caption"], ["0.jpg", "a dog"]])
    with pytest.raises(ValueError, match=r"one\.csv and two\.csv both list images; name the one"):
        list_shards([str(tmp_path / "album")])
    (row,) = scan(tmp_path / "album/two.csv")
    assert (row["reason"], row["captions"]) == (None, ["a dog"])


def test_lines_of_a_csv_that_cannot_be_read_are_rows(tmp_path: Path) -> None:
    images(tmp_path)
    lines = ["file_name,caption", "0.jpg,a dog", "1.jpg", "/etc/passwd,a dog", '2.jpg,"never closed', "x.jpg,a cat"]
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    rows = scan(tmp_path / "list.csv")
    assert [row["reason"] for row in rows] == [None, "bad_metadata", "bad_metadata", None]
    assert "line 3 has 1 fields, the first line 2" in rows[1]["detail"] and "stay inside" in rows[2]["detail"]
    assert "never closed x.jpg,a cat" in str(rows[3]["captions"]), "the quote takes the next line in, visibly"


@pytest.mark.parametrize(
    "name", ["plain", "a::b", r"back\x41slash", r"\x5c", "\udce9", "e\u0301", "new\nline", "\U0001f600", "file:x", "~x"]
)
def test_a_location_is_text_that_leads_to_its_file(name: str, tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path)) + "/" + name
    text = to_text(path)
    text.encode("utf-8")
    assert to_path(text) == path
    assert locate(text)[1] == path
    assert to_text("/plain/caf\u00e9 1.jpg") == "/plain/caf\u00e9 1.jpg"


def test_no_two_names_share_a_location() -> None:
    names = ["\udce9", r"\xe9", r"\x5cxe9", "\\\udce9", "é", r"\\xe9"]
    assert len({to_text(name) for name in names}) == len(names)
