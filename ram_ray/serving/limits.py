"""Limits on requests: bytes of a body, and requests and bytes in memory at a time.

A Content-Length header may be wrong, so the bytes of a body are counted as they arrive, and the request is refused at
the first byte over the limit. `RequestLimiter` bounds how many requests, and how many of their bytes, the server holds
at a time. Above that it answers 429 or 503 at once, so that the waiting time of the other requests stays bounded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Message, Receive

DRAIN_FACTOR = 4  # a refused body is read up to so many times the limit, so that the client can receive its 413


class ApiError(Exception):
    """A request that is answered with an error: an HTTP status, a code for programs, a message for people.

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


class AdmittedRequest:
    """The bytes in memory of one request that a limiter admitted."""

    def __init__(self, limiter: RequestLimiter) -> None:
        self._limiter = limiter
        self.num_bytes = 0

    def add(self, num_bytes: int) -> None:
        """Count bytes that arrived.

        Args:
            num_bytes: size of a chunk of the body.

        Raises:
            ApiError: 503 if all requests together hold more bytes than the limiter allows.
        """
        if self._limiter.num_bytes + num_bytes > self._limiter.max_bytes:
            raise ApiError(503, "busy", "the server holds too many images at the moment", retry_after_s=2)
        self._limiter.num_bytes += num_bytes
        self.num_bytes += num_bytes


class RequestLimiter:
    """Admits requests up to two limits.

    Args:
        max_requests: most requests at a time.
        max_bytes: most bytes of their bodies together.
    """

    def __init__(self, max_requests: int, *, max_bytes: int) -> None:
        self.max_requests, self.max_bytes = max_requests, max_bytes
        self.num_requests = self.num_bytes = 0

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[AdmittedRequest]:
        """Admit a request for as long as the context lasts.

        Yields:
            The counter of the request's bytes.

        Raises:
            ApiError: 429 if `max_requests` requests are admitted already.
        """
        if self.num_requests >= self.max_requests:
            raise ApiError(
                429, "busy", f"{self.max_requests} requests are already waiting; try again soon", retry_after_s=1
            )
        admitted = AdmittedRequest(self)
        self.num_requests += 1
        try:
            yield admitted
        finally:
            self.num_requests -= 1
            self.num_bytes -= admitted.num_bytes


def limit_body(receive: Receive, *, max_bytes: int, admitted: AdmittedRequest) -> Receive:
    """Wrap an ASGI `receive` so that it counts the bytes of the body.

    Args:
        receive: of the request.
        max_bytes: most bytes of a body.
        admitted: counts the bytes as they arrive.

    Returns:
        A `receive` that raises `ApiError` 413 at the first byte over `max_bytes`.
    """
    num_received = 0

    async def receive_counted() -> Message:
        nonlocal num_received
        message = await receive()
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            num_received += size
            if num_received > max_bytes:
                await drain(receive, message, max_bytes=DRAIN_FACTOR * max_bytes)
                raise ApiError(413, "too_large", f"a request may have at most {max_bytes:,} bytes")
            admitted.add(size)
        return message

    return receive_counted


async def drain(receive: Receive, message: Message | None, *, max_bytes: int) -> None:
    """Read the rest of a refused body and discard it.

    Args:
        receive: of the request.
        message: the last one received; None: none yet.
        max_bytes: reading stops after so many bytes.
    """
    num_drained = 0
    while num_drained <= max_bytes and (message is None or message.get("more_body")):
        message = await receive()
        num_drained += len(message.get("body", b""))


def check_length(header: str | None, *, max_bytes: int) -> int | None:
    """Check the header Content-Length.

    Args:
        header: as the client sent it; None: not sent.
        max_bytes: most bytes of a body.

    Returns:
        The length in bytes; None: not sent.

    Raises:
        ApiError: 413 if it is over `max_bytes`, 400 if it is not a number.
    """
    if header is None:
        return None
    if not (header.isascii() and header.isdigit()):
        raise ApiError(400, "bad_request", "Content-Length is not a number")
    if int(header[:20]) > max_bytes:
        raise ApiError(413, "too_large", f"a request may have at most {max_bytes:,} bytes")
    return int(header)
