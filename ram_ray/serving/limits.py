"""Limits on requests: the bytes of a body and their rate, the bytes of all bodies, and places for waiting images.

A Content-Length header may be wrong, so the bytes of a body are counted as they arrive, and the request is refused at
the first byte over the limit. A body that arrives too slowly is refused too. Images wait in a bounded number of places;
a request is also refused if, at the rate of the last seconds, it would wait for too long. Then it is answered at once,
and the requests that were admitted are done in time.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager

from starlette.types import Message, Receive

DRAIN_FACTOR = 4  # a refused body is read up to so many times the limit, so that the client can receive its 413
DRAIN_S = 2.0
GRACE_S = 5.0  # a body may be slower than the least rate for so long
MAX_WAIT_SHARE = 0.35  # of the request's time limit: longer is no request expected to wait


class ApiError(Exception):
    """A request that is answered with an error: an HTTP status, a code for programs, a message for people.

    Args:
        status: of HTTP.
        code: for programs.
        message: for people, cut at 2,000 characters.
        retry_after_s: seconds until another try may succeed, for the header Retry-After.
    """

    def __init__(self, status: int, code: str, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message[:2000]
        self.headers = {} if retry_after_s is None else {"Retry-After": str(max(1, math.ceil(retry_after_s)))}


class ByteBudget:
    """Bytes of all bodies that the server holds.

    Args:
        max_bytes: most bytes together.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0

    @contextmanager
    def hold(self) -> Iterator[Callable[[int], None]]:
        """Count the bytes of one body for as long as the context lasts.

        Yields:
            A function that adds bytes; it raises `ApiError` 503 where all bodies together have too many.
        """
        held = 0

        def add(num_bytes: int) -> None:
            nonlocal held
            if self.num_bytes + num_bytes > self.max_bytes:
                raise ApiError(503, "busy", "the server holds too many bytes at the moment", retry_after_s=2)
            self.num_bytes += num_bytes
            held += num_bytes

        try:
            yield add
        finally:
            self.num_bytes -= held


class Places:
    """Places for waiting images, or for requests on their way.

    Args:
        max_images: most images that wait at a time.
        max_wait_s: seconds after which no image should still wait.
        what: waits, for messages.
    """

    def __init__(self, max_images: int, *, max_wait_s: float = math.inf, what: str = "images") -> None:
        self.max_images, self.max_wait_s, self.what = max_images, max_wait_s, what
        self.num_images = 0
        self.seconds_an_image: float | None = None  # of the last images, while images waited
        self._of_client: Counter[Hashable] = Counter()

    @contextmanager
    def take(self, num_images: int, *, client: Hashable) -> Iterator[None]:
        """Take places for as long as the context lasts.

        Args:
            num_images: of the request.
            client: whose request it is.

        Raises:
            ApiError: of `check`.
        """
        self.check(num_images, client=client)
        self.num_images += num_images
        self._of_client[client] += num_images
        try:
            yield
        finally:
            self.num_images -= num_images
            self._of_client[client] -= num_images
            if not self._of_client[client]:
                del self._of_client[client]

    def check(self, num_images: int, *, client: Hashable) -> None:
        """Check that there are places.

        A client that holds less than its share of the places may go over the limit, to twice of it: others that fill
        all places do not lock it out.

        Args:
            num_images: of the request.
            client: whose request it is.

        Raises:
            ApiError: 429 if there are not enough places, or the wait would be too long.
        """
        limit = self.max_images
        if self.seconds_an_image:
            limit = min(limit, max(num_images, int(self.max_wait_s / self.seconds_an_image)))
        total = self.num_images + num_images
        if total <= limit or not self.num_images:
            return
        held = self._of_client.get(client, 0)
        num_clients = len(self._of_client) + (not held)
        if num_clients > 1 and held + num_images <= limit // num_clients and total <= 2 * limit:
            return
        wait = self.num_images * (self.seconds_an_image or 0)
        message = f"{self.num_images} {self.what} are already waiting; try again soon"
        raise ApiError(429, "busy", message, retry_after_s=min(wait, 10))

    def record(self, num_images: int, seconds: float) -> None:
        """Record how long images took while others waited.

        Args:
            num_images: that were done.
            seconds: since those before were done.
        """
        value = seconds / num_images
        old = self.seconds_an_image
        self.seconds_an_image = value if old is None else old + 0.2 * (value - old)


async def read_body(
    receive: Receive, *, max_bytes: int, min_bytes_per_s: float, timeout_s: float, add: Callable[[int], None]
) -> bytes:
    """Read a whole body.

    Args:
        receive: of the request.
        max_bytes: most bytes of a body.
        min_bytes_per_s: least rate, from `GRACE_S` on.
        timeout_s: most seconds.
        add: counts bytes, as `ByteBudget.hold` gives it.

    Returns:
        The body.

    Raises:
        ApiError: 413 at the first byte over `max_bytes`, 408 if it comes too slowly, 503 of `add`.
        ConnectionError: if the client is gone.
    """
    started = time.monotonic()
    chunks: list[bytes] = []
    num_bytes = 0
    while True:
        left = min(GRACE_S + num_bytes / min_bytes_per_s, timeout_s) - (time.monotonic() - started)
        try:
            message = await _receive_within(receive, left)
        except TimeoutError:
            seconds = time.monotonic() - started
            raise ApiError(408, "timeout", f"{num_bytes:,} bytes of the body came in {seconds:.0f} s") from None
        if message["type"] == "http.disconnect":
            raise ConnectionError
        chunk = message.get("body", b"")
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            chunks.clear()
            await drain(receive, message, max_bytes=DRAIN_FACTOR * max_bytes)
            raise ApiError(413, "too_large", f"a request may have at most {max_bytes:,} bytes")
        add(len(chunk))
        if chunk:
            chunks.append(chunk)
        if not message.get("more_body"):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _receive_within(receive: Callable[[], Awaitable[Message]], seconds: float) -> Message:
    async with asyncio.timeout(max(0, seconds)):
        return await receive()


async def drain(receive: Receive, message: Message | None, *, max_bytes: int) -> None:
    """Read the rest of a refused body and discard it, for at most `DRAIN_S`.

    Args:
        receive: of the request.
        message: the last one received; None: none yet.
        max_bytes: reading stops after so many bytes.
    """
    num_drained = 0
    try:
        async with asyncio.timeout(DRAIN_S):
            while num_drained <= max_bytes and (message is None or message.get("more_body")):
                message = await receive()
                num_drained += len(message.get("body", b""))
    except TimeoutError:
        return


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
