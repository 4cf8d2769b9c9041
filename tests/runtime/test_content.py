"""Contract: the digest of a folder changes with its content alone, not with its place or files that do not count."""

from __future__ import annotations

import shutil
from pathlib import Path

import fsspec
import pytest

from ram_ray.runtime.content import content_digest

FILES = ("config.json", "model.bin", "text/*")


def _digest(source: object, files: tuple[str, ...] = FILES) -> str:
    return content_digest(str(source), files=files)


def test_local_files_count_by_their_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    (folder / "text").mkdir(parents=True)
    for name in ("config.json", "model.bin", "text/words", "README.md"):
        (folder / name).write_text(name)
    first = _digest(folder)
    shutil.copytree(folder, tmp_path / "b")
    assert _digest(tmp_path / "b") == first == _digest(f"file://{tmp_path}/b")
    (folder / "README.md").write_text("other")
    assert _digest(folder) == first
    for name in ("model.bin", "text/words"):
        (folder / name).write_text(f"another {name}")
        changed = _digest(folder)
        assert changed != first
        first = changed


def test_files_of_a_uri_count_by_their_versions() -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/content/a/config.json", b"1")
    fs.pipe_file("/content/a/README.md", b"1")
    first = _digest("memory://content/a")
    fs.pipe_file("/content/a/README.md", b"22")
    assert _digest("memory://content/a") == first
    fs.pipe_file("/content/a/config.json", b"22")
    assert _digest("memory://content/a") != first


def test_a_folder_without_the_first_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    with pytest.raises(ValueError, match=r"there is no config\.json"):
        _digest(tmp_path)
    fsspec.filesystem("memory").pipe_file("/content/b/model.bin", b"1")
    with pytest.raises(ValueError, match=r"memory://content/b: there is no config\.json"):
        _digest("memory://content/b")
    with pytest.raises(ValueError, match="no such file or folder"):
        _digest(tmp_path / "missing")
