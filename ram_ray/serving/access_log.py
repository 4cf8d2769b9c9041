"""The access log: a line of JSON for each request."""

from __future__ import annotations

import json
import os
import time


class AccessLog:
    """Appends lines to a file; several processes may write to it, each line at once.

    Args:
        path: of the file, which is made if it does not exist.
    """

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)

    def write(self, **fields: object) -> None:
        """Write a line.

        Args:
            **fields: of the line after its time; None is left out.
        """
        line: dict[str, object] = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        line |= {name: value for name, value in fields.items() if value is not None}
        os.write(self._file, (json.dumps(line) + "\n").encode())
