"""Contract: a run whose driver is killed in the middle of a stage ends, when run again, with the same counts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, str(ROOT / "jobs" / "clean.py"), "--preset", str(ROOT / "tests" / "tiny_run.yaml")]
COMMAND += ["--set", "data.rows_per_block=20"]  # several blocks: some are done when the driver is killed
TIMEOUT_S = 300


def start(folder: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    with open(folder.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            [*COMMAND, "--run", str(folder)], stdout=log, stderr=log, env=environment, start_new_session=True
        )


def finish(folder: Path) -> None:
    process = start(folder)
    assert process.wait(TIMEOUT_S) == 0, folder.with_suffix(".log").read_text()[-3000:]


def counts(folder: Path) -> dict[str, dict]:
    wanted = ("rows_in", "rows_out", "rejected", "tags", "tp", "fp", "fn", "steps", "labels", "system_version")
    stages = {}
    for file in [*folder.glob("annotations/*/*.json"), *folder.glob("models/*/*.json")]:
        manifest = json.loads(file.read_text())
        stages[manifest["stage"]] = {name: manifest[name] for name in wanted if name in manifest}
    return stages


def rows(folder: Path, stage: str, columns: list[str]) -> list[str]:
    """Rows of a stage as text, each as often as it is there; scores to three digits."""
    found = []
    for file in folder.glob(f"annotations/{stage}/**/*.parquet"):
        for row in pq.read_table(file, columns=columns, partitioning=None).to_pylist():
            for tag in row.get("removed") or []:
                tag["score"] = round(tag["score"], 3)
            found.append(json.dumps(row))
    return sorted(found)


pytestmark = pytest.mark.slow  # a whole run each: `make test-slow`


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    finish(folder)
    return folder


@pytest.mark.parametrize(
    ("stage", "sign"),
    [
        ("parse", "work/parse/*/checkpoint"),
        ("pretrain", "work/pretrain/*/train/checkpoints/checkpoint_*"),
        ("generate", "work/scores_1/*/checkpoint"),
        ("clean", "work/regions_1/*/checkpoint"),
        ("detection", "annotations/regions_1/*/shard=*/*.parquet"),
        ("layout", "work/removals_1/*/layout/done/*"),
        ("clustering", "annotations/removals_1/*/labels/*.parquet"),
    ],
)
def test_killed_driver(unbroken: Path, tmp_path: Path, stage: str, sign: str) -> None:
    folder = tmp_path / "run"
    process = start(folder)
    deadline = time.monotonic() + TIMEOUT_S
    while not list(folder.glob(sign)):
        assert process.poll() is None and time.monotonic() < deadline, folder.with_suffix(".log").read_text()[-3000:]
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {
        file: file.stat().st_mtime_ns
        for sign in ("*/*/*.json", "annotations/removals_*/*/labels/*.parquet")
        for file in folder.glob(sign)
    }
    finish(folder)
    assert {file: file.stat().st_mtime_ns for file in done} == done, "a stage that was done was repeated"
    assert counts(folder) == counts(unbroken)
    assert rows(folder, "regions_1", ["key"]) == rows(unbroken, "regions_1", ["key"])
    assert rows(folder, "clean_1", ["key", "removed"]) == rows(unbroken, "clean_1", ["key", "removed"])
