"""Contract: a stage is done when its manifest exists, which is written last and whole; its folder's name is a digest
of its configuration and inputs.

Each test runs on a local folder and on an object store (fsspec's `memory://`).
"""

from __future__ import annotations

import uuid
from pathlib import Path

import fsspec
import pytest

from ram_ray.runtime.artifacts import Manifest, Run, Stage, write_text
from ram_ray.settings.training import TrainConfig, TrainingConfig


@pytest.fixture(params=["local", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "run") if request.param == "local" else f"memory://{uuid.uuid4().hex}/run"


def _stage(run: Run, config: object = None, inputs: list[Manifest] | None = None, name: str = "parse") -> Stage:
    return run.stage(name, kind="annotations", config=config or {}, inputs=inputs or [])


def _write(uri: str, text: str = "x") -> None:
    fs, path = fsspec.url_to_fs(uri)
    fs.makedirs(fs._parent(path), exist_ok=True)
    fs.pipe_file(path, text.encode())


def _read(uri: str) -> str:
    with fsspec.open(uri, "r") as file:
        return file.read()


def test_paths_of_a_run_are_read_where_they_were_written(uri: str) -> None:
    run = Run(uri)
    run.write_text("a/b.txt", "hello")
    assert _read(run.path("a", "b.txt")) == "hello"
    assert run.fs.exists(run.path("a", "b.txt"))
    assert Run(run.uri).uri == run.uri
    assert ("://" in run.uri) == ("://" in uri)


def test_how_a_stage_runs_is_no_part_of_its_digest(uri: str) -> None:
    """A run that failed too often, or writes checkpoints too rarely, is not trained anew for another setting."""
    run = Run(uri)
    base = _stage(run, {"train": TrainConfig(), "training": TrainingConfig()}).digest
    how = {"train": TrainConfig(checkpoint_steps=7, max_checkpoints=9), "training": TrainingConfig(max_failures=9)}
    assert _stage(run, how).digest == base
    assert _stage(run, {**how, "training": TrainingConfig(threads=2, worker_cpus=0.5, workers=2)}).digest == base
    assert _stage(run, {**how, "training": TrainingConfig(zero_stage=3)}).digest != base


def test_the_digest_is_of_configuration_and_inputs_and_not_of_dict_order(uri: str) -> None:
    run = Run(uri)
    first, second = (Manifest("shards", digest, "", 0.0) for digest in ("1", "2"))
    config = {"a": 1, "b": {"c": TrainConfig(), "d": [1, 2]}}
    base = _stage(run, config, [first]).digest
    assert _stage(run, {"b": {"d": [1, 2], "c": TrainConfig()}, "a": 1}, [first]).digest == base
    assert _stage(Run(f"{uri}-elsewhere"), config, [first]).digest == base
    others = [
        _stage(run, {**config, "a": 2}, [first]),
        _stage(run, {"a": 1, "b": {"c": TrainConfig(lr=0.5), "d": [1, 2]}}, [first]),
        _stage(run, {"a": 1, "b": {"c": TrainConfig(), "d": [2, 1]}}, [first]),
        _stage(run, config, [second]),
        _stage(run, config, [first, second]),
        _stage(run, config, [second, first]),
        _stage(run, config),
        _stage(run, config, [first], name="clean"),
    ]
    assert len({base, *(stage.digest for stage in others)}) == 1 + len(others)
    moved = Manifest("shards", "1", "another/place", 99.0, {"rows": 3})
    assert _stage(run, config, [moved]).digest == base, "where and how long a stage ran does not change what it made"


def test_a_stage_without_a_manifest_is_not_done(uri: str) -> None:
    run = Run(uri)
    stage = _stage(run)
    _write(f"{stage.path}/shard=a/part-0.parquet")
    assert _stage(run).manifest is None and run.reused == []


def test_finish_writes_the_manifest_and_empties_the_work_folder(uri: str) -> None:
    run = Run(uri)
    stage = _stage(run, {"a": 1})
    _write(f"{stage.work}/checkpoint/1")
    _write(f"{stage.path}/part-0")
    manifest = stage.finish(rows_in=3, rows_out=2, tags={"x": 1})
    assert manifest.counts == {"rows_in": 3, "rows_out": 2, "tags": {"x": 1}} and manifest.seconds >= 0
    assert _stage(run, name="next").finish(Manifest("parse", "1", "", 60.0)).seconds >= 60
    assert not run.fs.exists(stage.work) and run.fs.exists(f"{stage.path}/part-0")
    again = _stage(Run(uri), {"a": 1})
    assert again.manifest == manifest
    assert _stage(Run(uri), {"a": 2}).manifest is None


def test_what_was_done_before_is_noted_as_reused(uri: str) -> None:
    first = Run(uri)
    manifest = _stage(first).finish()
    assert first.reused == []
    second = Run(uri)
    _stage(second)
    assert second.reused == [manifest]


def test_a_run_that_was_moved_finds_its_stages_where_they_are_now(tmp_path: Path) -> None:
    _stage(Run(str(tmp_path / "old"))).finish(rows=1)
    (tmp_path / "old").rename(tmp_path / "new")
    stage = _stage(Run(str(tmp_path / "new")))
    assert stage.manifest is not None and stage.manifest.path == stage.path and "new" in stage.path


def test_a_relative_uri_does_not_depend_on_where_the_process_goes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Run("runs/x").path("a") == str(tmp_path / "runs/x/a")


def test_a_text_is_written_whole_or_the_old_one_stays(uri: str) -> None:
    target = f"{uri}/deep/down/file.json"
    write_text(target, "first")
    write_text(target, "second é")
    fs, path = fsspec.url_to_fs(target)
    assert fs.cat_file(path) == "second é".encode()
    with pytest.raises(UnicodeEncodeError):
        write_text(target, "third \ud800")  # a lone surrogate cannot be written
    assert fs.cat_file(path) == "second é".encode()
    assert [name.rsplit("/", 1)[-1] for name in fs.ls(fs._parent(path), detail=False)] == ["file.json"]
