"""Contract: a run ends with an exit code and at most one line, whatever failed and wherever: 2 and the fix for a user's
mistake, also one found in a worker; 1 with the stage, the cause itself and the log for everything else; 130 for
Ctrl-C. The log has the rest, and Ray's own logs are kept beside it."""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ram_ray.runtime.outcome import describe, find_cause

REPO = Path(__file__).resolve().parents[2]


def _start(work: str, folder: Path) -> subprocess.Popen:
    """A process with a run whose work is the body of a function."""
    body = "\n".join(f"    {line}" for line in work.splitlines())
    code = "import logging, sys\nfrom ram_ray.runtime import cluster, outcome\n"
    code += "logger = logging.getLogger('ram_ray.job')\n"
    code += f"def work():\n{body}\n"
    code += f"sys.exit(outcome.run(work, name='job', folder={str(folder)!r}, stage=lambda: 'parse'))"
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    # Where the tests were started in the background, Ctrl-C is ignored, and a child would ignore it too.
    streams["preexec_fn"] = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen([sys.executable, "-c", code], env=environment, start_new_session=True, **streams)


def _run(work: str, folder: Path) -> tuple[int, list[str], str]:
    """Exit code, lines on the screen, and the log."""
    with _start(work, folder) as process:
        screen, _ = process.communicate()
    (log,) = (folder / "logs").glob("*.log")
    return process.returncode, screen.splitlines(), log.read_text()


def test_a_run_that_ends_well_prints_its_lines(tmp_path: Path) -> None:
    assert _run("print('noise')\nlogger.info('done')", tmp_path)[:2] == (0, ["done"])


def test_a_users_mistake_is_its_own_line(tmp_path: Path) -> None:
    code, lines, log = _run("raise ValueError('data.min_side: write a number')", tmp_path)
    assert (code, lines) == (2, ["error: data.min_side: write a number"]) and "Traceback" in log


def test_any_other_error_names_stage_cause_and_log(tmp_path: Path) -> None:
    code, lines, log = _run("raise OSError(5, 'Input/output error', '/data/run')", tmp_path)
    (path,) = (tmp_path / "logs").glob("*.log")
    cause = "OSError: [Errno 5] Input/output error: '/data/run'"
    assert (code, lines) == (1, [f"error: parse: {cause}; log: {path}"]) and "Traceback" in log


def test_ctrl_c_is_one_line(tmp_path: Path) -> None:
    code, lines, _ = _run("raise KeyboardInterrupt", tmp_path)
    assert (code, lines) == (130, ["stopped: parse; the same command goes on from here"])


def test_ctrl_c_while_ray_works_is_one_line_too_and_ends_it(tmp_path: Path) -> None:
    work = """
import ray
from ram_ray.runtime import own_cluster
cluster.start(num_cpus=2, object_store_gb=0.1, dashboard=False)
logger.info(str(own_cluster.logs_folder().parents[2]))
ray.get(ray.remote(num_cpus=0.1)(lambda: __import__("time").sleep(600)).remote())
"""
    with _start(work, tmp_path) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert folder.is_dir()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: Ray's processes get it too
        lines = process.stdout.read().splitlines()
    assert (process.returncode, lines) == (130, ["stopped: parse; the same command goes on from here"])
    assert not folder.exists()


def test_a_worker_that_dies_beside_another_ray_is_one_line_and_a_log(ray_cluster: None, tmp_path: Path) -> None:
    """The run's own Ray is the second on this machine."""
    work = """
import ray
cluster.start(num_cpus=2, object_store_gb=0.1, dashboard=False)
@ray.remote(num_cpus=0.1)
def fail():
    print("a worker's own words")
    raise ZeroDivisionError("in a worker")
logger.info("started")
ray.get(fail.remote())
"""
    code, lines, log = _run(work, tmp_path)
    (path,) = (tmp_path / "logs").glob("*.log")
    assert (code, lines) == (1, ["started", f"error: parse: ZeroDivisionError: in a worker; log: {path}"])
    assert "a worker's own words" in log and "Traceback" in log
    assert list(path.with_suffix(".ray").glob("raylet.*")), "Ray's own logs outlive its folder"


@pytest.mark.parametrize("mistake", [True, False])
def test_the_cause_is_found_in_what_ray_wraps_around_it(ray_cluster: None, mistake: bool) -> None:
    import ray
    import ray.data
    from ray.train import ControllerError, WorkerGroupError

    error = ValueError if mistake else RuntimeError

    def fail(batch: dict) -> dict:
        raise error("of a batch")

    with pytest.raises(Exception) as raised:
        ray.data.range(3).map_batches(fail, num_cpus=0.5).materialize()
    described = "of a batch" if mistake else "RuntimeError: of a batch"
    assert describe(find_cause(raised.value)) == described
    assert isinstance(find_cause(raised.value), ValueError) == mistake

    with pytest.raises(Exception) as raised:
        ray.get(ray.remote(num_cpus=0.1)(lambda: fail({})).remote())
    assert type(find_cause(raised.value)) is error

    @ray.remote(num_cpus=0.1)
    class Model:
        def __init__(self) -> None:
            fail({})

        def tag(self) -> None:
            pass

    with pytest.raises(Exception) as raised:
        ray.get(Model.remote().tag.remote())
    assert describe(find_cause(raised.value)) == described
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4000")
    group = WorkerGroupError("many lines", {0: lost, 1: error("of a batch")})
    for wrapped in (group, ControllerError(group)):
        assert type(find_cause(wrapped)) is error and str(find_cause(wrapped)) == "of a batch"


def test_an_error_is_described_in_one_line() -> None:
    assert describe(ValueError("a\n  b")) == "a b"
    assert describe(ValueError()) == "ValueError"
    assert describe(KeyError("name")) == "KeyError: 'name'"
    assert len(describe(RuntimeError("x" * 5000))) == 400
    assert re.fullmatch(r"\S.*\S", describe(RuntimeError(f"\n{np.zeros((9, 9))}\n")))
