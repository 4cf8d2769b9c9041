"""Contract: a worker sends its records, INFO and above, to the driver as text and numbers, with the traceback; what the
driver does not take is on the worker's own output, once, with time, level and logger."""

from __future__ import annotations

import logging
import re
from types import TracebackType

from ram_ray.runtime import worker_log
from tests.runtime.test_screen import TIME, run_script


def test_without_a_driver_records_are_on_the_workers_own_output() -> None:
    script = """
import logging
from ram_ray.runtime.worker_log import send_to_driver

logging.basicConfig(level=logging.INFO)  # as Ray Train does in its workers
for _ in range(2):
    send_to_driver()
logger = logging.getLogger("ram_ray.part")
logger.debug("detail")
logger.info("line")
try:
    1 / 0
except ZeroDivisionError:
    logger.exception("failed")
"""
    process = run_script(script)
    assert re.fullmatch(rf"{TIME}INFO ram_ray.part: line\n", process.stdout)
    assert re.match(rf"{TIME}ERROR ram_ray.part: failed\nTraceback", process.stderr)
    assert process.stderr.count("failed") == 1


def test_what_is_sent_becomes_the_same_record() -> None:
    class Value:
        """Known to the worker alone."""

        def __str__(self) -> str:
            return "8 %"

    trace: tuple[type[BaseException], BaseException, TracebackType | None] | None = None
    try:
        raise ZeroDivisionError("by zero")
    except ZeroDivisionError as error:
        trace = (type(error), error, error.__traceback__)
    record = logging.LogRecord("ram_ray.part", logging.ERROR, __file__, 1, "at %s", (Value(),), trace)
    fields = worker_log._to_fields(record)
    assert {type(value) for value in fields.values()} <= {str, int, float}
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    assert formatter.format(logging.makeLogRecord(fields)) == formatter.format(record)
    assert "at 8 %\nTraceback" in formatter.format(record)


def test_a_replica_writes_warnings_of_all_packages() -> None:
    script = """
import logging
from ram_ray.runtime.worker_log import write_warnings

write_warnings()
logging.getLogger("ram_ray.serving.api").error("POST /v1/tag failed")
logging.getLogger("other").warning("of another package")
logging.getLogger("ram_ray.serving.api").info("line")
"""
    process = run_script(script)
    assert not process.stdout
    first, second = process.stderr.splitlines()
    assert re.fullmatch(rf"{TIME}ERROR ram_ray.serving.api: POST /v1/tag failed", first)
    assert re.fullmatch(rf"{TIME}WARNING other: of another package", second)
