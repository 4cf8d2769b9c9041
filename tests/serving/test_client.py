"""Contract: the Python client sends any number of images in order, waits as long as the server says, and gives up what
cannot succeed."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import time
from typing import Any

import pytest

from ram_ray.serving import client as client_module
from ram_ray.serving.client import Client, ServerError

BUSY = {"error": {"code": "busy", "message": "too many images are waiting", "request_id": "r1"}}


class Server(ThreadingHTTPServer):
    """Answers with the contents that were sent; `script`: status and Retry-After of the next answers, None: no answer.

    It takes at most `max_images` images in a request.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[tuple[int, str | None] | None] = []
        self.max_images = 16
        self.sizes: list[int] = []
        self.headers: list[dict[str, str]] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.headers.append(dict(self.headers))
        self.server.sizes.append(len(body["images"]))
        step = self.server.script.pop(0) if self.server.script else (200, None)
        if step is None:
            self.close_connection = True
            return
        status, retry_after = step
        if len(body["images"]) > self.server.max_images:
            status = 413
        contents = [base64.b64decode(image["content"]).decode() for image in body["images"]]
        self.send_response(status)
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(json.dumps({"images": contents} if status == 200 else BUSY).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as started:
        threading.Thread(target=started.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield started
        started.shutdown()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds: list[float] = []
    monkeypatch.setattr(client_module.time, "sleep", seconds.append)
    return seconds


def client_of(server: Server, **options: Any) -> Client:
    return Client(f"http://127.0.0.1:{server.server_port}/", **options)


def test_many_images_come_back_in_order(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [str(index).encode() for index in range(40)]
    expected = [image.decode() for image in images]
    assert client_of(server).tag(images) == expected
    assert server.sizes == [16, 16, 8]
    server.max_images = 5
    assert client_of(server).tag(images[:16]) == expected[:16]
    server.max_images = 16
    (tmp_path / "a.jpg").write_bytes(b"path")
    assert client_of(server).tag(tmp_path / "a.jpg") == client_of(server).tag(str(tmp_path / "a.jpg")) == ["path"]
    server.sizes.clear()
    monkeypatch.setattr(client_module, "BYTES_PER_REQUEST", 10)
    assert client_of(server).tag([b"12345", b"12345", b"1", b"x" * 30]) == ["12345", "12345", "1", "x" * 30]
    assert server.sizes == [2, 1, 1]


def test_it_waits_as_long_as_the_server_says(server: Server, waits: list[float]) -> None:
    server.script = [(429, "3"), (503, "7"), None, (504, None), (503, "9999")]
    assert client_of(server, api_key="rr_1").tag(b"a") == ["a"]
    lowest = [3, 7, 2, 4, client_module.MAX_WAIT_S]
    assert [low <= wait <= 1.25 * low for low, wait in zip(lowest, waits, strict=True)] == [True] * 5
    assert server.headers[0]["Authorization"] == "Bearer rr_1"
    server.script = [(503, formatdate(time() + 20, usegmt=True)), (503, "soon")]
    client_of(server).tag(b"a")
    assert 17 < waits[5] <= 25 and 1 <= waits[6] <= 1.25


def test_what_cannot_succeed_is_given_up(server: Server, waits: list[float]) -> None:
    server.script = [(422, None)]
    with pytest.raises(ServerError, match="too many images are waiting") as refused:
        client_of(server).tag(b"a")
    assert (refused.value.status, refused.value.code, refused.value.request_id) == (422, "busy", "r1")
    server.script = [(429, "1")] * 3
    with pytest.raises(ServerError) as busy:
        client_of(server, attempts=3).tag(b"a")
    assert busy.value.status == 429 and len(waits) == 2
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ServerError, match=f"{url} does not answer: "):
            Client(url, attempts=2).tag(b"a")
