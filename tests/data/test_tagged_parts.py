"""Contract: parts are their own record of what is done; an image has one row; what a kill leaves is removed; a folder
of another model or query is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ram_ray.data.tagged_parts import (
    count_rows,
    drop_rows,
    group_of,
    hashes,
    image_ids,
    prepare_output,
    read_done,
    tagged_schema,
    write_part,
)


def rows(*names: str, version: str = "1", folder: str = "/photos", error: str | None = None) -> pa.Table:
    values = [
        {
            "key": name,
            "tags": ["dog"],
            "scores": [0.123456],
            "error": error,
            "uri": f"{folder}/{name}",
            "member": "",
            "version": version,
        }
        for name in names
    ]
    return pa.Table.from_pylist(values, schema=tagged_schema())


def keys_of(out: Path) -> tuple[list[str], list[str]]:
    """Keys of the Parquet parts and of the JSONL parts."""
    tables = [pq.read_table(path)["key"].to_pylist() for path in sorted(out.glob("*.parquet"))]
    lines = [json.loads(line)["key"] for path in sorted(out.glob("*.jsonl")) for line in path.read_text().splitlines()]
    return sorted(sum(tables, [])), sorted(lines)


def test_parts_say_what_is_done(tmp_path: Path) -> None:
    write_part(rows("a.jpg", "b.jpg"), str(tmp_path), "part-1")
    write_part(rows("c.jpg", version="2"), str(tmp_path), "part-2")
    done = read_done(str(tmp_path))
    known, index = done.find(image_ids(rows("c.jpg", "d.jpg", "a.jpg")))
    assert known.tolist() == [True, False, True]
    assert done.versions[index[known]].tolist() == hashes(["2", "1"]).tolist()
    assert not read_done(str(tmp_path / "none")).find(image_ids(rows("a.jpg")))[0].any()
    (line,) = (tmp_path / "part-2.jsonl").read_text().splitlines()
    assert json.loads(line) == {"key": "c.jpg", "tags": ["dog"], "scores": [0.12346], "error": None}


def test_rows_of_changed_images_are_dropped_from_both_files(tmp_path: Path) -> None:
    write_part(rows("a.jpg", "b.jpg"), str(tmp_path), "part-1")
    write_part(rows("c.jpg"), str(tmp_path), "part-2")
    drop_rows(str(tmp_path), read_done(str(tmp_path)), image_ids(rows("b.jpg", "c.jpg")))
    assert keys_of(tmp_path) == (["a.jpg"], ["a.jpg"])
    assert {path.name for path in tmp_path.iterdir()} == {"part-1.parquet", "part-1.jsonl"}
    drop_rows(str(tmp_path), read_done(str(tmp_path)), np.zeros(0, np.uint64))
    assert keys_of(tmp_path) == (["a.jpg"], ["a.jpg"])


def test_what_a_kill_leaves_is_removed_and_another_query_is_refused(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    prepare_output(out, {"model": "m", "top_k": 3, "tags": ("a",)})
    write_part(rows("a.jpg"), out, "part-1")
    for name in ("part-2.jsonl", "part-3.parquet.0f.part"):
        (tmp_path / "out" / name).write_text("{}")
    prepare_output(out, {"model": "m", "top_k": 3, "tags": ("a",)})
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"tagging.json", "part-1.parquet", "part-1.jsonl"}
    with pytest.raises(ValueError, match="made with another model, top_k; name another --out folder"):
        prepare_output(out, {"model": "n", "top_k": 2, "tags": ("a",)})
    (tmp_path / "out" / "tagging.json").unlink()
    with pytest.raises(ValueError, match="an earlier version"):
        prepare_output(out, {"model": "m"})


def test_rows_are_counted_by_folder_and_extension(tmp_path: Path) -> None:
    write_part(rows("a.jpg", "b.JPG", "c.png"), str(tmp_path), "part-1")
    write_part(rows("d.jpg", folder="/other", error="truncated: x"), str(tmp_path), "part-2")
    counted, errors = count_rows(str(tmp_path))
    assert counted == {("/photos", ".jpg"): 2, ("/photos", ".png"): 1, ("/other", ".jpg"): 1}
    assert errors == {("/other", ".jpg"): 1}
    assert group_of("/a/.hidden") == ("/a", "") and group_of("s3://b/x.TAR") == ("s3://b", ".tar")
