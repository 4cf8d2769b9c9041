"""Contract: a stage is done when its manifest exists, which is written last and whole; its folder's name is a digest
of its settings and inputs; its result is read back from the manifest, where the run is now.

Each test runs on a local folder and on an object store (fsspec's `memory://`).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from pathlib import Path

import fsspec
import pytest
from pydantic import ValidationError

from ram_ray.results import DualEncoderResult, Vocabulary
from ram_ray.runtime.artifacts import Run, Stage, StageResult, StopRun, write_text
from ram_ray.settings.section import StageSettings
from ram_ray.settings.training import TrainConfig, TrainingConfig


class Rows(StageResult):
    rows: int
    tags: dict[str, int] = {}


class Settings(StageSettings):
    a: int = 1
    train: TrainConfig = TrainConfig()
    training: TrainingConfig = TrainingConfig()
    names: tuple[str, ...] = ("x", "y")


@pytest.fixture(params=["local", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "run") if request.param == "local" else f"memory://{uuid.uuid4().hex}/run"


def _stage(run: Run, inputs: Sequence[StageResult] = (), *, name: str = "parse", **settings) -> Stage[Rows]:
    return run.stage(name, Rows, settings=Settings(**settings), inputs=inputs)


def _rows(digest: str, **changes) -> Rows:
    return Rows.model_validate({"stage": "shards", "digest": digest, "path": "", "seconds": 0, "rows": 0, **changes})


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


def test_how_a_stage_runs_is_not_part_of_its_digest(uri: str) -> None:
    """A run that failed too often, or writes checkpoints too rarely, is not trained anew for another setting."""
    run = Run(uri)
    base = _stage(run).digest
    train = TrainConfig(checkpoint_steps=7, max_checkpoints=9)
    assert _stage(run, train=train, training=TrainingConfig(max_failures=9)).digest == base
    assert _stage(run, train=train, training=TrainingConfig(threads=2, worker_cpus=0.5, workers=2)).digest == base
    assert _stage(run, train=train, training=TrainingConfig(zero_stage=3)).digest != base


def test_the_digest_is_of_settings_and_inputs(uri: str) -> None:
    run = Run(uri)
    first, second = _rows("1"), _rows("2")
    base = _stage(run, [first]).digest
    assert _stage(run, [first], names=("x", "y"), a=1).digest == base
    assert _stage(Run(f"{uri}-elsewhere"), [first]).digest == base
    others = [
        _stage(run, [first], a=2),
        _stage(run, [first], train=TrainConfig(lr=0.5)),
        _stage(run, [first], names=("y", "x")),
        _stage(run, [second]),
        _stage(run, [first, second]),
        _stage(run, [second, first]),
        _stage(run),
        _stage(run, [first], name="clean"),
    ]
    assert len({base, *(stage.digest for stage in others)}) == 1 + len(others)
    moved = _rows("1", path="another/place", seconds=99.0, rows=3)
    assert _stage(run, [moved]).digest == base, "where and how long a stage ran does not change what it made"


def test_a_stage_without_a_manifest_is_not_done(uri: str) -> None:
    results: list[StageResult] = []
    run = Run(uri, on_result=lambda result, _: results.append(result))
    stage = _stage(run)
    _write(f"{stage.path}/shard=a/part-0.parquet")
    assert _stage(run).result is None and results == []


def test_finish_writes_the_manifest_and_empties_the_work_folder(uri: str) -> None:
    run = Run(uri)
    stage = _stage(run)
    _write(f"{stage.work}/checkpoint/1")
    _write(f"{stage.path}/part-0")
    result = stage.finish(rows=3, tags={"x": 1})
    assert (result.rows, result.tags, result.path) == (3, {"x": 1}, stage.path) and result.seconds >= 0
    assert json.loads(_read(f"{stage.path}.json")) == result.model_dump(), "flat"
    assert _stage(run, name="next").finish(_rows("1", seconds=60.0), rows=0).seconds >= 60
    assert not run.fs.exists(stage.work) and run.fs.exists(f"{stage.path}/part-0")
    assert _stage(Run(uri)).result == result
    assert _stage(Run(uri), a=2).result is None


def test_a_field_that_is_missing_or_unknown_is_not_written(uri: str) -> None:
    stage = _stage(Run(uri))
    for wrong in ({}, {"rows": 1, "row": 2}, {"rows": "many"}):
        with pytest.raises(ValidationError):
            stage.finish(**wrong)
    assert _stage(Run(uri)).result is None


def test_listeners_are_told_of_each_result(uri: str) -> None:
    told: list[tuple[StageResult, bool]] = []
    first = _stage(Run(uri, on_result=lambda *result: told.append(result))).finish(rows=1)
    assert told == [(first, False)]
    _stage(Run(uri, on_result=lambda *result: told.append(result)))
    assert told[1:] == [(first, True)]


def test_a_run_ends_at_the_stage_that_was_asked_for(uri: str) -> None:
    run = Run(uri, last="parse")
    run.stop_after("shards")
    with pytest.raises(StopRun):
        run.stop_after("parse")
    Run(uri).stop_after("parse")


def test_a_run_that_was_moved_finds_its_stages_where_they_are_now(tmp_path: Path) -> None:
    """So do the URIs inside the run that a result names; others stay."""
    old, new = Run(str(tmp_path / "old")), Run(str(tmp_path / "new"))
    stage = old.stage("represent", DualEncoderResult, settings=Settings(), inputs=[])
    stage.finish(source=stage.path, revision=str(tmp_path / "elsewhere"))
    (tmp_path / "old").rename(tmp_path / "new")
    moved = new.stage("represent", DualEncoderResult, settings=Settings(), inputs=[])
    assert moved.result is not None and moved.result.path == moved.path == f"{tmp_path}/new/models/represent/" + (
        stage.digest
    )
    assert moved.result.source == moved.path and moved.result.revision == str(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("manifest", "problem"),
    [
        ("{", "Expecting"),
        ('{"stage": "vocabulary", "digest": "1"}', "path"),
        ('{"stage": "vocabulary", "digest": "1", "path": "x", "seconds": 1, "counts": {"words": 9}}', "words: "),
        ('{"stage": "vocabulary", "digest": "1", "path": "x", "seconds": 1, "words": "many"}', "words: "),
    ],
)
def test_a_manifest_that_cannot_be_read_is_named_with_the_fix(uri: str, manifest: str, problem: str) -> None:
    """It is not taken for a stage that is not done, which would write its rows beside those that are there."""
    run = Run(uri)
    stage = run.stage("vocabulary", Vocabulary, settings=Settings(), inputs=[])
    _write(stage.manifest_path, manifest)
    with pytest.raises(ValueError, match="cannot be read") as caught:
        run.stage("vocabulary", Vocabulary, settings=Settings(), inputs=[])
    text = str(caught.value)
    assert text.startswith(stage.manifest_path) and problem in text and "delete it" in text and "\n" not in text


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
