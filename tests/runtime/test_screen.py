"""Contract: a run's own records are on the terminal as plain lines and in its log, from whichever process they come;
all other output of its processes, on both streams, from Python or C++, and the records of other loggers are only in the
log; afterwards, and for who imports the package without a run, logging and printing are as Python has them."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ram_ray.runtime.progress import worker_lines
from ram_ray.runtime.screen import shown

REPO = Path(__file__).resolve().parents[2]
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} "
SCRIPT = """
import logging, os, subprocess, sys
from pathlib import Path
from ram_ray.runtime.screen import log_path, logged

logger, other = logging.getLogger("ram_ray.part"), logging.getLogger("other")
logger.info("before")
with logged(Path(sys.argv[1])):
    assert log_path() == Path(sys.argv[1])
    print("noise of python")
    os.write(2, b"noise from below\\n")
    subprocess.run(["echo", "noise of a child"], check=True)
    logger.info("own line of %s", 80)
    logger.warning("own warning")
    logger.debug("nobody asked for it")
    try:
        1 / 0
    except ZeroDivisionError:
        logger.exception("own error")
    other.warning("of another package")
logger.info("after")
print("plain")
"""


def run_script(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program that finds the package."""
    command = [sys.executable, "-c", script, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment)


def test_own_lines_are_on_the_screen_and_all_lines_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "run.log"
    process = run_script(SCRIPT, str(log))
    assert process.stdout.splitlines() == ["own line of 80", "plain"]
    assert process.stderr.splitlines() == ["warning: own warning", "error: own error"]
    text = log.read_text()
    for line in ("noise from below", "noise of a child", "noise of python"):
        assert line in text.splitlines()
    for line in ("INFO ram_ray.part: own line of 80", "WARNING ram_ray.part: own warning", "WARNING other: of another"):
        assert len(re.findall(f"^{TIME}{line}", text, re.MULTILINE)) == 1
    assert re.search(rf"^{TIME}ERROR ram_ray.part: own error\nTraceback", text, re.MULTILINE), "the log says where"
    assert "nobody asked" not in text and "before" not in text
    assert log.stat().st_mode & 0o077 == 0


def test_a_level_that_the_user_set_holds(tmp_path: Path) -> None:
    script = """
import logging, sys
from pathlib import Path
from ram_ray.runtime.screen import logged

logging.getLogger("ram_ray").setLevel(sys.argv[2])
with logged(Path(sys.argv[1])):
    logging.getLogger("ram_ray.part").debug("detail")
    logging.getLogger("ram_ray.part").info("line")
"""
    detailed, quiet = tmp_path / "detailed.log", tmp_path / "quiet.log"
    assert run_script(script, str(detailed), "DEBUG").stdout == "line\n", "the screen begins at INFO"
    assert "DEBUG ram_ray.part: detail" in detailed.read_text()
    assert run_script(script, str(quiet), "ERROR").stdout == quiet.read_text() == ""


def test_a_log_that_cannot_be_written_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code = "from pathlib import Path; from ram_ray.runtime.screen import logged\n"
    code += f"with logged(Path('{tmp_path}/file/a.log')): 1"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO)
    assert f"ValueError: {tmp_path}/file/a.log cannot be written" in process.stderr


def test_a_log_on_a_full_disk_costs_the_log_alone() -> None:
    script = """
import logging
from pathlib import Path
from ram_ray.runtime.screen import logged

with logged(Path("/dev/full")):
    logging.getLogger("other").warning("noise")
    logging.getLogger("ram_ray").info("own line")
    logging.getLogger("ram_ray").error("own error")
print("after")
"""
    process = run_script(script)
    assert (process.stdout, process.stderr) == ("own line\nafter\n", "error: own error\n")


def test_a_terminal_that_is_gone_costs_the_terminal_alone(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    script = """
import logging, os, sys
from pathlib import Path
from ram_ray.runtime.screen import logged

with logged(Path(sys.argv[1])):
    for number in range(3):
        logging.getLogger("ram_ray").info("line %d", number)
"""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", script, str(log)]
    subprocess.run(command, stdout=writer, check=True, env={**os.environ, "PYTHONPATH": str(REPO)})
    os.close(writer)
    assert re.findall(r"line \d", log.read_text()) == ["line 0", "line 1", "line 2"]


def test_who_imports_the_package_has_ordinary_logging(caplog: pytest.LogCaptureFixture) -> None:
    script = """
import logging, sys
import ram_ray, ram_ray.runtime.screen, ram_ray.runtime.worker_log

logger = logging.getLogger("ram_ray")
assert [type(handler) for handler in logger.handlers] == [logging.NullHandler] and not logging.getLogger().handlers
assert logger.level == logging.NOTSET and logger.propagate
logging.getLogger("ram_ray.part").error("nobody listens")
logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stdout)
logging.getLogger("ram_ray.part").info("line")
logger.setLevel(logging.ERROR)
logging.getLogger("ram_ray.part").warning("too low")
"""
    process = run_script(script)
    assert (process.stdout, process.stderr) == ("ram_ray.part: line\n", "")
    with caplog.at_level(logging.INFO, logger="ram_ray"):
        logging.getLogger("ram_ray.part").info("line")
    assert caplog.messages == ["line"]


def test_the_screen_is_removed_afterwards(capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("ram_ray")
    before = (list(logger.handlers), logger.level)
    with shown():
        logger.info("line, 100 %")
        logger.error("mistake")
    assert (list(logger.handlers), logger.level) == before
    logger.info("after")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("line, 100 %\n", "error: mistake\n")
    assert caplog.messages == ["line, 100 %", "mistake"]


def test_a_workers_records_are_logged_by_the_driver(ray_cluster: None, capfd: pytest.CaptureFixture) -> None:
    import ray

    @ray.remote(num_cpus=0.1)
    def work(number: int) -> None:
        from ram_ray.runtime.worker_log import send_to_driver

        for _ in range(2):
            send_to_driver()
        logger = logging.getLogger("ram_ray.part")
        logger.info("line %d of a task", number)
        logger.warning("warning %d of a task", number)

    with shown(), worker_lines():
        ray.get([work.remote(number) for number in range(3)])
    captured = capfd.readouterr()
    lines = [line for line in captured.out.splitlines() if "of a task" in line]
    assert sorted(lines) == [f"line {number} of a task" for number in range(3)], "once each, with nothing before it"
    warnings = [line for line in captured.err.splitlines() if "of a task" in line]
    assert sorted(warnings) == [f"warning: warning {number} of a task" for number in range(3)]
