"""Contract: after a preemption notice the run writes a checkpoint, and resumes from it on the remaining nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.preempted_run import STEPS

pytestmark = pytest.mark.slow  # starts its own cluster of two nodes, and waits for the deadline of the notice


def test_a_notice_leads_to_a_checkpoint_and_the_run_resumes_with_one_worker(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.training.preempted_run", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("RAY_ADDRESS", None)
    root = Path(__file__).resolve().parents[2]
    process = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=400)
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-3000:]
    records = [json.loads(file.read_text()) for file in (tmp_path / "records").iterdir()]
    worlds: dict[int, set[int]] = {}
    for record in records:
        worlds.setdefault(record["step"], set()).add(record["world"])
    assert sorted(worlds) == list(range(STEPS))
    starts = sorted({int(file.name.partition("-")[0]) for file in (tmp_path / "records").iterdir()})
    assert starts[0] == 0 and len(starts) > 1 and starts[1] > 0, "the second start resumes from the notice's checkpoint"
    assert 2 in worlds[0] | worlds[1] and worlds[STEPS - 1] == {1}
