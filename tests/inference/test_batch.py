"""Contract: every image of a folder or shard gives one row in Parquet and in JSONL; unreadable images have an error."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ram_ray.config import RunConfig
from ram_ray.inference.batch import TAGGED, Query, find_work, tag_to_folder
from tests.serving.image_files import bomb, image_file


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
    (folder / "notes.txt").write_text("not an image either")
    make_tar(
        tmp_path / "shard.tar",
        {"a.jpg": image_file(1), "b.jpg": image_file(2)[:300], "c.jpg": image_file(3), "c.txt": b"sea"},
    )
    return tmp_path


def test_find_work_lists_images_of_a_folder_and_shards(data: Path) -> None:
    images, shard = find_work([str(data / "album"), str(data / "*.tar")])
    keys = [row["key"] for row in images["rows"]]
    assert sorted(keys) == sorted(
        [
            *(f"album/{n}.jpg" for n in range(5)),
            "album/2024/0.png",
            "album/text.jpg",
            "album/empty.JPEG",
            "album/bomb.png",
        ]
    )
    assert shard["shard"][2] == "tar"


def test_find_work_passes_over_the_tables_beside_img2datasets_tars(tmp_path: Path) -> None:
    for source in ("coco", "vg"):
        (tmp_path / source).mkdir()
        for name in ("00000.tar", "00000.parquet", "00000_stats.json", "00000.tar.gz"):
            (tmp_path / source / name).write_bytes(b"")
    shards = [item["shard"] for item in find_work([str(tmp_path / "coco"), str(tmp_path / "v*")])]
    assert shards == [(f"{source}/00000", str(tmp_path / source / "00000.tar"), "tar") for source in ("coco", "vg")]


@pytest.mark.parametrize("pattern", ["nowhere", "album/*.tif", "album/notes.txt"])
def test_nothing_to_tag_is_an_error(data: Path, pattern: str) -> None:
    with pytest.raises(ValueError, match="no images"):
        find_work([str(data / pattern)])


def test_every_image_gives_one_row_in_both_formats(ray_cluster: None, tiny_bundle: str, data: Path) -> None:
    config = RunConfig.model_validate({"data": {"max_pixels": 1_000_000, "rows_per_block": 4}})
    out = data / "out"
    sources = [str(data / "album"), str(data / "shard.tar")]
    query = Query(tags=("red", "sea"), top_k=1)
    counts = tag_to_folder(tiny_bundle, sources, str(out), query=query, config=config)

    table = pq.read_table(sorted(out.glob("*.parquet")))
    assert table.schema.equals(TAGGED)
    rows = {row["key"]: row for row in table.to_pylist()}
    lines = [json.loads(line) for file in out.glob("*.jsonl") for line in file.read_text().splitlines()]
    assert len(rows) == table.num_rows == len(lines) == counts["images"] == 12
    assert {row["key"]: row["tags"] for row in lines} == {key: row["tags"] for key, row in rows.items()}

    errors = {key: row["error"].partition(":")[0] for key, row in rows.items() if row["error"]}
    assert errors == {
        "album/text.jpg": "undecodable",
        "album/empty.JPEG": "undecodable",
        "album/bomb.png": "too_large",
        f"{data.name}/shard/b": "truncated",
    }
    assert counts["errors"] == 4
    for key, row in rows.items():
        assert len(row["tags"]) == len(row["scores"]) == (0 if key in errors else 1)

    with pytest.raises(ValueError, match="already holds"):
        tag_to_folder(tiny_bundle, sources, str(out), query=query, config=config)
