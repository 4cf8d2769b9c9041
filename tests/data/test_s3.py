"""Contract: shards in an object store are read as local ones are: listed by globs, walked, and read in place.

The store is moto's server, a real S3 endpoint in a process of its own on loopback; the client is not patched.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from ram_ray.data.images import read_bytes
from ram_ray.data.shards import list_shards, scan_shard
from ram_ray.inference.listing import find_work
from ram_ray.records import Reject
from ram_ray.runtime.artifacts import write_bytes
from tests.data.defects import LIMITS, NUM_DEFECTS, Planted, image_bytes, plant, sample, write_tar
from tests.s3 import FAULTS, S3Proxy

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("moto") is None, reason="moto[server] is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("s3fs") is None, reason="s3fs is not installed"),
]


@pytest.fixture(scope="module")
def bucket(s3: S3Proxy, tmp_path_factory: pytest.TempPathFactory) -> tuple[Planted, str, Path]:
    """The planted shards in a bucket."""
    import s3fs

    folder = tmp_path_factory.mktemp("planted")
    planted = plant(folder)
    s3fs.S3FileSystem().put(f"{folder}/", f"{s3.bucket}/run", recursive=True)
    return planted, f"{s3.bucket}/run", folder


@pytest.fixture
def failing(s3: S3Proxy) -> Iterator[S3Proxy]:
    """The store while one request in ten fails: refused, or broken off before or in the middle of its answer."""
    s3.share, s3.faults = 0.1, FAULTS
    yield s3
    s3.share = 0.0


def test_globs_list_what_lies_there(bucket: tuple[Planted, str, Path]) -> None:
    _, uri, folder = bucket
    shards = list_shards([f"{uri}/*"], folders=0)
    assert [shard.uri.removeprefix(uri) for shard in shards] == sorted(
        path.as_posix().removeprefix(str(folder)) for path in folder.iterdir()
    )
    assert [(shard.name, shard.format) for shard in shards] == [
        (shard.name, shard.format) for shard in list_shards([f"{folder}/*"], folders=0)
    ]
    assert [shard.name for shard in list_shards([f"{uri}/cut-*.tar"])] == ["run/cut-before-text", "run/cut-in-image"]
    with pytest.raises(ValueError, match="nothing is there"):
        list_shards([f"{uri}/none-*.tar"])
    with pytest.raises(ValueError, match="s3://no-such-bucket"):
        list_shards(["s3://no-such-bucket/*.tar"])


def test_a_folder_of_images_and_texts_is_read_and_what_else_is_there_is_counted(s3: S3Proxy) -> None:
    fs, root = fsspec.filesystem("s3"), f"{s3.bucket}/album"
    for index, name in enumerate(("1", "2020/a::b", "2020/no ending")):
        ending = "" if "ending" in name else ".jpg"
        fs.pipe_file(f"{root}/{name}{ending}", image_bytes(index))
        fs.pipe_file(f"{root}/{name}.txt", b"a dog")
    fs.pipe_file(f"{root}/2020/Thumbs.db", b"x")
    (shard,) = list_shards([root])
    rows = list(scan_shard(shard, limits=LIMITS, check="decode"))
    assert {row["key"]: row["reason"] for row in rows} == {
        f"{shard.name}/{key}": reason
        for key, reason in (
            ("1.jpg", None),
            ("2020/a::b.jpg", None),
            ("2020/no ending", None),
            ("#unread-.db", "unsupported_format"),
        )
    }
    whole = [row for row in rows if row["reason"] is None]
    contents = read_bytes(*([row[name] for row in whole] for name in ("uri", "offset", "nbytes")))
    assert contents == [image_bytes(index) for index in range(3)]
    work = find_work([root]).items
    assert sorted(row["uri"] for row in work[0]["rows"]) == sorted(row["uri"] for row in whole)


def test_the_shape_that_img2dataset_writes(s3: S3Proxy, tmp_path: Path) -> None:
    """Listed by folder or by glob, its tables and statistics passed over; names do not change with what is added."""
    fs = fsspec.filesystem("s3")
    write_tar(tmp_path / "0.tar", sample("000000000", 1))
    for number in range(2):
        for source in ("coco", "vg"):
            fs.pipe_file(f"{s3.bucket}/data/{source}/{number:05d}.tar", (tmp_path / "0.tar").read_bytes())
            fs.pipe_file(f"{s3.bucket}/data/{source}/{number:05d}.parquet", b"a table of urls")
            fs.pipe_file(f"{s3.bucket}/data/{source}/{number:05d}_stats.json", b"{}")
    coco, vg = (f"{s3.bucket}/data/{source}" for source in ("coco", "vg"))
    alone = list_shards([coco])
    assert [shard.name for shard in alone] == ["coco/00000", "coco/00001"]
    assert all(shard.size and shard.version for shard in alone)
    assert list_shards([f"{coco}/*"]) == list_shards([f"{coco}/"]) == list_shards([f"{coco}/*.tar"]) == alone
    assert list_shards([coco, vg])[:2] == alone
    assert [shard.name for shard in list_shards([f"{s3.bucket}/data/*"])][2:] == ["vg/00000", "vg/00001"]
    assert [row["key"] for row in scan_shard(alone[1], limits=LIMITS, check="decode")] == ["coco/00001/000000000"]


@pytest.mark.parametrize("check", ["decode", "header"])
def test_rows_are_those_of_the_local_shards(bucket: tuple[Planted, str, Path], check: str) -> None:
    planted, uri, folder = bucket

    def rows(pattern: str, root: str) -> list[dict]:
        scanned = [
            row for shard in list_shards([pattern], folders=0) for row in scan_shard(shard, limits=LIMITS, check=check)
        ]
        return [{**row, "uri": row["uri"].removeprefix(root), "detail": None} for row in scanned]

    local, remote = rows(f"{folder}/*", str(folder)), rows(f"{uri}/*", uri)
    assert remote == local
    num_seen = sum(check == "decode" or defect.header for defect in planted.defects)
    assert sum(row["reason"] is not None for row in remote) == num_seen
    assert check == "header" or num_seen == NUM_DEFECTS


def test_images_are_read_in_place(bucket: tuple[Planted, str, Path]) -> None:
    _, uri, folder = bucket
    rows = [
        row
        for shard in list_shards([f"{uri}/*"], folders=0)
        for row in scan_shard(shard, limits=LIMITS, check="header")
    ]
    rows = [row for row in rows if not row["reason"]][::-1]
    uris, offsets, nbytes = ([row[name] for row in rows] for name in ("uri", "offset", "nbytes"))
    local = read_bytes([shard_uri.replace(uri, str(folder)) for shard_uri in uris], offsets, nbytes)
    assert read_bytes(uris, offsets, nbytes) == local
    assert all(isinstance(data, bytes) for data in local)
    last = [f"{uri}/web.tar", f"{uri}/gone.tar", f"{uri}/web.tar", *uris[:1]]
    results = read_bytes(last, [10**9, 0, 0, offsets[0]], [100, 100, 512, nbytes[0]])
    assert [result.reason if isinstance(result, Reject) else len(result) for result in results] == [
        "truncated",
        "broken_archive",
        512,
        nbytes[0],
    ]


def test_requests_that_fail_are_made_again(bucket: tuple[Planted, str, Path], failing: S3Proxy) -> None:
    """Reads and writes: the same rows, the same bytes."""
    import s3fs

    _, uri, folder = bucket
    num_failed = failing.counts["failed"]
    s3fs.S3FileSystem.clear_instance_cache()
    shards = list_shards([f"{uri}/*"], folders=0)
    rows = [row for shard in shards for row in scan_shard(shard, limits=LIMITS, check="header")]
    local_rows = [
        row
        for shard in list_shards([f"{folder}/*"], folders=0)
        for row in scan_shard(shard, limits=LIMITS, check="header")
    ]
    assert [row["reason"] for row in rows] == [row["reason"] for row in local_rows]
    rows = [row for row in rows if not row["reason"]]
    uris, offsets, nbytes = ([row[name] for row in rows] for name in ("uri", "offset", "nbytes"))
    results = read_bytes(uris, offsets, nbytes)
    assert results == read_bytes([shard_uri.replace(uri, str(folder)) for shard_uri in uris], offsets, nbytes)
    for number in range(20):
        data = bytes([number]) * (1000 if number else 12 << 20)  # the first in several parts
        write_bytes(f"{uri}-written/{number}", data)
        assert s3fs.S3FileSystem().cat_file(f"{uri}-written/{number}") == data
    assert failing.counts["failed"] > num_failed + 5


def test_requests_do_not_grow_with_what_is_listed_and_a_write_is_one(s3: S3Proxy) -> None:
    fs, requests = fsspec.filesystem("s3"), []
    for count in (2, 12):
        for number in range(count):
            fs.pipe_file(f"{s3.bucket}/many/{count}/{number:05d}.tar", b"x")
        num_before = s3.num_requests
        shards = list_shards([f"{s3.bucket}/many/{count}"])
        assert len(shards) == count and all(shard.version for shard in shards)
        requests.append(s3.num_requests - num_before)
    assert requests[0] == requests[1] <= 6, "what tells a changed shard comes with the listing"
    num_before = s3.num_requests
    write_bytes(f"{s3.bucket}/a/b/c", b"x")
    assert s3.num_requests == num_before + 1
