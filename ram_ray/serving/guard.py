"""The guard: what holds for every request, whatever it asks for. It is around the API, and around Ray's proxy.

Whole bodies are read here, with limits on bytes and rate, so that a slow client holds a connection and nothing else.
Every error is JSON with the request's id, also those of Ray and uvicorn. In Ray's proxy it also answers `/healthz`,
which then needs no replica, passes requests of the API to an Ingress in one call (`frontdoor`), sends them to another
one where that dies, and refuses by itself what an Ingress would refuse, which costs nearly nothing.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ram_ray.serving.access_log import AccessLog
from ram_ray.serving.admitted import Admitted
from ram_ray.serving.errors import CODES, VISION_PATH, error_body, is_vision, read_error
from ram_ray.serving.keys import Keys
from ram_ray.serving.limits import DRAIN_FACTOR, ApiError, ByteBudget, Places, check_length, drain, read_body
from ram_ray.serving.metrics import Metrics
from ram_ray.settings.serving import ServeConfig

logger = logging.getLogger(__name__)

RETRIED = (429, 503, 504)
API_PREFIX = "/v1/"
_STATE_PATHS = ("/healthz", "/readyz", "/metrics")
PATHS = ("/", "/docs", "/openapi.json", *_STATE_PATHS, "/v1/tag", "/v1/tags", "/v1/models", "/v1/limits", VISION_PATH)
QUICK_PREFIXES = (API_PREFIX, "/page/")
CLOSED_PREFIXES = (API_PREFIX, "/metrics")  # need a key where the server has keys
MAX_FORWARDED = 160  # requests at a time
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
# Of Ray Serve: with these a client could change how the proxy treats its request.
_STRIPPED = {b"x-request-timeout-seconds", b"x-request-disconnect-disabled", b"x-session-id", b"x-request-id"}
_STRIPPED |= {b"serve_multiplexed_model_id", b"serve-multiplexed-model-id"}


@dataclass(frozen=True)
class PlainAnswer:
    """An HTTP answer as a whole."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class FrontdoorLike(Protocol):
    """A quicker way to an Ingress than that of Ray's proxy."""

    def config(self) -> ServeConfig | None:
        """The settings of the application, once they are known."""
        ...

    async def ask(self, scope: Scope, body: bytes) -> PlainAnswer | None:
        """Ask an Ingress.

        Args:
            scope: of the request.
            body: the whole body.

        Returns:
            The answer; None: this process has no such way.

        Raises:
            ApiError: if no Ingress answers.
        """
        ...


class Guard:
    """ASGI middleware.

    Args:
        app: what it is around.
        config: section `serve`; None: that of the front door.
        frontdoor: in Ray's proxy; None: around the API itself.
        metrics: what is counted; None: nothing, as the proxy before it counts.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        config: ServeConfig | None = None,
        frontdoor: FrontdoorLike | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._app, self._frontdoor = app, frontdoor
        self._config = config or ServeConfig()
        self._keys: Keys | None = None if config is None else Keys(config)
        self._budget = ByteBudget(self._config.max_held_bytes)
        self._metrics = metrics
        self._admitted = Admitted()
        self._forwarded = Places(MAX_FORWARDED, what="requests")
        self._log: AccessLog | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._refresh()
        exchange = _Exchange(scope, send, is_outer=self._frontdoor is not None)
        try:
            await self._answer(exchange, receive)
        except ApiError as error:
            await exchange.refuse(error)
        except ConnectionError:
            exchange.status = 499
        except Exception:
            logger.exception("%s %s failed", exchange.method, exchange.path)
            await exchange.refuse(ApiError(500, "internal", "the server failed; its log says why"))
        finally:
            self._record(exchange)

    async def _answer(self, exchange: _Exchange, receive: Receive) -> None:
        path = exchange.path
        if path == "/healthz" and exchange.method in ("GET", "HEAD") and self._frontdoor is not None:
            await exchange.reply(200, b'{"status":"ok"}')
            return
        if self._keys is not None and path.startswith(CLOSED_PREFIXES) and exchange.method != "OPTIONS":
            exchange.client = self._keys.client_of(exchange.headers, exchange.client)
        if self._frontdoor is not None:
            self._forwarded.check(1, client=exchange.client)
        max_bytes = self._config.max_request_bytes
        try:
            length = check_length(exchange.headers.get("content-length"), max_bytes=max_bytes)
        except ApiError:
            await drain(receive, None, max_bytes=DRAIN_FACTOR * max_bytes)  # or the client does not read the answer
            raise
        if self._frontdoor is not None and exchange.is_work:
            self._admitted.check(exchange.client, length or 0)
        with self._budget.hold() as add:
            body = b""
            if length or "transfer-encoding" in exchange.headers:
                body = await read_body(
                    receive,
                    max_bytes=max_bytes,
                    min_bytes_per_s=self._config.min_bytes_per_s,
                    timeout_s=self._config.timeout_s,
                    add=add,
                )
            exchange.num_bytes = len(body)
            await self._forward(exchange, body, receive)

    async def _forward(self, exchange: _Exchange, body: bytes, receive: Receive) -> None:
        if self._frontdoor is None:
            await self._app(exchange.scope, _replay(body, receive), exchange.send)
            return
        admitted = self._admitted.take(exchange.client, len(body)) if exchange.is_work else nullcontext()
        with self._forwarded.take(1, client=exchange.client), admitted:
            await self._forward_to_ingress(exchange, body, receive)

    async def _forward_to_ingress(self, exchange: _Exchange, body: bytes, receive: Receive) -> None:
        assert self._frontdoor is not None
        if exchange.path in PATHS or exchange.path.startswith(QUICK_PREFIXES):
            answer = await _until_gone(self._frontdoor.ask(exchange.scope, body), receive)
            if answer is not None:
                self._note(exchange, answer)
                await exchange.reply(answer.status, answer.body, answer.headers)
                return
        await self._app(exchange.scope, _replay(body, receive), exchange.send)
        if not exchange.started:
            raise ApiError(503, "not_ready", "the server is being restarted; try again", retry_after_s=2)

    def _note(self, exchange: _Exchange, answer: PlainAnswer) -> None:
        """Remember the code for the log, and what is admitted of the client."""
        message = ""
        if answer.status >= 400:
            exchange.code, message = read_error(answer.body)
        if exchange.is_work and answer.status == 200:
            self._admitted.answered(exchange.client, exchange.num_bytes)
        elif exchange.is_work and answer.status == 429:
            wait_s = float(dict(answer.headers).get(b"retry-after", 1))
            refusal = ApiError(429, exchange.code, message, retry_after_s=wait_s)
            self._admitted.refused(exchange.client, exchange.num_bytes, refusal)

    def _refresh(self) -> None:
        """Take over the settings of the application, which may come or change while the proxy runs."""
        config = self._frontdoor.config() if self._frontdoor is not None else None
        if config is not None and config is not self._config:
            self._config, self._keys = config, Keys(config)
            self._budget.max_bytes = config.max_held_bytes
            self._log = None
        if self._metrics is None and self._frontdoor is not None:
            self._metrics = Metrics()

    def _record(self, exchange: _Exchange) -> None:
        seconds = time.monotonic() - exchange.began
        path = exchange.path if exchange.path in PATHS else "other"
        if self._metrics is not None:
            client = exchange.client if self._keys is not None and self._config.api_keys else ""
            self._metrics.request(path, exchange.status, client=client, seconds=seconds)
            if exchange.code:
                self._metrics.rejected(exchange.code)
        if self._config.access_log and self._metrics is not None:
            if self._log is None:
                self._log = AccessLog(self._config.access_log)
            self._log.write(
                request_id=exchange.id,
                client=exchange.client,
                method=exchange.method,
                path=exchange.path[:200],
                status=exchange.status,
                bytes=exchange.num_bytes,
                ms=round(1000 * seconds, 1),
                error=exchange.code or None,
            )


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, send: Send, *, is_outer: bool) -> None:
        self.began = time.monotonic()
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        self.is_work = self.method == "POST" and self.path.startswith(API_PREFIX)
        headers = Headers(scope=scope)
        sent_id = headers.get("x-request-id", "")
        self.id = sent_id if _REQUEST_ID.fullmatch(sent_id) else str(uuid.uuid4())
        kept = [pair for pair in scope["headers"] if pair[0].lower() not in _STRIPPED]
        if is_vision(self.path) and "x-goog-api-key" not in headers:  # Google takes the key in the URL as well
            query = parse_qs(scope["query_string"].decode("latin-1"))
            kept += [(b"x-goog-api-key", key.encode()) for key in query.get("key", [])]
        method = "GET" if self.method == "HEAD" else self.method
        self.scope: Scope = {**scope, "method": method, "headers": [*kept, (b"x-request-id", self.id.encode())]}
        self.headers = Headers(scope=self.scope)
        self.client: str = (scope.get("client") or ("unknown",))[0]
        self._send, self._is_outer = send, is_outer
        self.started = self.finished = False
        self.status, self.num_bytes, self.code = 0, 0, ""
        self._start: Message | None = None
        self._replaced: list[bytes] | None = None

    async def send(self, message: Message) -> None:
        """Pass on a message of the answer; an error that is not JSON becomes JSON."""
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            headers = [pair for pair in message.get("headers", []) if pair[0].lower() != b"x-request-id"]
            self._start = {**message, "headers": [*headers, (b"x-request-id", self.id.encode())]}
            kind = dict(headers).get(b"content-type", b"")
            if self.status >= 400 and not kind.startswith(b"application/json"):
                self._replaced = []
                return
            await self._send(self._start)
        elif message["type"] == "http.response.body":
            if self._replaced is None:
                if self.method == "HEAD":
                    message = {**message, "body": b""}
                self.finished = not message.get("more_body", False)
                await self._send(message)
                return
            self._replaced.append(message.get("body", b""))
            if not message.get("more_body", False):
                await self._send_replaced(b"".join(self._replaced).decode("utf-8", "replace"))

    async def reply(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        """Send an answer that is there as a whole."""
        if headers is None:
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def refuse(self, error: ApiError) -> None:
        """Send an error, unless the answer has begun."""
        if self.started:
            return
        self.started, self.status, self.code = True, error.status, error.code
        body = error_body(error, path=self.path, request_id=self.id)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
        headers.append((b"x-request-id", self.id.encode()))
        if error.status in (408, 413):
            headers.append((b"connection", b"close"))  # the rest of the body is not read
        await self._send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else body})
        self.finished = True

    async def _send_replaced(self, text: str) -> None:
        assert self._start is not None
        self.started = False
        status, retry_after = self.status, None
        if status == 404 and "/-/routes" in text:  # Ray's: the application is not there
            text = f"there is no {self.path:.100}"
            if self.path in PATHS:
                status, text, retry_after = 503, "the server is starting or ending; try again", 5
        if status in RETRIED:
            retry_after = retry_after or 2
        code = CODES.get(status, "internal" if status >= 500 else "error")
        message = text[:500] if status < 500 or status in RETRIED else "the server failed; its log says why"
        await self.refuse(ApiError(status, code, message or code, retry_after_s=retry_after))


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the whole body at once."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_replayed() -> Message:
        return messages.pop() if messages else await receive()

    return receive_replayed


async def _until_gone(asking, receive: Receive):  # type: ignore[no-untyped-def]
    """Await an answer, and give it up when the client is gone."""
    this, is_waiting = asyncio.current_task(), True
    assert this is not None

    def give_up(gone: asyncio.Task) -> None:
        if is_waiting and not gone.cancelled():
            this.cancel()

    gone = asyncio.ensure_future(_wait_gone(receive))
    gone.add_done_callback(give_up)
    try:
        return await asking
    except asyncio.CancelledError:
        if not gone.done():
            raise
        this.uncancel()
        raise ConnectionError from None
    finally:
        is_waiting = False
        gone.cancel()


async def _wait_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
