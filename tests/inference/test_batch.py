"""Contract: every image of a folder or shard gives one row in Parquet and in JSONL, unreadable images with an error;
files that are no images are counted; a call goes on where one was killed, and tags only what is new or
changed."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import ram_ray
from ram_ray.config import RunConfig
from ram_ray.data.tagged_parts import tagged_schema
from ram_ray.detectors.tag_boxes import TagBoxes
from ram_ray.inference import Predictor
from ram_ray.inference.batch import tag_to_folder
from ram_ray.inference.batch_query import Query, TagCounts
from ram_ray.inference.listing import find_work
from ram_ray.inference.tag_rules import TagRules
from ram_ray.interop.sidecars import SidecarWriter
from tests.serving.image_files import bomb, image_file

ROOT = Path(ram_ray.__file__).parents[1]


def make_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder without captions: valid images, a folder in it, broken images, other files, and a tar."""
    folder = tmp_path / "album"
    (folder / "2024").mkdir(parents=True)
    for seed in range(5):
        (folder / f"{seed}.jpg").write_bytes(image_file(seed))
    (folder / "2024" / "0.png").write_bytes(image_file(7, format="PNG"))
    (folder / "text.jpg").write_text("not an image")
    (folder / "empty.JPEG").write_bytes(b"")
    (folder / "bomb.png").write_bytes(bomb(9_000))
    (folder / "cut.jpg").write_bytes(image_file(8)[:300])
    (folder / "notes.txt").write_text("not an image either")
    make_tar(
        tmp_path / "shard.tar",
        {"a.jpg": image_file(1), "b.jpg": image_file(2)[:300], "c.jpg": image_file(3), "c.txt": b"sea"},
    )
    return tmp_path


def test_find_work_lists_images_of_a_folder_and_shards(data: Path) -> None:
    images, shard = find_work([str(data / "album"), str(data / "*.tar")]).items
    keys = [row["key"] for row in images["rows"]]
    names = [*(f"{n}.jpg" for n in range(5)), "2024/0.png", "text.jpg", "empty.JPEG", "bomb.png", "cut.jpg"]
    assert sorted(keys) == sorted(f"album/{name}" for name in names)
    assert shard["shard"][2] == "tar"


def test_find_work_passes_over_the_tables_beside_img2datasets_tars(tmp_path: Path) -> None:
    for source in ("coco", "vg"):
        (tmp_path / source).mkdir()
        for name in ("00000.tar", "00000.parquet", "00000_stats.json", "00000.tar.gz"):
            (tmp_path / source / name).write_bytes(b"")
    shards = [item["shard"] for item in find_work([str(tmp_path / "coco"), str(tmp_path / "v*")]).items]
    expected = [(f"{source}/00000", str(tmp_path / source / "00000.tar"), "tar") for source in ("coco", "vg")]
    assert [shard[:3] for shard in shards] == expected


@pytest.mark.parametrize("pattern", ["nowhere", "album/*.tif", "album/notes.txt"])
def test_nothing_to_tag_is_an_error(data: Path, pattern: str) -> None:
    with pytest.raises(ValueError, match="no images"):
        find_work([str(data / pattern)])


def read_rows(out: Path) -> dict[str, dict]:
    """Rows by key, of the Parquet; the JSONL has the same."""
    rows = [row for path in out.glob("part-*.parquet") for row in pq.read_table(path).to_pylist()]
    lines = [json.loads(line) for path in out.glob("part-*.jsonl") for line in path.read_text().splitlines()]
    by_key = {row["key"]: row for row in rows}
    assert len(rows) == len(lines) == len(by_key)
    assert {line["key"]: line["tags"] for line in lines} == {key: row["tags"] for key, row in by_key.items()}
    return by_key


def reconcile(counts: TagCounts) -> None:
    for folder in counts.folders:
        assert folder["files"] == folder["rows"] - folder["unlisted"] + folder["not_images"], folder


def test_every_image_gives_one_row_and_later_only_what_is_new(ray_cluster: None, tiny_bundle: str, data: Path) -> None:
    config = RunConfig.model_validate({"data": {"max_pixels": 1_000_000, "rows_per_block": 4}})
    out, sources = data / "out", [str(data / "album"), str(data / "shard.tar")]
    query = Query(top_k=2, caption=True, boxes=True, embedding=True, rules=TagRules(deny=("dog",)))

    def tag(query: Query = query) -> TagCounts:
        sink = SidecarWriter(["txt"], folder=str(data / "side"))
        counts = tag_to_folder(
            tiny_bundle, sources, str(out), query=query, config=config, box_finder=TagBoxes, sink=sink
        )
        reconcile(counts)
        return counts

    counts = tag()
    rows = read_rows(out)
    assert (counts.listed, counts.tagged, counts.rows, counts.errors) == (13, 11, 11, 3) and len(rows) == 11
    assert counts.not_images == 3 and {Path(name).name for name in counts.examples} == {"text.jpg", "empty.JPEG"}
    errors = {key: row["error"].partition(":")[0] for key, row in rows.items() if row["error"]}
    shard = f"{data.name}/shard"
    assert errors == {"album/bomb.png": "too_large", "album/cut.jpg": "truncated", f"{shard}/b": "truncated"}
    predictor = Predictor.from_pretrained(tiny_bundle, device="cpu")
    for key, row in rows.items():
        assert list(row) == tagged_schema(query.extras).names
        assert len(row["tags"]) == len(row["scores"]) == (0 if key in errors else 2) and "dog" not in row["tags"]
        assert (row["caption"] is None) == (row["boxes"] is None) == (row["embedding"] is None) == (key in errors)
    good = rows["album/2024/0.png"]
    image = str(data / "album" / "2024" / "0.png")
    tokens = predictor.encode(image)
    (expected,) = predictor.tag(tokens, top_k=2, rules=query.rules)
    assert good["tags"] == [score.tag for score in expected] and (good["width"], good["height"]) == (80, 60)
    assert good["scores"] == pytest.approx([score.score for score in expected], abs=1e-5)
    assert good["caption"] == predictor.caption(tokens)[0] and len(good["boxes"][0]) == 4
    assert sum(value**2 for value in good["embedding"]) == pytest.approx(1, abs=1e-4)
    assert (data / "side" / "album" / "2024" / "0.txt").read_text() == ", ".join(good["tags"]) + "\n"

    (data / "album" / "new.jpg").write_bytes(image_file(9))
    (data / "album" / "1.jpg").write_bytes(image_file(10, size=(40, 40)))
    (data / "album" / "2.jpg").unlink()
    counts = tag()
    later = read_rows(out)
    assert (counts.tagged, counts.rows, counts.unlisted) == (2, 12, 1) and set(later) == {*rows, "album/new.jpg"}
    assert later["album/1.jpg"]["width"] == 40 and later["album/0.jpg"] == rows["album/0.jpg"]
    assert json.loads((out / "counts.json").read_text())["tagged"] == 2
    with pytest.raises(ValueError, match="made with another top_k; name another --out folder"):
        tag(query.model_copy(update={"top_k": 1}))


@pytest.mark.slow  # three runs of the job; the parts that a run leaves are in tests/data/test_tagged_parts.py
def test_a_killed_run_goes_on(ray_cluster: None, tiny_bundle: str, tmp_path: Path) -> None:
    """The program is killed when it has written some parts; the same call in this process does the rest."""
    album, out = tmp_path / "album", tmp_path / "out"
    for number in range(400):
        path = album / str(number % 3) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_file(number, size=(32, 32)))
    sets = {"data.rows_per_block": 8, "evaluate.batch_size": 8}
    options = [word for name, value in sets.items() for word in ("--set", f"{name}={value}")]
    line = ["--model", tiny_bundle, "--data", str(album), "--out", str(out), "--top-k", "2", *options]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / "tag_images.py"), *line], env=environment, start_new_session=True
    )
    while len(list(out.glob("part-*.parquet"))) < 3:
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = sum(len(pq.read_table(path)) for path in out.glob("part-*.parquet"))  # each is whole
    config = RunConfig.model_validate({"data": {"rows_per_block": 64}})
    counts = tag_to_folder(tiny_bundle, [str(album)], str(out), query=Query(top_k=2), config=config)
    reconcile(counts)
    assert finished <= 400 - counts.tagged < 400 and len(read_rows(out)) == counts.rows == 400
    assert tag_to_folder(tiny_bundle, [str(album)], str(out), query=Query(top_k=2), config=config).tagged == 0
