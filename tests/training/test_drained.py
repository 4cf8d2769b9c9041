"""Contract: a node that is announced to go away is left with a checkpoint; the run goes on from it with the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.drained import STEPS

pytestmark = pytest.mark.slow  # a cluster of two nodes of its own, and the notice's time


def test_a_notice_leads_to_a_checkpoint_and_the_run_goes_on_with_one_worker(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.training.drained", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("RAY_ADDRESS", None)
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    records = [json.loads(file.read_text()) for file in (tmp_path / "records").iterdir()]
    worlds = {record["step"]: {one["world"] for one in records if one["step"] == record["step"]} for record in records}
    assert sorted(worlds) == list(range(STEPS))
    starts = sorted({int(file.name.partition("-")[0]) for file in (tmp_path / "records").iterdir()})
    assert starts[0] == 0 and len(starts) > 1 and starts[1] > 0, "the second start goes on from the notice's checkpoint"
    assert 2 in worlds[0] | worlds[1] and worlds[STEPS - 1] == {1}
