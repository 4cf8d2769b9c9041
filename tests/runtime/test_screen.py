"""Contract: a run's own lines are on the terminal and in its log, from whichever process they come; all other output
of its processes, on both streams, from Python or C++, is only in the log; afterwards printing is as before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ram_ray.runtime.progress import worker_lines
from ram_ray.runtime.screen import print_line

REPO = Path(__file__).resolve().parents[2]
SCRIPT = """
import os, subprocess, sys
from pathlib import Path
from ram_ray.runtime.screen import log_path, logged, print_error, print_line

print_line("before")
with logged(Path(sys.argv[1])):
    assert log_path() == Path(sys.argv[1])
    print("noise of python")
    os.write(2, b"noise from below\\n")
    subprocess.run(["echo", "noise of a child"], check=True)
    print_line("own line")
    print_error("own error")
print_line("after")
print("plain")
"""


def test_own_lines_are_on_the_screen_and_all_lines_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "run.log"
    command = [sys.executable, "-c", SCRIPT, str(log)]
    process = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(REPO)}
    )
    assert process.stdout.splitlines() == ["before", "own line", "after", "plain"]
    assert process.stderr.splitlines() == ["own error"]
    lines = ["noise from below", "noise of a child", "noise of python", "own error", "own line"]
    assert sorted(log.read_text().splitlines()) == lines
    assert log.stat().st_mode & 0o077 == 0


def test_a_log_that_cannot_be_written_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code = "from pathlib import Path; from ram_ray.runtime.screen import logged\n"
    code += f"with logged(Path('{tmp_path}/file/a.log')): 1"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO)
    assert f"ValueError: {tmp_path}/file/a.log cannot be written" in process.stderr


def test_a_workers_line_is_printed_by_the_driver(ray_cluster: None, capfd: pytest.CaptureFixture) -> None:
    import ray

    @ray.remote(num_cpus=0.1)
    def work(number: int) -> None:
        print_line(f"line {number} of a task")

    with worker_lines():
        ray.get([work.remote(number) for number in range(3)])
    lines = [line for line in capfd.readouterr().out.splitlines() if "of a task" in line]
    assert sorted(lines) == [f"line {number} of a task" for number in range(3)], "once each, with nothing before it"


def test_a_log_on_a_full_disk_costs_the_log_alone() -> None:
    script = """
import logging
from pathlib import Path
from ram_ray.runtime.screen import logged, print_error, print_line

with logged(Path("/dev/full")):
    logging.warning("noise")
    print_line("own line")
    print_error("own error")
print_line("after")
"""
    command = [sys.executable, "-c", script]
    process = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(REPO)}
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, "own line\nafter\n", "own error\n")
