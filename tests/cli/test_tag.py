"""`ram-ray tag` on files and folders."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import pytest

from ram_ray.cli.main import main
from tests.tiny import jpeg, photo


def test_tag_prints_a_line_an_image(tiny_bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    photo(1).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    line = f"tag {tmp_path}/a.png --model {tiny_bundle} --top-k 2"
    assert main(shlex.split(line)) == 0
    assert re.fullmatch(rf"{tmp_path}/a.png: [\w ]+ 0\.\d\d \| [\w ]+ 0\.\d\d\n", capsys.readouterr().out)
    assert main(["tag", str(tmp_path), *line.split()[2:]]) == 1, "a folder; one of its files cannot be read"
    shown = capsys.readouterr()
    assert shown.out.startswith(f"{tmp_path}/a.png: ") and len(shown.out.splitlines()) == 1
    assert shown.err.startswith("ram-ray tag: undecodable: ") and len(shown.err.splitlines()) == 1
    (tmp_path / "names.txt").write_text("dog = Hund\nbeach = Strand\nunicorn = Einhorn\n")
    rules = f"--names {tmp_path}/names.txt --rename {tmp_path}/names.txt --threshold 0"
    assert main(shlex.split(f"{line.replace('--top-k 2', rules)}")) == 0
    shown = capsys.readouterr()
    assert (
        "Hund" in shown.out
        and "dog" not in shown.out
        and "1 of 3 names are no labels of the model: unicorn" in shown.err
    )
    assert main(shlex.split(f"{line.replace('--top-k 2', '--tags sea,snow')}")) == 0
    shown = capsys.readouterr()
    assert shown.out.count(" | ") == 1 and "best 5 of them, whatever their score" in shown.err
    assert main(shlex.split(f"{line} {tmp_path}/b.png --json --tags 'snow,red umbrella'")) == 1
    first, second = (json.loads(row) for row in capsys.readouterr().out.splitlines())
    assert {tag["tag"] for tag in first["tags"]} == {"snow", "red umbrella"} and "error" in second


def test_a_folder_that_may_not_be_read_is_told_and_the_rest_is_tagged(
    tiny_bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The superuser may read every folder, so the error is raised in its place."""
    (tmp_path / "a.jpg").write_bytes(jpeg())
    (tmp_path / "locked").mkdir()
    scan, locked = os.scandir, str(tmp_path / "locked")

    def refuse(path: str) -> object:
        if str(path) == locked:
            raise PermissionError(13, "Permission denied", locked)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert main(["tag", str(tmp_path), "--model", tiny_bundle]) == 1
    shown = capsys.readouterr()
    assert shown.out.startswith(f"{tmp_path}/a.jpg: ") and f"{locked} cannot be read" in shown.err
