"""What a server counts, as metrics of Ray: every process counts its own part, and Ray's agent of each node exports it.

`GET /metrics` of any replica is the sum of what the nodes export, so Prometheus needs no other target than the server
itself. The values are those of Ray's last report, by default some seconds old.
"""

from __future__ import annotations

import asyncio
import logging
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any

from ram_ray.runtime.metrics import EXPORTED, PASS_ON_S, PREFIX, PendingCounts

logger = logging.getLogger(__name__)

SECONDS = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30]
SIZES = [1, 2, 4, 8, 16, 32, 64]
FETCH_S = 3.0
MAX_EXPORT_BYTES = 20_000_000  # of one node


class Metrics(PendingCounts):
    """The metrics of one process. What comes within a second is passed on together: a refusal must cost nearly nothing.

    Args:
        enabled: False: nothing is counted, as where there is no Ray.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        super().__init__()
        self._enabled = enabled
        self._num_waiting = 0
        if not enabled:
            return
        from ray.util.metrics import Counter, Gauge, Histogram

        def counter(name: str, text: str, *tags: str) -> Any:
            return Counter(f"{PREFIX}{name}", description=text, tag_keys=tags)

        def histogram(name: str, text: str, boundaries: list[float], *tags: str) -> Any:
            return Histogram(f"{PREFIX}{name}", description=text, boundaries=boundaries, tag_keys=tags)

        self._requests = counter("requests", "Answered requests", "path", "status", "client")
        self._latency = histogram("request_seconds", "Seconds of a request", SECONDS, "path")
        self._images = counter("images", "Tagged images", "model")
        self._rejected = counter("rejected", "Refused images and requests", "reason")
        self._resent = counter("resent", "Images sent to a replica again")
        self._part = histogram("part_seconds", "Seconds of a part of the work", SECONDS, "part")
        self._batched = counter("batched_images", "Images of all batches")  # Ray's sum of a histogram is none
        self._batch = histogram("batch_images", "Images of a batch", [float(size) for size in SIZES])
        self._waiting = Gauge(f"{PREFIX}waiting_images", description="Images that wait or are worked on")

    def request(self, path: str, status: int, *, client: str, seconds: float) -> None:
        """Count an answered request.

        Args:
            path: of the API; "other" for any else.
            status: of the answer.
            client: name of the key; empty without keys.
            seconds: from the first byte to the answer.
        """
        if self._enabled:
            self._add(self._requests, 1, (("path", path), ("status", str(status)), ("client", client)))
            if status not in (429, 503):
                self._latency.observe(seconds, {"path": path})

    def _call_later(self, function: Callable[[], None]) -> None:
        try:
            asyncio.get_running_loop().call_later(PASS_ON_S, function)
        except RuntimeError:  # not on an event loop
            function()

    def _pass_on(self) -> None:
        self._waiting.set(self._num_waiting)
        super()._pass_on()

    def images(self, num_images: int, *, model: str) -> None:
        """Count tagged images of a model."""
        if self._enabled:
            self._add(self._images, num_images, (("model", model),))

    def rejected(self, reason: str) -> None:
        """Count a refused image or request, by its code."""
        if self._enabled:
            self._add(self._rejected, 1, (("reason", reason),))

    def resent(self, num_images: int) -> None:
        """Count images that were sent to a replica again."""
        if self._enabled:
            self._resent.inc(num_images)

    def batch(self, num_images: int, *, wait_s: float) -> None:
        """Count a batch, and the time from a request's arrival to its sending."""
        if self._enabled:
            self._batch.observe(num_images)
            self._add(self._batched, num_images, ())
            self._part.observe(max(wait_s, 1e-6), {"part": "wait"})

    def seconds(self, part: str, seconds: float) -> None:
        """Count the time of a part of the work: decode, model, forward."""
        if self._enabled:
            self._part.observe(max(seconds, 1e-6), {"part": part})

    def waiting(self, num_images: int) -> None:
        """Set the number of images that wait."""
        if self._enabled:
            self._num_waiting = num_images
            self._pass_on_soon()


def exported_lines(urls: Iterable[str]) -> list[str]:
    """Fetch what the nodes export and keep our metrics.

    Args:
        urls: of the nodes' exports.

    Returns:
        Lines in Prometheus' text format, without Ray's own metrics; a node that does not answer is left out.
    """
    lines: dict[str, None] = {}  # headers of one metric come once for each node
    for url in urls:
        try:
            with urllib.request.urlopen(url, timeout=FETCH_S) as answer:
                text = answer.read(MAX_EXPORT_BYTES).decode("utf-8", "replace")
        except OSError as error:
            logger.warning("%s: %s", url, error)
            continue
        for line in text.splitlines():
            if line.removeprefix("# HELP ").removeprefix("# TYPE ").startswith(EXPORTED):
                lines[line] = None
    return sorted(lines, key=_order)


def _order(line: str) -> tuple[str, int]:
    """Lines of one metric together, HELP and TYPE first."""
    words = line.split(" ", 3)
    if line.startswith("#"):
        return words[2], 0 if words[1] == "HELP" else 1
    name = line.partition("{")[0].partition(" ")[0]
    for suffix in ("_bucket", "_sum", "_count"):
        name = name.removesuffix(suffix)
    return name, 2
