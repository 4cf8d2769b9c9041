"""Turns: which waiting item is next, when clients and their requests share a worker.

Start-time fair queueing on two levels. Each client, and each request of a client, has a clock of the cost it was given.
The next item is of the client whose clock, after the item's cost, is lowest, and there of the request for which the
same holds. A newcomer's clock starts at the time that has passed for all; each item that is taken moves it by its cost
divided by the number of those that wait. So waiting earns no credit, newcomers that keep coming starve nobody, an image
beside a hundred images of another client is next, and a small image is before a large one that came with it.

Where many have items, the first small item of a newcomer would wait for one of each: it is put before them, but not
twice in a row, so that a flood of newcomers leaves the others half of the worker.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

SMALL_COST = 5.0


@dataclass
class _Request(Generic[T]):
    clock: float
    items: deque[tuple[float, T]] = field(default_factory=deque)  # (cost, item)
    is_new: bool = True

    @property
    def finish(self) -> float:
        return self.clock + self.items[0][0]


@dataclass
class _Client(Generic[T]):
    clock: float
    now: float = 0.0  # the clock at which a request of this client starts
    requests: dict[Hashable, _Request[T]] = field(default_factory=dict)
    is_new: bool = True
    prefers_new: bool = True  # whether a new request may go before others now

    def first(self, accepts: Callable[[T], bool]) -> tuple[tuple[bool, float], Hashable, float] | None:
        """The next request: its key (lower goes first), the request and the cost of its item."""
        best: tuple[tuple[bool, float], Hashable, float] | None = None
        for request_id, request in self.requests.items():
            cost, item = request.items[0]
            key = (not (cost <= SMALL_COST and request.is_new and self.prefers_new), request.finish)
            if (best is None or key < best[0]) and accepts(item):
                best = (key, request_id, cost)
        return best


class Turns(Generic[T]):
    """Waiting items of several clients."""

    def __init__(self) -> None:
        self._clients: dict[Hashable, _Client[T]] = {}
        self._now = 0.0
        self._num_items = 0
        self._prefers_new = True

    def __len__(self) -> int:
        return self._num_items

    def push(self, item: T, *, client: Hashable, request: Hashable, cost: float) -> None:
        """Add an item behind the others of its request.

        Args:
            item: what waits.
            client: whose item it is.
            request: of the client.
            cost: of the item, above 0.
        """
        waiting = self._clients.get(client)
        if waiting is None:
            waiting = self._clients[client] = _Client(self._now)
        entry = waiting.requests.get(request)
        if entry is None:
            entry = waiting.requests[request] = _Request(waiting.now)
        entry.items.append((cost, item))
        self._num_items += 1

    def pop(self, accepts: Callable[[T], bool] = lambda item: True) -> T | None:
        """Take the next item.

        Args:
            accepts: whether an item can be taken now. An item that cannot be taken does not hold up others.

        Returns:
            The item; None if none waits that can be taken.
        """
        best: tuple[tuple[bool, float, bool, float], Hashable, Hashable] | None = None
        for client_id, client in self._clients.items():
            first = client.first(accepts)
            if first is None:
                continue
            request_key, request_id, cost = first
            late = not (cost <= SMALL_COST and client.is_new and self._prefers_new)
            key = (late, client.clock + cost, *request_key)
            if best is None or key < best[0]:
                best = (key, client_id, request_id)
        if best is None:
            return None
        (late, _, late_request, _), client_id, request_id = best
        client = self._clients[client_id]
        request = client.requests[request_id]
        cost, item = request.items.popleft()
        self._num_items -= 1
        self._now = max(self._now + cost / len(self._clients), client.clock)
        client.now = max(client.now + cost / len(client.requests), request.clock)
        client.clock += cost
        request.clock += cost
        self._prefers_new, client.prefers_new = late, late_request
        client.is_new = request.is_new = False
        self._drop_if_empty(client_id, request_id)
        return item

    def remove(self, *, client: Hashable, request: Hashable) -> int:
        """Remove the items of a request that is over.

        Args:
            client: of the request.
            request: that is over.

        Returns:
            Number of items removed.
        """
        waiting = self._clients.get(client)
        entry = waiting.requests.get(request) if waiting else None
        if entry is None:
            return 0
        num_items = len(entry.items)
        entry.items.clear()
        self._num_items -= num_items
        self._drop_if_empty(client, request)
        return num_items

    def _drop_if_empty(self, client_id: Hashable, request_id: Hashable) -> None:
        client = self._clients[client_id]
        if not client.requests[request_id].items:
            del client.requests[request_id]
        if not client.requests:
            del self._clients[client_id]
