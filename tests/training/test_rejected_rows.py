"""Contract: in = out + rejected: rejected rows survive any number of restarts, once each; and a run that can read no
image ends.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ram_ray.data.images import Limits
from ram_ray.records import REJECTED
from ram_ray.settings.training import TrainConfig, TrainingConfig
from ram_ray.training.feed import TaggerFeed
from ram_ray.training.order import Table
from ram_ray.training.rejected_rows import RejectedRows, read
from ram_ray.training.step_files import remove_later_files
from ram_ray.training.worker import MAX_UNREADABLE, Job, UnreadableImageCheck


def _batch(*rows: tuple[str, str]) -> dict[str, np.ndarray]:
    """Make the columns of a feed's batch from (key, reason)."""
    keys, reasons = (np.array(column) for column in zip(*rows, strict=True))
    return {"key": keys, "shard": np.full(len(rows), "s"), "reason": reasons, "detail": np.full(len(rows), "why")}


def _keys(folder: Path) -> list[str]:
    return read(str(folder))["key"].to_pylist()


def test_rows_of_all_workers_are_read_once_each(tmp_path: Path) -> None:
    first, second = (RejectedRows(str(tmp_path), stage="pretrain", rank=rank) for rank in (0, 1))
    first.add(_batch(("s/1", "truncated"), ("s/2", ""), ("", "truncated")))
    second.add(_batch(("s/3", "undecodable")))
    assert first.first_message == "s/1 of shard s: truncated (why)"
    for rows in (first, second):
        rows.write(8)
    second.add(_batch(("s/1", "truncated"), ("s/3", "undecodable")))  # in the next epoch
    for rows in (first, second):
        rows.write(16)
    table = read(str(tmp_path))
    assert table.schema.equals(REJECTED)
    assert table.to_pylist() == [
        {"key": key, "shard": "s", "stage": "pretrain", "reason": reason, "detail": "why"}
        for key, reason in (("s/1", "truncated"), ("s/3", "undecodable"))
    ]
    assert len(list(tmp_path.iterdir())) == 3, "a worker that rejected nothing writes nothing"


def test_rows_written_after_the_checkpoint_are_removed(tmp_path: Path) -> None:
    rows = RejectedRows(str(tmp_path), stage="pretrain", rank=1)
    for step, key in ((4, "s/1"), (8, "s/2"), (12, "s/3")):
        rows.add(_batch((key, "truncated")))
        rows.write(step)
    remove_later_files(str(tmp_path), 8)
    assert _keys(tmp_path) == ["s/1", "s/2"]
    remove_later_files(str(tmp_path), 0)
    assert _keys(tmp_path) == [] and _keys(tmp_path / "none") == []


class _Job(Job):
    def build(self, device):
        raise NotImplementedError

    def save(self, step, folder):
        raise NotImplementedError


def _check(*, batch_size: int, checkpoint_steps: int = 1000) -> UnreadableImageCheck:
    config = TrainConfig(batch_size=batch_size, checkpoint_steps=checkpoint_steps)
    feed = TaggerFeed(Table("", ()), config, 0, Limits(1, 1, 1), "")
    return UnreadableImageCheck(_Job("pretrain", config, TrainingConfig(), feed, total_steps=10**6, steps_per_epoch=1))


def test_many_consecutive_unreadable_images_end_the_run_and_the_error_names_the_first(tmp_path: Path) -> None:
    rejected = RejectedRows(str(tmp_path), stage="pretrain", rank=0)
    rejected.add(_batch(("s/1", "broken_archive"), ("s/2", "truncated")))
    unreadable, steps = _check(batch_size=416), -(-MAX_UNREADABLE // 416)
    for _ in range(5):  # a single readable image resets the count
        for _ in range(steps - 1):
            unreadable.check(0, rejected)
        unreadable.check(1, rejected)
    for _ in range(steps - 1):
        unreadable.check(0, rejected)
    with pytest.raises(ValueError, match=r"pretrain: none of 1248 images.*s/1 of shard s: broken_archive \(why\)$"):
        unreadable.check(0, rejected)


def test_no_checkpoint_is_made_of_unreadable_images_only(tmp_path: Path) -> None:
    rejected = RejectedRows(str(tmp_path), stage="pretrain", rank=0)
    unreadable = _check(batch_size=8, checkpoint_steps=2)
    unreadable.check(0, rejected)
    with pytest.raises(ValueError, match="none of 16 images"):
        unreadable.check(0, rejected)
