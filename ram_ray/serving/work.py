"""The work of one Ingress: images are decoded by turns, travel together, and come back as answers.

    wait (by turns) -> decode (threads, bounded pixels) -> ready -> batch -> the model's replica -> answer

Few images are ready at a time, so that a newcomer passes those that still wait. Images with the same model and options
travel in one call, whatever their requests: a call costs more than a small model. A batch that a replica does not
answer in time, or whose replica dies, is sent to another one, which is safe because tagging has no side effects.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ram_ray.data.image_parts import count_pixels
from ram_ray.data.images import Limits, header
from ram_ray.records import Reject
from ram_ray.serving.decoding import decode_all, problem_answer, reject_answer
from ram_ray.serving.limits import MAX_WAIT_SHARE, ApiError, Places
from ram_ray.serving.messages import Options, Problem
from ram_ray.serving.metrics import Metrics
from ram_ray.serving.models import ServedModel
from ram_ray.serving.tagger import ReplicaLost
from ram_ray.serving.turns import Turns
from ram_ray.settings.serving import ServeConfig

logger = logging.getLogger(__name__)

DECODE_THREADS = max(2, min(4, os.cpu_count() or 2))  # more than there are CPUs take the interpreter from each other
SMALL_PIXELS = 4_000_000  # an image that a larger one, which waits for room, does not hold up
CHUNK_PIXELS = 2_000_000  # small images are decoded several at a time
CHUNK_IMAGES = 8
ATTEMPTS = 3
RESEND_SHARE = 0.3  # of the time limit, after which a batch without an answer is sent again


@dataclass(eq=False)
class _Job:
    """One image on its way."""

    content: bytes
    pixels: int
    model: ServedModel
    options: Options
    client: Hashable
    request: int
    answer: asyncio.Future[bytes]
    square: np.ndarray | None = None  # (S, S, 3) uint8
    since: float = field(default_factory=time.monotonic)


class Work:
    """Decodes and tags the images of all requests of one process.

    Args:
        config: section `serve`.
        metrics: what is counted.
    """

    def __init__(self, config: ServeConfig, metrics: Metrics) -> None:
        self._config, self._metrics = config, metrics
        self._limits = Limits(min_side=1, max_pixels=config.max_pixels, max_bytes=config.max_image_bytes)
        self._threads = ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="decode")
        self._turns: Turns[_Job] = Turns()
        self.places = Places(config.max_queued, max_wait_s=MAX_WAIT_SHARE * config.timeout_s)
        self._pixels = 0  # that are being decoded
        self._decoding = 0  # images that are being decoded
        self._busy_threads = 0
        self._busy_large = 0  # threads that decode a large image
        self._ready: Turns[_Job] = Turns()
        self._batch_size = 1  # of the model that was asked last
        self._sent = 0  # batches on their way
        self._last_done = 0.0
        self._batch_s = 0.0  # of the last batches, from sending to answer
        self._oldest = 0.0  # when the last batch was sent, or the first image became ready after it
        self._is_called = False  # whether `_advance` is about to be called
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task] = set()
        self._numbers = itertools.count()
        self._max_sent = _max_sent(config)

    async def run(
        self, contents: list[bytes | Problem], *, model: ServedModel, options: Options, client: Hashable
    ) -> list[bytes]:
        """Tag the images of one request.

        Args:
            contents: bytes of each file, or what is wrong with it.
            model: that answers.
            options: of the request.
            client: whose request it is.

        Returns:
            An `ImageResult` as JSON for each image, in order. An image that fails has an error of its own.

        Raises:
            ApiError: 429 if too many images wait, 503 if no replica answers.
            ReplicaLost: if the model is not there any more.
        """
        self._batch_size = min(model.batch_size, self._config.max_batch_size)
        with self.places.take(len(contents), client=client):
            self._metrics.waiting(self.places.num_images)
            number = next(self._numbers)
            loop = asyncio.get_running_loop()
            answers: list[asyncio.Future[bytes] | bytes] = []
            futures: list[asyncio.Future[bytes]] = []
            try:
                for content in contents:
                    if isinstance(content, Problem):
                        answers.append(problem_answer(content))
                        self._metrics.rejected(content.code)
                        continue
                    try:
                        pixels = await self._count_pixels(content)
                    except Reject as reject:
                        answers.append(reject_answer(reject, content))
                        self._metrics.rejected(reject.reason)
                        continue
                    job = _Job(content, pixels, model, options, client, number, loop.create_future())
                    answers.append(job.answer)
                    futures.append(job.answer)
                    self._turns.push(job, client=client, request=number, cost=1 + job.pixels / 1e6)
                self._advance_soon()
                await asyncio.gather(*futures)
            finally:
                for future in futures:
                    future.cancel()
                self._turns.remove(client=client, request=number)
                self._ready.remove(client=client, request=number)
                self._advance_soon()
                self._metrics.waiting(self.places.num_images - len(contents))
            return [answer if isinstance(answer, bytes) else answer.result() for answer in answers]

    async def _count_pixels(self, content: bytes) -> int:
        pixels = count_pixels(content)
        if pixels is None:
            width, height = await asyncio.to_thread(header, content, limits=self._limits)
            pixels = width * height
        return pixels

    def _advance_soon(self) -> None:
        """Call `_advance` once for all that happens now: images that arrive together are decoded together."""
        if not self._is_called:
            self._is_called = True
            asyncio.get_running_loop().call_soon(self._advance)

    def _advance(self) -> None:
        """Start whatever can start: decoding, then batches."""
        self._is_called = False
        while self._busy_threads < DECODE_THREADS:
            chunk = self._take_chunk()
            if not chunk:
                break
            self._busy_threads += 1
            self._start(self._decode(chunk))
        self._send_ready()

    def _take_chunk(self) -> list[_Job]:
        chunk: list[_Job] = []
        share = -(-len(self._turns) // (DECODE_THREADS - self._busy_threads))  # the other threads have theirs
        while len(chunk) < min(CHUNK_IMAGES, share):
            room = self._room() - len(chunk)
            if room <= 0:
                break
            job = self._turns.pop(self._fits if not chunk else self._fits_beside)
            if job is None:
                break
            if job.answer.done():  # its request is over
                continue
            chunk.append(job)
            self._pixels += job.pixels
            if sum(job.pixels for job in chunk) >= CHUNK_PIXELS:
                break
        self._decoding += len(chunk)
        self._busy_large += _is_large(chunk)
        return chunk

    def _room(self) -> int:
        """Images that may be decoded now, so that those that are ready fill the next batches and no more."""
        return 2 * self._batch_size + 1 - len(self._ready) - self._decoding

    def _fits(self, job: _Job) -> bool:
        if job.pixels > SMALL_PIXELS and self._busy_large >= DECODE_THREADS - 1:
            return False  # one thread is left for small images
        if self._pixels + job.pixels <= self._config.max_held_pixels or not self._pixels:
            return True
        return job.pixels <= SMALL_PIXELS

    def _fits_beside(self, job: _Job) -> bool:
        return job.pixels <= CHUNK_PIXELS

    async def _decode(self, chunk: list[_Job]) -> None:
        loop, started = asyncio.get_running_loop(), time.monotonic()
        contents = [job.content for job in chunk]
        sizes = [job.model.info.image_size for job in chunk]
        try:
            squares = await loop.run_in_executor(self._threads, decode_all, contents, sizes, self._limits)
        finally:
            self._busy_threads -= 1
            self._decoding -= len(chunk)
            self._busy_large -= _is_large(chunk)
            self._pixels -= sum(job.pixels for job in chunk)
        self._metrics.seconds("decode", (time.monotonic() - started) / len(chunk))
        for job, square in zip(chunk, squares, strict=True):
            content, job.content = job.content, b""
            if job.answer.done():
                continue
            if isinstance(square, Reject):
                self._metrics.rejected(square.reason)
                job.answer.set_result(reject_answer(square, content))
            else:
                job.square = square
                if not len(self._ready):
                    self._oldest = time.monotonic()
                self._ready.push(job, client=job.client, request=job.request, cost=1)
        self._advance()

    def _send_ready(self) -> None:
        while len(self._ready) and self._sent < self._max_sent:
            if len(self._ready) < self._batch_size:
                waited = time.monotonic() - self._oldest
                wait_s = self._wait_s()
                if waited < wait_s:
                    if self._timer is None:
                        self._timer = asyncio.get_running_loop().call_later(wait_s - waited, self._wake)
                    return
            first = self._ready.pop()
            assert first is not None
            batch = [first]
            while len(batch) < min(first.model.batch_size, self._config.max_batch_size):
                job = self._ready.pop(partial(_same, first))
                if job is None:
                    break
                batch.append(job)
            self._oldest = time.monotonic()
            batch = [job for job in batch if not job.answer.done()]
            if batch:
                self._sent += 1
                self._start(self._send(batch))

    def _wait_s(self) -> float:
        """How long a batch that is not full waits for more images.

        As long as a batch before it is computed, which it cannot pass, or a moment for images that are being decoded.
        """
        if self._sent:
            return max(self._config.batch_wait_s, self._batch_s)
        return self._config.batch_wait_s if self._decoding else 0.0

    def _wake(self) -> None:
        self._timer = None
        self._advance()

    async def _send(self, batch: list[_Job]) -> None:
        started = time.monotonic()
        self._metrics.batch(len(batch), wait_s=started - min(job.since for job in batch))
        try:
            answers = await self._ask(batch)
        except Exception as error:
            if not isinstance(error, (ApiError, ReplicaLost)):
                logger.exception("a batch of %d images failed", len(batch))
                error = ApiError(500, "internal", "the model failed; the server's log says why")
            for job in batch:
                if not job.answer.done():
                    job.answer.set_exception(error)
        else:
            done = time.monotonic()
            self._metrics.seconds("model", done - started)
            self._batch_s += 0.2 * (done - started - self._batch_s)
            self._metrics.images(len(batch), model=batch[0].model.name)
            if self._sent == self._max_sent:  # the replicas have no pause
                self.places.record(len(batch), done - max(self._last_done, started))
            elif self.places.seconds_an_image:
                self.places.record(len(batch), (done - started) / self._max_sent)
            self._last_done = done
            for job, answer in zip(batch, answers, strict=True):
                if not job.answer.done():
                    job.answer.set_result(answer)
        finally:
            self._sent -= 1
            self._advance()

    async def _ask(self, batch: list[_Job]) -> list[bytes]:
        first = batch[0]
        images = np.stack([job.square for job in batch if job.square is not None])
        limit = None if first.options.caption else RESEND_SHARE * self._config.timeout_s
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with asyncio.timeout(limit if attempt < ATTEMPTS else None):
                    return await first.model.tagger.tag(images, first.options)
            except TimeoutError:
                logger.warning("%d images had no answer within %g s; they are sent again", len(batch), limit)
                self._metrics.resent(len(batch))
            except ReplicaLost:
                self._metrics.resent(len(batch))
                if attempt == ATTEMPTS:
                    raise
                await asyncio.sleep(0.2 * attempt)
        raise AssertionError("the last attempt returns or raises")

    def _start(self, coroutine) -> None:  # type: ignore[no-untyped-def]
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _max_sent(config: ServeConfig) -> int:
    """Batches that are on their way at a time.

    A second one keeps a GPU busy, and several replicas. Where one replica computes on the machine's CPUs, the time
    between two batches is that of other work, and a batch that waits at the replica would only hold up newcomers.
    """
    if config.max_replicas > config.replicas:
        return 2 * config.max_replicas
    return 2 if config.num_gpus or config.replicas > 1 else 1


def _is_large(chunk: list[_Job]) -> bool:
    return bool(chunk) and chunk[0].pixels > SMALL_PIXELS


def _same(job: _Job, first: _Job) -> bool:
    return job.model is first.model and (job.options is first.options or job.options.key() == first.options.key())
