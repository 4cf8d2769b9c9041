"""Contract: the script for a machine with a GPU runs, in small on a CPU, and says in one line where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("check_gpu.py")


def _run(*options: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(SCRIPT), *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)


def test_without_a_gpu_it_says_so() -> None:
    done = _run()
    assert done.returncode == 3 and done.stdout == "there is no GPU here: nothing was checked\n"


def test_every_check_runs_in_small_on_a_cpu() -> None:
    done = _run("--device", "cpu", "--small")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == 8 and done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert all(line["ok"] or (line["ok"] is None and line["skipped"]) for line in lines)
