"""Contract: `ram-ray plan` prints every stage and ends with 0, refuses with 1 and one line, and loads no torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ram_ray.cli.main import main

NODES = ["--nodes", "head=1", "p4de.24xlarge=1", "c6i.16xlarge=8"]
LOAD = ["plan", "--preset", "ram_14m", "--images", "14e6", "--shards", "1400"]


def test_a_plan_is_a_table(capsys: pytest.CaptureFixture) -> None:
    assert main([*LOAD, *NODES]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["stage", "rows", "passes"] and not err
    assert any(line.startswith("regions_1 ") for line in lines) and "14,000,000 images in 1,400 shards" in out
    assert main([*LOAD, *NODES, "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("| stage | rows |")


def test_a_plan_is_json(capsys: pytest.CaptureFixture) -> None:
    assert main([*LOAD, *NODES, "--json", "--eval-images", "5e4", "--eval-shards", "5"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["can_end"] and data["workload"]["images"] == 14_000_000 and data["workload"]["held_out"] == 50_000
    assert data["workload"]["finetune_images"] == 113_000  # `finetune.shards` selects COCO
    assert all(stage["wall_seconds"] >= 0 and stage["requests"]["get"] >= 0 for stage in data["stages"])


def test_what_cannot_end_is_refused(capsys: pytest.CaptureFixture) -> None:
    assert main([*LOAD, "--nodes", "c6i.16xlarge=8"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("stage ") and err.count("\n") == 1
    assert err.startswith(
        "ram-ray plan: cannot end: pretrain: no GPU: 8 GPUs are asked for, and there is 0; add machines"
    )
    assert main([*LOAD, *NODES, "--within", "10", "--json"]) == 1
    out, err = capsys.readouterr()
    assert not json.loads(out)["can_end"] and "time: " in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("plan --preset ram_14m --images 14e6", "--images and --shards are needed"),
        ("plan --preset ram_14m --images 0.5 --shards 1", "--images 0.5: write a whole number"),
        ("plan --preset ram_14m --images 10 --shards 20", "--shards 20: write a number from 1 to"),
        ("plan --preset ram_99m --images 10 --shards 2", "--preset ram_99m: no such preset"),
        ("plan --images 10 --shards 2 --nodes pear=1", "pear is not in the list"),
        ("plan --images 10 --shards 2 --nodes c6i.16xlarge=\u00b2", "write KIND=COUNT"),
        ("plan --images 10 --shards 2 --nodes c6i.16xlarge=10000", "write 2000 or fewer"),
        ("plan --images 10 --shards 2 --nodes a=1,cpus=1e9,memory=8", "1e+09 CPUs; write at most 500,000"),
        ("plan --images 10 --shards 2 --finetune-images 0", "--finetune-images 0: write a whole number from 1 to 1e12"),
        ("plan --images 10 --shards 2 --finetune-images 11", "--finetune-images 11: there are 10 --images"),
        ("plan --images 10 --shards 2 --eval-images 5 --eval-shards 0", "--eval-shards 0: write a number from 1"),
        ("plan --images 10 --shards 2 --store s3://b", "--store goes with --measure"),
        ("plan --compare /no/such/run", "no config.yaml"),
        ("plan --images 10 --shards 2 --constants /no/such/file", "/no/such/file"),
    ],
)
def test_a_mistake_is_one_line(line: str, message: str, capsys: pytest.CaptureFixture) -> None:
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and not out


def test_planning_needs_no_torch() -> None:
    """In a process of its own, since this one may have it."""
    import subprocess

    line = [*LOAD, *NODES]
    code = f"import sys; from ram_ray.cli.main import main; main({line!r}); assert 'torch' not in sys.modules"
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
