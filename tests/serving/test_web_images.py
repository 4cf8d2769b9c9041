"""Contract: an image is fetched only from a host of the list, at an address that was checked, within limits."""

from __future__ import annotations

import asyncio
import http.server
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from ram_ray.serving import web_images
from ram_ray.serving.messages import Problem
from ram_ray.serving.web_images import WebImages
from ram_ray.settings.serving import ServeConfig

LOOPBACK = ("127.0.0.0/8",)
BODY = b"x" * 5000


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.hosts.append(self.headers["Host"])  # type: ignore[attr-defined]
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        if self.path == "/slow":
            time.sleep(0.6)
        self.send_response(200)
        self.end_headers()
        for _ in range(100 if self.path == "/endless" else 1):
            self.wfile.write(BODY)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def web() -> Iterator[Any]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hosts = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def fetch(uri: str, **settings: Any) -> bytes | Problem:
    async def run() -> bytes | Problem:
        return await WebImages(ServeConfig(**settings)).fetch(uri, add=lambda num_bytes: None)

    return asyncio.run(run())


def code_of(uri: str, **settings: Any) -> str:
    problem = fetch(uri, **settings)
    assert isinstance(problem, Problem), problem[:20]
    return problem.code


@pytest.mark.parametrize(
    "uri",
    [
        "https://other.org/a.jpg",
        "https://img.example.org.evil.org/a.jpg",
        "https://evil.org/img.example.org",
        "https://img.example.org@evil.org/a.jpg",
        "https://user:word@img.example.org/a.jpg",
        "https://img.example.org:8443/a.jpg",
        "http://[::1]/a.jpg",
        "ftp://img.example.org/a.jpg",
        "file:///etc/passwd",
        "/etc/passwd",
        "http://",
        "http://[",
        "http://img.example.org:99999/",
        "",
    ],
)
def test_a_url_that_is_not_on_the_list_is_not_looked_up(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*args: object, **named: object) -> None:
        raise AssertionError("the host was looked up")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert code_of(uri, image_hosts=("img.example.org",)) == "forbidden"


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0.0.0.0", "10.0.0.7", "169.254.169.254", "100.64.0.1"]
    + ["[::1]", "[::ffff:127.0.0.1]", "[fe80::1]", "[fd00::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::1]", "224.0.0.1"],
)
def test_no_private_address_is_asked_even_if_every_host_is_on_the_list(host: str) -> None:
    problem = fetch(f"http://{host}/a.jpg", image_hosts=("*",))
    assert isinstance(problem, Problem)
    assert (problem.code, problem.message) == ("forbidden", "imageUri: its host has no public address")


def test_entries_name_hosts_subdomains_and_ports(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    port, real = web.server_port, socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *args, **named: real("127.0.0.1", *args, **named))
    for entry in f"localhost:{port}", f"*:{port}", f"LOCALHOST:{port}":
        assert fetch(f"http://localhost:{port}/", image_hosts=(entry,), image_networks=LOOPBACK) == BODY
    for entry in "localhost", "*", f"*.localhost:{port}":
        assert code_of(f"http://localhost:{port}/", image_hosts=(entry,), image_networks=LOOPBACK) == "forbidden"
    assert fetch(f"http://a.localhost:{port}/", image_hosts=(f"*.localhost:{port}",), image_networks=LOOPBACK) == BODY
    for wrong in "http://a.org", "a.org/b", "", "a b":
        with pytest.raises(ValidationError, match="is no host"):
            ServeConfig(image_hosts=(wrong,))
    with pytest.raises(ValidationError, match="10.0.0.0/99"):
        ServeConfig(image_networks=("10.0.0.0/99",))


def test_the_connection_goes_to_the_address_that_was_checked(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that gives an allowed address first and another one from then on (DNS rebinding)."""
    real, asked = socket.getaddrinfo, []

    def look_up(host: Any, *args: Any, **named: Any) -> Any:
        asked.append(host)
        return real("127.0.0.1" if len(asked) == 1 else "127.0.0.2", *args, **named)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    uri = f"http://rebound.example:{web.server_port}/"
    settings = {"image_hosts": (f"rebound.example:{web.server_port}",), "image_networks": ("127.0.0.1/32",)}
    assert fetch(uri, **settings) == BODY
    assert asked == ["rebound.example"] and web.hosts[-1].startswith("rebound.example")
    assert code_of(uri, **settings) == "forbidden"


def test_redirects_follow_the_same_rules(web: Any) -> None:
    base = f"http://localhost:{web.server_port}"
    settings = {"image_hosts": (f"localhost:{web.server_port}",), "image_networks": LOOPBACK}
    assert fetch(f"{base}/to//a.jpg", **settings) == BODY
    assert fetch(f"{base}/to/{base}/a.jpg", **settings) == BODY
    assert code_of(f"{base}/to/http://127.0.0.1:{web.server_port}/a.jpg", **settings) == "forbidden"
    assert code_of(f"{base}/to/file:///etc/passwd", **settings) == "forbidden"
    assert code_of(f"{base}{'/to/' * 5}/a.jpg", **settings) == "unavailable"
    everywhere = {"image_hosts": (f"*:{web.server_port}", "*"), "image_networks": ("127.0.0.1/32",)}
    assert code_of(f"{base}/to/http://169.254.169.254/latest/meta-data", **everywhere) == "forbidden"


def test_bytes_and_seconds_are_bounded(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    base = f"http://localhost:{web.server_port}"
    settings = {"image_hosts": (f"localhost:{web.server_port}",), "image_networks": LOOPBACK}
    assert fetch(f"{base}/a", max_image_bytes=5000, **settings) == BODY
    assert code_of(f"{base}/a", max_image_bytes=4999, **settings) == "too_large"
    assert code_of(f"{base}/endless", max_image_bytes=100_000, **settings) == "too_large"
    monkeypatch.setattr(web_images, "FETCH_S", 0.2)
    assert code_of(f"{base}/slow", **settings) == "unavailable"
    settings["image_hosts"] = ("localhost:1",)
    assert code_of("http://localhost:1/", **settings) == "unavailable"
