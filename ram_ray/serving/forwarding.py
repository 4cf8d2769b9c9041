"""The way of requests from Ray's proxy to an Ingress: those that arrive together travel in one call.

A call of Ray costs more CPU than a small model, so a call carries every request that has come since the last one. The
answers come back as a stream: each as soon as it is there, and those that are there at the same time in one message, so
that no request waits for the answer of another. What an Ingress that dies has not answered is sent to another one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.types import Scope

from ram_ray.runtime import ray_internals
from ram_ray.serving.guard import PlainAnswer
from ram_ray.serving.limits import ApiError

logger = logging.getLogger(__name__)

ATTEMPTS = 4
GATHER_S = 0.008  # between two calls while one is being answered
MAX_REQUESTS = 32  # of a call
MAX_BYTES = 512_000  # of a call's bodies, unless one alone has more: a larger call does not travel by itself
LOST = (RayActorError, DeploymentUnavailableError)
_SENT = ("method", "path", "raw_path", "query_string", "headers", "client", "scheme", "server", "http_version")


@dataclass(eq=False)
class _Asked:
    """One request on its way."""

    scope: Scope
    body: bytes
    answer: asyncio.Future[PlainAnswer]
    attempts: int = 0


class Forwarder:
    """Sends requests to the Ingress replicas; used on one event loop.

    Args:
        handle: of the Ingress.
    """

    def __init__(self, handle: DeploymentHandle) -> None:
        ray_internals.route_on_this_loop(handle)
        self._answers = handle.options(stream=True).answer_all
        self._waiting: deque[_Asked] = deque()
        self._num_bytes = 0  # of those that wait
        self._num_calls = 0  # that are being answered
        self._timer: asyncio.Handle | None = None
        self._last_sent = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, scope: Scope, body: bytes) -> asyncio.Future[PlainAnswer]:
        """Send a request with the next call.

        Args:
            scope: of the request.
            body: the whole body.

        Returns:
            The answer, or an `ApiError`. Cancelled: nobody waits for it any more.
        """
        sent = {name: scope[name] for name in _SENT if name in scope}
        asked = _Asked(sent, body, asyncio.get_running_loop().create_future())
        self._put(asked)
        return asked.answer

    def _put(self, asked: _Asked) -> None:
        self._waiting.append(asked)
        self._num_bytes += len(asked.body)
        loop = asyncio.get_running_loop()
        if len(self._waiting) >= MAX_REQUESTS or self._num_bytes >= MAX_BYTES:
            self._send()
        elif self._timer is None:
            wait_s = self._last_sent + GATHER_S - loop.time() if self._num_calls else 0.0
            self._timer = loop.call_later(wait_s, self._send) if wait_s > 0 else loop.call_soon(self._send)

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        while self._waiting:
            call: list[_Asked] = []
            num_bytes = 0
            while self._waiting and len(call) < MAX_REQUESTS:
                asked = self._waiting[0]
                if call and num_bytes + len(asked.body) > MAX_BYTES:
                    break
                self._waiting.popleft()
                self._num_bytes -= len(asked.body)
                if not asked.answer.done():  # its client is still there
                    call.append(asked)
                    num_bytes += len(asked.body)
            if call:
                task = loop.create_task(self._call(call))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        self._last_sent = loop.time()

    async def _call(self, call: list[_Asked]) -> None:
        self._num_calls += 1
        left = dict(enumerate(call))
        try:
            stream: Any = self._answers.remote([(asked.scope, asked.body) for asked in call])
            async for answers in stream:
                for index, status, headers, body in answers:
                    answer = left.pop(index).answer
                    if not answer.done():
                        answer.set_result(PlainAnswer(status, headers, body))
            assert not left, "an Ingress answers all requests of a call"
        except BackPressureError:
            _fail(left, ApiError(503, "busy", "too many requests; try again soon", retry_after_s=1))
        except LOST:
            self._resend(left)
        except Exception as error:
            logger.exception("a call of %d requests failed", len(call))
            _fail(left, error)
        finally:
            self._num_calls -= 1

    def _resend(self, left: dict[int, _Asked]) -> None:
        loop = asyncio.get_running_loop()
        logger.warning("an Ingress was lost with %d requests", len(left))
        for asked in left.values():
            asked.attempts += 1
            if asked.answer.done():
                continue
            if asked.attempts < ATTEMPTS:
                loop.call_later(0.1 * asked.attempts, self._put, asked)
            else:
                message = "the server is being restarted; try again"
                asked.answer.set_exception(ApiError(503, "not_ready", message, retry_after_s=2))


def _fail(left: dict[int, Any], error: Exception) -> None:
    for asked in left.values():
        if not asked.answer.done():
            asked.answer.set_exception(error)
