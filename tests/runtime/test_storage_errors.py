"""Contract: a storage that fails now and then costs only time; a full storage is one line that names it.

The jobs run as users run them, in a process and on a Ray of their own. What a full disk does is slow (mounts, runs).
"""

from __future__ import annotations

import ast
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ram_ray.runtime.storage import explain_full
from ram_ray.runtime.tasks import Task
from tests.bench.scale import measure, name_tars, write_models, write_tar
from tests.s3 import FAULTS, S3Proxy

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    *("--set", "resources.task_cpus=0.75", "--set", "resources.num_cpus=3", "--set", "resources.object_store_gb=0.2"),
    *("--set", "data.rows_per_block=20"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    return folder


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tar") / "template.tar"
    write_tar(path, rows=30)
    return path


def test_a_job_on_a_storage_that_fails_now_and_then_leaves_every_row(s3: S3Proxy, models: Path, tar: Path) -> None:
    """Reads and writes of our own, of Ray Data and of its checkpoints."""
    data, run = name_tars(tar, count=2, folder=tar.parent, proxy=s3)
    s3.share, s3.faults = 0.07, FAULTS
    try:
        measured = measure(60, data=data, run=run, models=models, proxy=s3, job=SMALL)  # counts the rows
    finally:
        s3.share = 0.0
    assert {"shards", "vocabulary", "represent", "parse"} <= set(measured.stages)
    assert s3.counts["failed"] >= 5


class Flaky:
    """Fails as a storage does the first times, as files in a folder tell."""

    def __init__(self, folder: Path, error: Exception, times: int) -> None:
        self.folder, self.error, self.times = folder, error, times

    def __call__(self, block: Any) -> Any:
        if len(list(self.folder.iterdir())) < self.times:
            (self.folder / os.urandom(8).hex()).touch()
            raise self.error
        return block


def _remote_calls(source: str) -> list[str]:
    """Every `ray.remote(...)` of a source, less actors, as text."""
    tree = ast.parse(source)
    actors = {
        id(decorator) for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for decorator in node.decorator_list
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and id(node) not in actors]
    return [ast.unparse(call) for call in calls if ast.unparse(call.func) == "ray.remote"]


def test_every_task_of_our_own_tries_again_what_its_storage_refused() -> None:
    calls = [(path.name, call) for path in (ROOT / "ram_ray").rglob("*.py") for call in _remote_calls(path.read_text())]
    assert {name for name, _ in calls} == {"tasks.py", "duplicates.py"}  # others make a `tasks.Task`
    assert all("**RETRIES" in call or call == "ray.remote(**options)" for _, call in calls)
    assert _remote_calls("@ray.remote(num_cpus=1)\ndef work(): ...") == ["ray.remote(num_cpus=1)"]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EBUSY, "Service Unavailable"), ConnectionResetError("reset"), TimeoutError("timed out")],
    ids=lambda error: type(error).__name__,
)
def test_a_task_tries_again_what_its_storage_refused(ray_cluster: None, tmp_path: Path, error: Exception) -> None:
    import ray
    import ray.data

    folder = tmp_path / "tries"
    folder.mkdir()
    rows = ray.data.range(8, override_num_blocks=2).map_batches(Flaky(folder, error, 1), num_cpus=0.5).take_all()
    assert sorted(row["id"] for row in rows) == list(range(8)) and len(list(folder.iterdir())) == 1
    flaky = Flaky(folder, error, 2)
    assert Task(lambda block: flaky(block), num_cpus=0.5).run(7) == 7 and len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), FileNotFoundError("gone"), ValueError("no number")],
    ids=lambda error: type(error).__name__,
)
def test_what_trying_again_cannot_mend_fails_at_once(ray_cluster: None, tmp_path: Path, error: Exception) -> None:
    import ray.data

    folder = tmp_path / "tries"
    folder.mkdir()
    with pytest.raises(Exception, match=str(error.args[-1])):
        ray.data.range(8, override_num_blocks=1).map_batches(Flaky(folder, error, 1), num_cpus=0.5).take_all()
    assert len(list(folder.iterdir())) == 1


def test_what_is_full_is_said_in_one_line(tmp_path: Path) -> None:
    from ray.exceptions import ObjectStoreFullError, OutOfDiskError

    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "a"))
    remote = RuntimeError("OSError: [Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device")
    lines = {
        explain_full(full, folder=None): f"no space left at {tmp_path}/a; free some space",
        explain_full(remote, folder=str(tmp_path)): str(tmp_path),
        explain_full(OutOfDiskError("x"), folder=None): "no space left in Ray's temporary folder",
        explain_full(ObjectStoreFullError("x"), folder=None): "Ray's object store is full; set resources.buffer_mb",
    }
    for line, words in lines.items():
        assert line and words in line and "\n" not in line
    assert explain_full(OSError(errno.EBUSY, "Service Unavailable"), folder=None) is None
    assert explain_full(ValueError("labels.min_count: 28"), folder=None) is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 0.3 MB; `mount -o remount,size=...` makes it larger."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here: that needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_goes_on(small_disk: Path, models: Path, tmp_path: Path) -> None:
    write_tar(tmp_path / "many.tar", rows=6000)
    data, _ = name_tars(tmp_path / "many.tar", count=1, folder=tmp_path, proxy=None)
    larger = ["--set", "data.rows_per_block=500"]
    command = [sys.executable, "jobs/parse.py", "--data", data, "--run", str(small_disk / "run")]
    command += ["--set", f"represent.clip={models}", "--set", f"tokenizer={models}", *SMALL, *larger]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert ended.returncode == 1 and len(lines) == 1, ended.stderr
    assert (
        "no space left" in lines[0] and str(small_disk) in lines[0] and lines[0].split(": ")[1] in ("shards", "parse")
    )
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    measured = measure(6000, data=data, run=str(small_disk / "run"), models=models, proxy=None, job=[*SMALL, *larger])
    assert measured.stages["parse"] > 0
    assert not list(small_disk.rglob("*.part"))
