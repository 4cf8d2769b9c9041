"""Contract: a node that dies in the middle of a stage costs what ran on it: the stage ends with every row once, on what
is left, and uses a node that comes later."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from ram_ray.runtime.cluster import ENVIRONMENT
from tests.node_death import ROWS

REPO = Path(__file__).resolve().parents[1]
SECONDS = 500


pytestmark = pytest.mark.slow  # a cluster of four nodes each


@pytest.mark.parametrize("stage", ["parse", "generate", "clean"])
def test_a_node_that_dies(stage: str, tmp_path: Path, tiny_bundle: str) -> None:
    command = [sys.executable, "-m", "tests.node_death", stage, str(tmp_path), tiny_bundle]
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, cwd=REPO, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["cut_off"], "the node died while the stage ran"
    assert (found["rows"], found["rows_out"], found["once"]) == (ROWS[stage], ROWS[stage], True)
    assert found["third_node_worked"]
