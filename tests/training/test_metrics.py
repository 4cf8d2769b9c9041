"""Contract: the metrics of a training have each recorded step once, in order, whatever was restarted; the number of
lines is bounded; a line is JSON; TensorBoard events hold the same values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ram_ray.training.metrics import EVENTS, MAX_LINES, METRICS, Metrics, MetricsRecorder, read_lines, write_metrics
from ram_ray.training.step_files import remove_later_files


def _recorder(folder: str, *, first: int = 0, total_steps: int = 12) -> MetricsRecorder:
    return MetricsRecorder(folder, total_steps=total_steps, steps_per_epoch=4, batch_size=8, first=first)


def _train(folder: str, *, first: int, killed_after: int, checkpoint_steps: int, total_steps: int = 12) -> None:
    """Record the steps of a worker that starts from a checkpoint."""
    remove_later_files(folder, first)
    recorder = _recorder(folder, first=first, total_steps=total_steps)
    for step in range(first + 1, killed_after + 1):
        recorder.add(step, {"total": step + first / 1000}, 1e-4)
        if step % checkpoint_steps == 0 or step == total_steps:
            recorder.write(step)


def _read(folder: str) -> list[Metrics]:
    return [Metrics.model_validate_json(line) for line in read_lines(folder)]


@pytest.mark.parametrize("place", ["local", "memory"])
def test_a_killed_training_leaves_each_step_once(tmp_path: Path, place: str) -> None:
    folder = f"{tmp_path}/metrics" if place == "local" else f"memory://{tmp_path}/metrics"
    _train(folder, first=0, killed_after=7, checkpoint_steps=4)  # steps 5 to 7 are lost with the worker
    assert [row.step for row in _read(folder)] == [1, 2, 3, 4]
    _train(folder, first=4, killed_after=9, checkpoint_steps=4)
    _train(folder, first=4, killed_after=11, checkpoint_steps=3)  # the checkpoint of step 8 was not complete
    assert [row.step for row in _read(folder)] == list(range(1, 10))
    _train(folder, first=9, killed_after=12, checkpoint_steps=4)
    rows = _read(folder)
    assert [row.step for row in rows] == list(range(1, 13))
    assert [row.losses["total"] for row in rows[3:6] + rows[9:10]] == [4.0, 5.004, 6.004, 10.009], "as trained last"


def test_a_line_is_json_with_the_fields_of_a_step(tmp_path: Path) -> None:
    recorder = _recorder(str(tmp_path))
    recorder.add(1, {"total": 3.0, "tag": 2.5, "text": float("nan")}, 1e-4)
    recorder.add(2, {"total": 2.0}, 2e-4)
    recorder.write(2)
    first, second = (json.loads(line, parse_constant=pytest.fail) for line in read_lines(str(tmp_path)))
    assert first.pop("images_per_s") > 0 and second["images_per_s"] > 0
    assert first == {"step": 1, "epoch": 0.25, "lr": 1e-4, "losses": {"total": 3.0, "tag": 2.5}}
    recorder.write(3)
    assert len(list(tmp_path.iterdir())) == 1, "nothing new is no file"


@pytest.mark.parametrize("total_steps", [1, 1999, 3999, 10_001, 1_000_000])
def test_the_number_of_lines_is_bounded_and_the_last_step_has_one(tmp_path: Path, total_steps: int) -> None:
    _train(str(tmp_path), first=0, killed_after=total_steps, checkpoint_steps=100_000, total_steps=total_steps)
    steps = [row.step for row in _read(str(tmp_path))]
    assert steps[-1] == total_steps and min(total_steps, MAX_LINES) <= len(steps) < 2 * MAX_LINES
    assert len({after - before for before, after in zip(steps[:-2], steps[1:-1], strict=True)}) <= 1, "no gaps"


def test_where_nothing_is_recorded_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recorder = _recorder("")
    recorder.add(1, {"total": 1.0}, 1e-4)
    recorder.write(1)
    assert list(tmp_path.iterdir()) == [] and read_lines("") == [] and read_lines(f"{tmp_path}/none") == []


def test_tensorboard_events_hold_the_metrics_and_a_second_write_replaces_them(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    recorder = _recorder(f"{tmp_path}/work")
    recorder.add(1, {"total": 3.0, "tag": 2.5}, 1e-4)
    recorder.add(2, {"total": 2.0}, 1e-4)
    recorder.write(2)
    lines = read_lines(f"{tmp_path}/work")
    model = tmp_path / "model"
    model.mkdir()
    write_metrics(lines, model, tensorboard=False)
    assert [file.name for file in model.iterdir()] == [METRICS] and (model / METRICS).read_text() == "".join(lines)
    for _ in range(2):
        write_metrics(lines, model, tensorboard=True)
    assert [file for file in (model / "tensorboard").iterdir()] == [model / EVENTS]
    data, values = (model / EVENTS).read_bytes(), {}
    while data:  # records: length (8 bytes), its checksum (4), event, checksum (4)
        length = int.from_bytes(data[:8], "little")
        assert int.from_bytes(data[8:12], "little") == masked_crc32c(data[:8])
        event = Event.FromString(data[12 : 12 + length])
        values |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        data = data[16 + length :]
    assert {key: value for key, value in values.items() if "losses" in key[0]} == {
        ("losses/total", 1): 3.0,
        ("losses/tag", 1): 2.5,
        ("losses/total", 2): 2.0,
    }
    assert values["epoch", 1] == 0.25 and values["lr", 2] == pytest.approx(1e-4) and ("images_per_s", 2) in values
    (tmp_path / "empty").mkdir()
    write_metrics([], tmp_path / "empty", tensorboard=True)
    assert (tmp_path / "empty" / EVENTS).exists() and (tmp_path / "empty" / METRICS).read_text() == ""
