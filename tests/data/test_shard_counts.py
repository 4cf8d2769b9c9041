"""Contract: images and captions are counted as far as is asked, without opening an image: by the footer of a Parquet
file, by the counts that img2dataset leaves, or from the front of a shard; what cannot be read is unknown, not 0."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ram_ray.data.shard_counts import count_captions, count_images
from ram_ray.data.shards import Shard, list_shards

TEXT = {"captions": ["a dog", "a cat"]}


def write_tar(path: Path, *, num_images: int) -> None:
    with tarfile.open(path, "w") as tar:
        for number in range(num_images):
            for name, data in ((f"{number}.jpg", b"no image"), (f"{number}.json", json.dumps(TEXT).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def write_folder(path: Path, *, num_images: int) -> None:
    path.mkdir()
    for number in range(num_images):
        (path / f"{number}.jpg").write_bytes(b"no image")
    lines = [json.dumps({**TEXT, "file_name": f"{number}.jpg"}) for number in range(num_images)]
    (path / "captions.jsonl").write_text("\n".join(lines))


def write_parquet(path: Path, *, num_images: int) -> None:
    pq.write_table(pa.table({"image": [b"no image"] * num_images, "captions": [TEXT["captions"]] * num_images}), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.tar", write_tar), ("a", write_folder), ("a.parquet", write_parquet)],
    ids=["tar", "folder", "parquet"],
)
def test_every_format_is_counted_until_there_is_enough(tmp_path: Path, name: str, write) -> None:
    write(tmp_path / name, num_images=5)
    shards = list_shards([str(tmp_path / name)])
    assert count_images(shards, enough=100) == 5 and count_captions(shards, enough=100) == 10
    assert count_images(shards * 3, enough=100) == 15
    assert 2 <= count_images(shards * 3, enough=2) <= 5 and 3 <= count_captions(shards, enough=3) <= 4


def test_the_counts_of_img2dataset_are_taken_without_reading_the_tar(tmp_path: Path) -> None:
    (tmp_path / "00000.tar").write_bytes(bytes(1024))
    shards = list_shards([str(tmp_path / "00000.tar")])
    (tmp_path / "00000_stats.json").write_text(json.dumps({"count": 10_000, "successes": 8_000}))
    assert count_images(shards, enough=100) == 8_000
    for text in ("[]", "{", "{}"):
        (tmp_path / "00000_stats.json").write_text(text)
        assert count_images(shards, enough=100) == 0, "an empty tar"


def test_what_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    gone = [Shard("gone", str(tmp_path / "gone.tar"), "tar")]
    assert count_images(gone, enough=1) is None and count_captions(gone, enough=1) is None
    (tmp_path / "a.parquet").write_bytes(b"text")
    assert count_images(list_shards([str(tmp_path / "a.parquet")]), enough=1) is None
    pq.write_table(pa.table({"url": ["x"]}), tmp_path / "b.parquet")
    assert count_captions(list_shards([str(tmp_path / "b.parquet")]), enough=1) is None
