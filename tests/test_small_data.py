"""Contract: a run on ten images, which only its stages can count, ends in one line that begins with the setting to
change, and no traceback reaches the screen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEN_IMAGES = [
    "data.drawn={num_web: 10, num_clean: 0, num_eval: 1, scenes_per_shard: 10, image_size: 32}",
    "data.measure={captions_per_image: 1}",
    "represent.images=real",
    "finetune.shards='*'",
]


@pytest.mark.parametrize(
    ("sets", "until", "line"),
    [
        (["labels.min_count=11"], "labels", "error: labels.min_count: no name of the kinds "),
        (
            ["labels.min_count=1", "pretrain.epochs=1", "pretrain.batch_size=11"],
            "pretrain",
            "error: pretrain.batch_size: 1 epochs of ",
        ),
    ],
    ids=["labels", "pretrain"],
)
def test_too_little_data_is_one_line(sets: list[str], until: str, line: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ram_ray.cli", "run", "--preset", str(ROOT / "tests" / "tiny_run.yaml")]
    command += ["--until", until, "--run", str(tmp_path / "run")]
    command += [part for setting in [*TEN_IMAGES, *sets] for part in ("--set", setting)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    process = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=environment)
    assert process.returncode == 2, process.stderr
    assert "Traceback" not in process.stdout + process.stderr
    (error,) = [text for text in process.stderr.splitlines() if text.startswith("error: ")]
    assert error.startswith(line) and error.endswith("lower, or give more data")
