"""The deployments of Ray Serve: an Ingress that decodes images, and replicas that hold a model.

    client -> proxy (guard) -> Ingress (reads, checks, decodes on CPU threads) -> TaggerReplica (one bundle)

The model runs in a thread, never on the event loop: a blocked loop answers no health check. A replica never changes its
bundle: another bundle is another application of Serve, and `reconfigure` tells the Ingress which ones it offers.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.types import Message, Scope

from ram_ray.records import Json
from ram_ray.runtime.worker_log import write_warnings
from ram_ray.serving import remote
from ram_ray.serving.errors import error_response
from ram_ray.serving.messages import ModelInfo, Options
from ram_ray.serving.metrics import Metrics
from ram_ray.serving.models import Models, ServedModel
from ram_ray.serving.remote import RemoteTagger
from ram_ray.serving.tagger import ReplicaLost, measure_batch_size, model_info, model_name, tag_batch
from ram_ray.settings.serving import ServeConfig

logger = logging.getLogger(__name__)

TOGETHER_S = 0.002  # answers that are ready within this time go back together
# A forward pass that hangs is found within 2 x `timeout_s`: after this share, by three checks a sixth apart (`app`).
STUCK_SHARE = 1.4

Answer = tuple[int, int, list[tuple[bytes, bytes]], bytes]  # index of the request, status, headers, body


@serve.deployment(name="Tagger")
class TaggerReplica:
    """One loaded bundle, tried before it answers.

    Args:
        model_uri: a path, any fsspec URI, or a Hugging Face id.
        config: section `serve`.
        name: in requests and answers; None: the last parts of `model_uri`.
    """

    def __init__(self, model_uri: str, config: ServeConfig, name: str | None = None) -> None:
        from ram_ray.inference.predictor import Predictor
        from ram_ray.models.bundle import bundle_digest
        from ram_ray.runtime.storage import local_copy

        write_warnings()
        folder = local_copy(model_uri)
        use_gpu = config.num_gpus > 0
        backend, precision = choose_backend(config, use_gpu=use_gpu)
        self._predictor = Predictor.from_pretrained(
            str(folder),
            device="cuda" if use_gpu else "cpu",
            backend=backend,
            precision=precision,
            threads=config.threads,
        )
        self.batch_size = measure_batch_size(
            self._predictor, most=config.max_batch_size, cpu_threads=None if use_gpu else config.threads
        )
        self._info = model_info(self._predictor, model=name or model_name(model_uri), digest=bundle_digest(folder))
        self._lock = asyncio.Lock()
        self._metrics = Metrics()
        self._stuck_after_s = STUCK_SHARE * config.timeout_s
        self._started: float | None = None

    async def facts(self) -> tuple[ModelInfo, int]:
        """The bundle's name, digest and labels, and the most images of a batch."""
        return self._info, self.batch_size

    async def tag(self, digest: str, images: np.ndarray, options: Options) -> list[bytes]:
        """Tag a batch.

        Args:
            digest: of the bundle that the batch is for.
            images: (B, S, S, 3) uint8, RGB.
            options: of all of them.

        Returns:
            An `ImageResult` as JSON for each image.

        Raises:
            ReplicaLost: if this is another bundle.
        """
        if digest != self._info.digest:
            raise ReplicaLost
        async with self._lock:
            self._started = time.monotonic()
            try:
                return await asyncio.to_thread(self._tag, images, options)
            finally:
                self._metrics.seconds("forward", time.monotonic() - self._started)
                self._started = None

    def _tag(self, images: np.ndarray, options: Options) -> list[bytes]:
        return [result.model_dump_json().encode() for result in tag_batch(self._predictor, images, options)]

    def check_health(self) -> None:
        """Called by Serve: an error here makes Serve replace the replica.

        Raises:
            RuntimeError: if a forward pass has been running for too long.
        """
        if self._started is not None and time.monotonic() - self._started > self._stuck_after_s:
            raise RuntimeError(f"a forward pass has been running for over {self._stuck_after_s:g} s")


@serve.deployment(name="Ingress")
@serve.ingress()
class Ingress:
    """The HTTP deployment.

    Args:
        config: section `serve`.
        tagger: of a single model in the same application; None: `reconfigure` names the models.
        guarded: whether the proxy has the guard, which then counts and logs the requests.
    """

    def __init__(self, config: ServeConfig, tagger: DeploymentHandle | None = None, guarded: bool = True) -> None:
        from ram_ray.runtime.allocator import return_freed_memory

        write_warnings()
        return_freed_memory()
        remote.local_config = config
        self._config, self._guarded = config, guarded
        self._models = Models(None if tagger is None else RemoteTagger(tagger))
        self._state: Json = {}

    def __serve_build_asgi_app__(self) -> Any:
        from ram_ray.serving.api import create_api

        return create_api(self._models, self._config, metrics=Metrics(), counts_requests=not self._guarded)

    async def reconfigure(self, state: Json) -> None:
        """Called by Serve with the deployment's `user_config`, at the start and after a swap.

        Args:
            state: `models`, each with its `app`; `default`, the app that answers where no model is named.
        """
        loaded: dict[str, ServedModel] = {}
        for entry in state["models"]:
            tagger = RemoteTagger(serve.get_app_handle(entry["app"]))
            loaded[entry["app"]] = ServedModel(*await tagger.facts(), tagger)
        self._models.replace(list(loaded.values()), default=loaded[state["default"]].name)
        self._state = state

    async def state(self) -> Json:
        """The models that are offered, as `reconfigure` got them."""
        return self._state

    async def settings(self) -> ServeConfig:
        """The settings, for the guard in the proxy."""
        return self._config

    async def answer_all(self, requests: list[tuple[Scope, bytes]]) -> AsyncIterator[list[Answer]]:
        """Answer requests that the guard has read as a whole; the answer of each comes as soon as it is there.

        Args:
            requests: scope of ASGI and body of each.

        Yields:
            Answers that are there at the same time: index of the request, status, headers and body.
        """
        ready: list[Answer] = []
        is_ready = asyncio.Event()

        async def answer(index: int, scope: Scope, body: bytes) -> None:
            status, headers, content = await self.answer(scope, body)
            ready.append((index, status, headers, content))
            is_ready.set()

        tasks = [asyncio.create_task(answer(index, *request)) for index, request in enumerate(requests)]
        num_left = len(requests)
        try:
            while num_left:
                await is_ready.wait()
                if len(ready) < num_left:
                    await asyncio.sleep(TOGETHER_S)  # others of the same batch of the model
                is_ready.clear()
                num_left -= len(ready)
                answers, ready = ready, []
                yield answers
        finally:
            for task in tasks:
                task.cancel()

    async def answer(self, scope: Scope, body: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Answer a request that the guard has read as a whole.

        Args:
            scope: of ASGI.
            body: of the request.

        Returns:
            Status, headers and body.
        """
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        started: list[Message] = []
        chunks: list[bytes] = []

        async def receive() -> Message:
            if messages:
                return messages.pop()
            await asyncio.Event().wait()  # the call is cancelled where the client is gone
            raise AssertionError

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                started.append(message)
            else:
                chunks.append(message.get("body", b""))

        full: Scope = {"type": "http", "asgi": {"version": "3.0"}, "root_path": "", "state": {}, **scope}
        try:
            await self.app(full, receive, send)  # type: ignore[attr-defined]  # of serve.ingress
        except Exception as error:  # Starlette sends its answer first, and then raises
            logger.exception("%s %s failed", scope["method"], scope["path"])
            if not started:
                response = error_response(Request(full), error)
                return response.status_code, response.raw_headers, bytes(response.body)
        return started[0]["status"], list(started[0].get("headers", [])), b"".join(chunks)


def choose_backend(config: ServeConfig, *, use_gpu: bool) -> tuple[str, str]:
    """Choose what computes the model.

    Args:
        config: section `serve`.
        use_gpu: whether the replica has a GPU.

    Returns:
        Backend and precision: on CPUs OpenVINO where it is installed, in bf16 where the processor has it; on a GPU
        torch in bf16.
    """
    from ram_ray.models.number_format import choose_precision

    backend = config.backend
    if backend == "auto":
        has_openvino = not use_gpu and importlib.util.find_spec("openvino") is not None
        backend = "openvino" if has_openvino else "torch"
    precision = config.precision
    if precision == "auto":
        precision = "fp32"  # exact
        if use_gpu or backend == "openvino":
            precision = choose_precision("auto", "cuda" if use_gpu else "cpu")
    return backend, precision
