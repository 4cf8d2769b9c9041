"""Connections: what uvicorn does not limit itself, and how both come into the server of Ray Serve.

uvicorn waits without end for the first byte of a connection and for the rest of a request's header, takes headers of
any length, and answers a broken request with plain text. Of a request that offers another protocol, as Java's own HTTP
client does (`Upgrade: h2c`), it drops the body. `BoundedProtocol` closes such connections, answers in JSON, and ignores
the offer, as a server of HTTP/1.1 may.

Ray Serve starts uvicorn itself, in its proxy, and calls `middlewares` there first (its setting
RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH); uvicorn's table of protocols is the place where another can be named.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httptools
from starlette.middleware import Middleware
from uvicorn import config as uvicorn_config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

HEADER_S = 10.0  # until the header of a request must be complete
MAX_HEADER_BYTES = 64 * 1024
MAX_CONNECTIONS = 2000  # of one process
_CODES = {400: "bad_request", 408: "timeout", 431: "header_too_large", 503: "busy"}


class BoundedProtocol(HttpToolsProtocol):
    """One connection: uvicorn's protocol with limits on headers and idle time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._in_body = False
        self._has_offer = False  # the request whose header has been read offers another protocol
        self._is_refused = False  # what still comes on this connection is not read
        self.ws_protocol_class = None

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(503, "too many connections")
            return
        self._await_header()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived."""
        if self._is_answered() and self._header_timer is None:  # of the next request on this connection
            self._await_header()
        if self._reads_header():
            self._header_bytes += len(data)
        self._unset_keepalive_if_required()
        self._parse(data)
        if self._reads_header() and self._header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
            self._refuse_header()

    def _parse(self, data: bytes) -> None:
        """Feed the parser; it stops behind a header with an offer, and another one reads on without it."""
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserError:
                self.send_400_response("Invalid HTTP request received.")
                return
            except httptools.HttpParserUpgrade as stop:
                if not self._has_offer:  # CONNECT
                    return
                data = self._header_without_offer() + data[stop.args[0] :]
            self._has_offer = False
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does

    def _header_without_offer(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def on_headers_complete(self) -> None:
        """The header of a request is complete."""
        if self._is_refused:
            return
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_HEADER_BYTES:
            self._refuse_header()
            return
        self._has_offer = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if self._has_offer:
            return
        self._stop_timer()
        self._header_bytes = 0
        self._in_body = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body has come."""
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The body of a request is complete, or its header with an offer."""
        if self._has_offer or self._is_refused:
            return
        self._in_body = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer a request that is no HTTP."""
        self._refuse(400, msg)

    def _is_answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _reads_header(self) -> bool:
        """A request that was refused has its answer, and its body may still come: that is no header."""
        return self._is_answered() and not self._in_body

    def _await_header(self) -> None:
        self._header_bytes = 0
        self._header_timer = self.loop.call_later(HEADER_S, self._header_is_late)

    def _header_is_late(self) -> None:
        self._header_timer = None
        if self.transport.is_closing() or not self._is_answered():
            return
        if self._header_bytes:
            self._refuse(408, f"the header was not complete within {HEADER_S:g} s")
        else:
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _refuse_header(self) -> None:
        self._refuse(431, f"a header may have at most {MAX_HEADER_BYTES:,} bytes")

    def _refuse(self, status: int, message: str) -> None:
        """Answer in JSON and close."""
        self._is_refused = True
        self._stop_timer()
        body = json.dumps({"error": {"code": _CODES[status], "message": message}}).encode()
        head = [STATUS_LINE[status], b"content-type: application/json\r\n", b"connection: close\r\n"]
        if status == 503:
            head.append(b"retry-after: 2\r\n")
        self.transport.write(b"".join([*head, b"content-length: %d\r\n\r\n" % len(body), body]))
        self.transport.close()


def middlewares() -> list[Middleware]:
    """Called by Ray Serve in each process that listens for HTTP, before it listens.

    Returns:
        The guard, around all that Ray Serve does with a request.
    """
    from ram_ray.serving.guard import Guard
    from ram_ray.serving.remote import Frontdoor

    uvicorn_config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{BoundedProtocol.__name__}"
    return [Middleware(Guard, frontdoor=Frontdoor())]
