"""A real S3 endpoint for tests (moto's server, in a process of its own), and a proxy before it that fails on purpose.

    with serve_s3() as server, S3Proxy(server, share=0.05) as proxy, environment(proxy.url): ...

The proxy forwards every request and counts it. A seeded share of the requests it answers by itself, as a store under
load does: 503 SlowDown, or a connection that breaks before or within the answer. Clients are not patched: what they see
is what S3 would send. As a process: `python -m tests.s3 --target URL [--port P] [--share 0.05] [--seed 0]`;
`GET /-/counts` of a proxy gives its counts as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from ram_ray.runtime.own_cluster import free_port

SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
FAULTS = ("slow_down", "reset", "cut")
_OF_ONE_CONNECTION = ("connection", "keep-alive", "transfer-encoding", "expect", "content-length")


@contextlib.contextmanager
def serve_s3(*, port: int | None = None) -> Iterator[str]:
    """Run moto's S3 server on loopback; gives its URL. Objects live in its memory and go with it."""
    port = port or free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, "the S3 server ended before it answered"
            time.sleep(0.1)
        else:
            raise TimeoutError("the S3 server did not answer in 60 seconds")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def variables(url: str) -> dict[str, str]:
    """The environment variables by which every client (s3fs, pyarrow, boto3) finds the store at `url`."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextlib.contextmanager
def environment(url: str) -> Iterator[None]:
    """Point this process and what it starts to the store at `url`."""
    import s3fs

    before = {name: os.environ.get(name) for name in variables(url)}
    os.environ.update(variables(url))
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        s3fs.S3FileSystem.clear_instance_cache()


class S3Proxy:
    """Forwards to `target`; a share of the requests fails.

    Args:
        target: URL of the store.
        share: of the requests, that fail.
        faults: what happens to these, in turn at random: "slow_down" (503), "reset" (the connection breaks before the
            store sees the request), "cut" (it breaks in the middle of the answer; the store did what was asked).
        seed: of the draws; which request meets which draw depends on the order in which they come.

    Attributes:
        bucket: URI of the bucket that `make_bucket` made.
        counts: requests by method; "failed" is how many of them all failed, "bytes_out" what the answers held.
    """

    def __init__(
        self,
        target: str,
        *,
        share: float = 0.0,
        faults: tuple[str, ...] = ("slow_down",),
        seed: int = 0,
        port: int | None = None,
    ) -> None:
        assert all(fault in FAULTS for fault in faults), faults
        self.share, self.faults, self.counts = share, faults, Counter[str]()
        self.log: list[str] | None = None  # set to a list to keep "METHOD path" of every request
        self.delay: dict[str, float] = {}  # seconds that a request waits whose path ends with a name
        self.bucket = ""
        self._target = urlsplit(target).netloc
        self._random, self._lock = random.Random(seed), threading.Lock()
        self._server = _Server(("127.0.0.1", port or 0), _Handler)
        self._server.proxy = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> S3Proxy:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def make_bucket(self, name: str) -> None:
        """Make a bucket, named like a test module; `bucket` is its URI."""
        import s3fs

        self.bucket = "s3://" + re.sub("[^a-z0-9]", "-", name.lower())
        s3fs.S3FileSystem().mkdir(self.bucket)

    @property
    def num_requests(self) -> int:
        """Requests so far."""
        return sum(count for name, count in self.counts.items() if name.isupper())

    def draw(self, method: str, path: str) -> str | None:
        """Count a request; the fault that it meets, if any."""
        with self._lock:
            self.counts[method] += 1
            if self.log is not None:
                self.log.append(f"{method} {path}")
            if self._random.random() >= self.share:
                return None
            self.counts["failed"] += 1
            return self._random.choice(self.faults)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    proxy: S3Proxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves, or a connection broken on purpose, is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    _upstream: http.client.HTTPConnection | None = None

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def _forward(self) -> None:
        body = self._body()
        if self.path == "/-/counts":
            return self._answer(
                200, {"Content-Type": "application/json"}, json.dumps(self.server.proxy.counts).encode()
            )
        fault = self.server.proxy.draw(self.command, self.path)
        if fault == "slow_down":
            return self._answer(503, {"Content-Type": "application/xml"}, SLOW_DOWN)
        if fault == "reset":
            return self._reset()
        for name, seconds in self.server.proxy.delay.items():
            if urlsplit(self.path).path.endswith(name):
                time.sleep(seconds)
        status, headers, data = self._ask(body)
        self.server.proxy.counts["bytes_out"] += len(data)
        self._answer(status, headers, data, cut=fault == "cut")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _OF_ONE_CONNECTION}
        if body or self.command in ("PUT", "POST"):
            headers["Content-Length"] = str(len(body))
        for attempt in range(2):
            if self._upstream is None:
                self._upstream = http.client.HTTPConnection(self.server.proxy._target, timeout=300)
            try:
                self._upstream.request(self.command, self.path, body=body or None, headers=headers)
                answer = self._upstream.getresponse()
                return answer.status, dict(answer.getheaders()), answer.read()
            except (http.client.HTTPException, OSError):  # the store closed a connection that it had kept open
                self._upstream.close()
                self._upstream = None
                if attempt:
                    raise
        raise AssertionError

    def _answer(self, status: int, headers: dict[str, str], data: bytes, *, cut: bool = False) -> None:
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(data))
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in _OF_ONE_CONNECTION:
                self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", length)
        if cut and (self.command == "HEAD" or not data):
            return self._reset()
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self._reset()

    def _reset(self) -> None:
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


def main() -> None:
    """Run a proxy until the process ends."""
    parser = argparse.ArgumentParser(description="A proxy in front of an S3 server that fails on purpose")
    parser.add_argument("--target", required=True, metavar="URL")
    parser.add_argument("--port", type=int)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--faults", nargs="+", default=["slow_down"], choices=FAULTS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with S3Proxy(
        options.target, share=options.share, faults=tuple(options.faults), seed=options.seed, port=options.port
    ) as proxy:
        print(proxy.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
