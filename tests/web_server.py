"""A web server of files in memory that cuts lines, ignores ranges and refuses requests when a test says so."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType


class WebServer:
    """Serves `files` at `url`; requests are kept as (method, path, range).

    `cuts[path]`: numbers of bytes after which the next answers end; `codes[path]`: HTTP codes of the next answers.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cuts: dict[str, list[int]] = {}
        self.codes: dict[str, list[int]] = {}
        self.takes_ranges = self.tells_length = True
        self.requests: list[tuple[str, str, str | None]] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> WebServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def count(self, method: str) -> int:
        """Number of requests of a method."""
        return sum(request[0] == method for request in self.requests)

    def ranges(self, path: str) -> list[str | None]:
        """Ranges that were asked for of a path, in order."""
        return [request[2] for request in self.requests if request[1] == path]


def _handler(server: WebServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            server.requests.append(("GET", self.path, wanted))
            if codes := server.codes.get(self.path):
                return self.send_error(codes.pop(0))
            if self.path not in server.files:
                return self.send_error(404)
            content = server.files[self.path]
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.takes_ranges else 0
            if start and start >= len(content):
                return self.send_error(416)
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if server.tells_length:
                self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            cuts = server.cuts.get(self.path)
            self.wfile.write(content[start:][: cuts.pop(0)] if cuts else content[start:])

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
