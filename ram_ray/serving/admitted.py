"""How much of each client's work a server admits, learned from its refusals.

A request that the Ingress refuses has travelled there for nothing, with all its images, and under overload most would.
So the proxy remembers what a client had in flight when it was refused, and refuses what is over it at once. Each answer
with tags raises the limit a little, so that it follows what the server can do, and it is forgotten with the last
request in flight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ram_ray.serving.limits import ApiError

GROWTH = 1 / 8  # of a request's bytes, by which the limit grows when it is answered


@dataclass
class _Client:
    num_requests: int = 0  # in flight
    num_bytes: int = 0  # of their bodies
    max_bytes: float = math.inf
    refusal: ApiError | None = None


class Admitted:
    """Requests in flight and the limits of their clients."""

    def __init__(self) -> None:
        self._clients: dict[str, _Client] = {}

    def check(self, client: str, num_bytes: int) -> None:
        """Check whether a request can be sent on. One at a time always can.

        Args:
            client: whose request it is.
            num_bytes: of its body.

        Raises:
            ApiError: the last refusal of the client, if it has as much in flight as was admitted.
        """
        state = self._clients.get(client)
        if state is not None and state.num_bytes + num_bytes > state.max_bytes:
            assert state.refusal is not None, "it came with the limit"
            raise state.refusal.with_traceback(None)

    @contextmanager
    def take(self, client: str, num_bytes: int) -> Iterator[None]:
        """Count a request for as long as the context lasts.

        Args:
            client: whose request it is.
            num_bytes: of its body.

        Raises:
            ApiError: of `check`.
        """
        self.check(client, num_bytes)
        state = self._clients.setdefault(client, _Client())
        state.num_requests += 1
        state.num_bytes += num_bytes
        try:
            yield
        finally:
            state.num_requests -= 1
            state.num_bytes -= num_bytes
            if not state.num_requests:
                del self._clients[client]

    def answered(self, client: str, num_bytes: int) -> None:
        """Raise the limit of a client: a request of it, which is still counted, has its tags.

        Args:
            client: whose request it is.
            num_bytes: of its body.
        """
        self._clients[client].max_bytes += GROWTH * num_bytes

    def refused(self, client: str, num_bytes: int, refusal: ApiError) -> None:
        """Limit a client to what else it has in flight: a request of it, which is still counted, was refused.

        Args:
            client: whose request it is.
            num_bytes: of its body.
            refusal: what the next ones get that are over the limit.
        """
        state = self._clients[client]
        state.refusal = refusal
        state.max_bytes = state.num_bytes - num_bytes
