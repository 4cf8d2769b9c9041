"""The log of a worker: its records of ram_ray are shown by the driver.

Ray starts a worker without a handler of ours, and Ray Train gives its root logger one that writes to the worker's own
output. So the code that a worker enters calls `send_to_driver`: training workers, the tasks of `annotate` and of the
data engine. Ray's `worker_process_setup_hook` would do it for all workers, but with a runtime environment each worker
needs a second start of Python, a hook that cannot be imported ends every worker, and it has no effect where Ray is
already initialised. Replicas of Ray Serve may outlive the driver: `write_warnings` writes to their own output.
"""

from __future__ import annotations

import logging
import sys

from ram_ray.runtime.progress_actor import send_record
from ram_ray.runtime.screen import FORMAT, PACKAGE, write_line


class DriverHandler(logging.Handler):
    """Sends records to the driver, or writes them to the worker's own output if the driver takes none."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter(FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        """Send or write a record.

        Args:
            record: INFO or above.
        """
        try:
            if not send_record(_to_fields(record)):
                write_line(self.format(record), sys.stdout if record.levelno < logging.WARNING else sys.stderr)
        except Exception:
            self.handleError(record)


_handler = DriverHandler()


def send_to_driver() -> None:
    """Send the records of ram_ray in this worker to the driver from now on; no effect the second time."""
    logger = logging.getLogger(PACKAGE)
    logger.addHandler(_handler)
    logger.propagate = False  # to the root logger's handler of Ray Train: each record is written once
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


def write_warnings() -> None:
    """Write warnings and errors of all loggers to this process's standard error, with time, level and logger."""
    logging.basicConfig(format=FORMAT)


def _to_fields(record: logging.LogRecord) -> dict[str, object]:
    """The fields that `logging.makeLogRecord` needs, as text and numbers: arguments may be of any class."""
    trace = record.exc_text
    if record.exc_info and not trace:
        trace = logging.Formatter().formatException(record.exc_info)
    own = {name: getattr(record, name) for name in ("name", "levelno", "levelname", "created", "msecs")}
    return {**own, "msg": record.getMessage(), "exc_text": trace}
