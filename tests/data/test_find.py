"""Contract: a name that stands for no shard is one line that says what to do."""

from __future__ import annotations

import gzip
import importlib
import sys
from pathlib import Path

import pytest

from ram_ray.data.shards import list_shards


def test_listing_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(b""))
    cases = {
        f"{tmp_path}/none*.tar": "nothing is there",
        f"{tmp_path}/notes.txt": "unknown kind",
        f"{tmp_path}/n*": "no shard among",
        f"{tmp_path}/a.tar.gz": "gunzip",
        f"{tmp_path}/a*": "gunzip",
        "nosuch://bucket/a.tar": "Protocol not known",
    }
    for uri, words in cases.items():
        with pytest.raises(ValueError, match=words):
            list_shards([uri])
    with pytest.raises(ValueError, match="no shards are named"):
        list_shards([])


def test_a_storage_without_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # as if it were not installed
    monkeypatch.setattr(importlib.import_module("fsspec.registry"), "_registry", {})
    with pytest.raises(ValueError, match="needs gcsfs; install it"):
        list_shards(["gs://bucket/*.tar"])
