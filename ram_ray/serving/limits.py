"""What the server refuses: every byte that a client sends is counted while it comes in.

A Content-Length header is only a promise, so the body's own bytes are counted and the request is refused at
the first byte too many. A gate bounds how many requests, and how many of their bytes, are held at a time:
past it a client is told at once to come back, which keeps the waiting time of the others bounded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Message, Receive

DRAIN_BYTES = 4  # how many times the limit is read and thrown away, so that the client gets to read its 413


class ApiError(Exception):
    """A request that is answered with an error: an HTTP status, a word for programs, a sentence for people.

    Args:
        status: of HTTP.
        code: for programs.
        message: for people, cut at 2,000 characters.
        retry_after_s: seconds until another try may succeed, for the header Retry-After.
    """

    def __init__(self, status: int, code: str, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message[:2000]
        self.headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}


class Held:
    """What one admitted request holds of the gate."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.num_bytes = 0

    def add(self, num_bytes: int) -> None:
        """Count bytes that arrived.

        Raises:
            ApiError: 503 when all requests together hold more than the gate allows.
        """
        if self._gate.num_bytes + num_bytes > self._gate.max_bytes:
            raise ApiError(503, "busy", "the server holds too many pictures at the moment", retry_after_s=2)
        self._gate.num_bytes += num_bytes
        self.num_bytes += num_bytes


class Gate:
    """Admits at most `max_requests` at a time, holding at most `max_bytes` of bodies together."""

    def __init__(self, max_requests: int, *, max_bytes: int) -> None:
        self.max_requests, self.max_bytes = max_requests, max_bytes
        self.num_requests = self.num_bytes = 0

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[Held]:
        """Hold a place while a request is worked on.

        Raises:
            ApiError: 429 when there is no place.
        """
        if self.num_requests >= self.max_requests:
            raise ApiError(
                429, "busy", f"{self.max_requests} requests are already waiting; try again soon", retry_after_s=1
            )
        held = Held(self)
        self.num_requests += 1
        try:
            yield held
        finally:
            self.num_requests -= 1
            self.num_bytes -= held.num_bytes


def bounded(receive: Receive, *, max_bytes: int, held: Held) -> Receive:
    """Wrap an ASGI `receive` so that a body of more than `max_bytes` ends in `ApiError` 413 as it comes in.

    Args:
        receive: of the request.
        max_bytes: most bytes of a body.
        held: counts the bytes as they come.
    """
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            seen += size
            if seen > max_bytes:
                await drain(receive, message, max_bytes=DRAIN_BYTES * max_bytes)
                raise ApiError(413, "too_large", f"a request may have at most {max_bytes:,} bytes")
            held.add(size)
        return message

    return counted


async def drain(receive: Receive, message: Message | None, *, max_bytes: int) -> None:
    """Read the rest of a refused body and forget it, up to `max_bytes`."""
    seen = 0
    while seen <= max_bytes and (message is None or message.get("more_body")):
        message = await receive()
        seen += len(message.get("body", b""))


def check_length(header: str | None, *, max_bytes: int) -> int | None:
    """The Content-Length, if the client sent one.

    Args:
        header: as the client sent it; None: not at all.
        max_bytes: most bytes of a body.

    Raises:
        ApiError: 413 if it promises too much, 400 if it is not a number.
    """
    if header is None:
        return None
    if not (header.isascii() and header.isdigit()):
        raise ApiError(400, "bad_request", "Content-Length is not a number")
    if int(header[:20]) > max_bytes:
        raise ApiError(413, "too_large", f"a request may have at most {max_bytes:,} bytes")
    return int(header)
