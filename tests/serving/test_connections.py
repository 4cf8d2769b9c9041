"""Contract: a connection is bounded in its headers and in time, the rest of a refused body is no header, and an offer
of another protocol is ignored.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from ram_ray.runtime.own_cluster import free_port
from ram_ray.serving import connections
from ram_ray.serving.connections import MAX_HEADER_BYTES, BoundedProtocol

HEADER_S = 1.0


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Send the body back where the path is /echo, and `refuse_posts` elsewhere."""
    if scope["path"] != "/echo":
        await refuse_posts(scope, receive, send)
        return
    assert scope["type"] == "http", "no other protocol is spoken"
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    body += b"ok"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def refuse_posts(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer at once, as for a client that is refused before its body is read."""
    status = 429 if scope["method"] == "POST" else 200
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A connection to a server that speaks `BoundedProtocol`."""
    monkeypatch.setattr(connections, "HEADER_S", HEADER_S)
    port = free_port()
    config = uvicorn.Config(answer, port=port, http=BoundedProtocol, lifespan="off", log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        yield client
    server.should_exit = True
    thread.join()


def read_status(client: socket.socket) -> int:
    """Status of the next answer; 0: the server has closed the connection."""
    data = b""
    while not data.endswith(b"ok") and b'"message"' not in data:
        part = client.recv(4096)
        if not part:
            return 0
        data += part
    return int(data.split(b" ", 2)[1])


def test_the_rest_of_a_refused_body_is_no_header(connection: socket.socket) -> None:
    size = 4 * MAX_HEADER_BYTES
    connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
    assert read_status(connection) == 429
    connection.sendall(b"x" * size)
    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert read_status(connection) == 200


def test_the_rest_of_a_refused_body_must_come_in_time(connection: socket.socket) -> None:
    connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
    assert read_status(connection) == 429
    deadline = time.monotonic() + 40 * HEADER_S  # if each byte gave more time, it would pass
    with pytest.raises(OSError):  # reset, or a broken pipe
        while time.monotonic() < deadline:
            connection.sendall(b"x")
            time.sleep(HEADER_S / 10)


def test_a_header_is_bounded_in_bytes(connection: socket.socket) -> None:
    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * (MAX_HEADER_BYTES + 1))
    assert read_status(connection) == 431


def test_a_header_is_bounded_in_time(connection: socket.socket) -> None:
    connection.sendall(b"GET / HTTP/1.1\r\n")
    assert read_status(connection) == 408


OFFERS = {
    "java.net.http": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n",
    "websocket": b"connection: upgrade\r\nupgrade: websocket\r\nSec-WebSocket-Key: AA==\r\n",
}


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
@pytest.mark.parametrize("part", [1, 7, 10_000])
def test_an_offer_of_another_protocol_is_ignored(connection: socket.socket, offer: bytes, part: int) -> None:
    for method in (b"POST", b"GET", b"PUT"):
        body = b"upgrade: my body\r\n\r\n" * (method != b"GET")
        head = b"%s /echo HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n" % (method, offer, len(body))
        for start in range(0, len(head + body), part):
            connection.sendall((head + body)[start : start + part])
        answer = b""
        while not answer.endswith(b"ok"):
            received = connection.recv(4096)
            assert received, answer
            answer += received
        assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"\r\n\r\n" + body + b"ok")


def read_echoes(client: socket.socket, number: int) -> list[bytes]:
    """The bodies of the next answers of /echo."""
    data = b""
    while data.count(b"ok") < number:
        part = client.recv(4096)
        assert part, data
        data += part
    return [answer.partition(b"\r\n\r\n")[2].removesuffix(b"ok") for answer in data.split(b"HTTP/1.1 200 OK")[1:]]


def test_offers_of_requests_that_arrive_together_are_ignored(connection: socket.socket) -> None:
    offer = OFFERS["java.net.http"]
    requests = [
        b"POST /echo HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s" % (offer, len(body), body)
        for body in (b"first", b"GET /evil HTTP/1.1\r\nHost: x\r\n\r\n", b"third")
    ]
    connection.sendall(b"".join(requests))
    assert [body.partition(b"\r\n\r\n")[0] for body in read_echoes(connection, 3)] == [
        b"first",
        b"GET /evil HTTP/1.1\r\nHost: x",
        b"third",
    ]
    chunked = b"M-SEARCH /echo HTTP/1.1\r\nHost: x\r\n%sTransfer-Encoding: chunked\r\n\r\n" % offer
    connection.sendall(chunked[:30])
    time.sleep(0.1)
    connection.sendall(chunked[30:] + b"3\r\nabc\r\n0\r\n\r\n")
    assert read_echoes(connection, 1) == [b"abc"]


def test_an_offer_behind_the_rest_of_a_refused_body_is_ignored(connection: socket.socket) -> None:
    connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
    assert read_status(connection) == 429
    offer = OFFERS["java.net.http"]
    request = b"POST /echo HTTP/1.1\r\nHost: x\r\n%sContent-Length: 4\r\n\r\nbody" % offer
    connection.sendall(b"x" * 1000 + request)
    assert read_echoes(connection, 1) == [b"body"]


def test_a_header_that_comes_with_its_end_is_bounded(connection: socket.socket) -> None:
    lines = b"X-Long: %s\r\n" % (b"x" * 1000) * (MAX_HEADER_BYTES // 1000 + 1)
    connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n%s\r\nabc" % lines)
    assert read_status(connection) == 431


CONNECTS = [b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n%s\r\n" % offer for offer in (b"", *OFFERS.values())]


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00\x01\x00", b"HELP\n", *CONNECTS])
def test_what_is_no_request_is_answered_at_once(connection: socket.socket, data: bytes) -> None:
    connection.sendall(data)
    assert read_status(connection) == 400
