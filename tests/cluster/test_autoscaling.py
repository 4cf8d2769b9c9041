"""Contract: under an autoscaler each stage brings up nodes of the type that it needs and no other, uses all of their
CPUs, and the nodes go when it is done."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ram_ray.runtime.cluster import ENVIRONMENT

REPO = Path(__file__).resolve().parents[2]
SECONDS = 500

pytestmark = pytest.mark.slow  # three nodes each, and the wait until they go


def _run(stage: str, folder: Path, bundle: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.cluster.autoscaled", stage, str(folder), bundle]
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment.pop("RAY_ADDRESS", None)
    completed = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, cwd=REPO, env=environment)
    assert completed.returncode == 0, completed.stderr[-3000:]
    return json.loads(completed.stdout.splitlines()[-1])


def test_parsing_uses_every_cpu_machine_and_no_gpu(tmp_path: Path, tiny_bundle: str) -> None:
    result = _run("parse", tmp_path, tiny_bundle)
    assert result == {"nodes": {"decode": 2}, "cpus": {"decode": 4}, "left": {}}


def test_a_model_brings_gpus_and_all_nodes_go(tmp_path: Path, tiny_bundle: str) -> None:
    found = _run("generate", tmp_path, tiny_bundle)
    assert found["nodes"]["a100"] >= 1
    assert not found["left"], "a node that holds an object that is still referred to never counts as idle"
