"""The Ray Serve application: an HTTP side that decodes, and taggers that hold the model and batch.

    client -> proxy -> Ingress (reads, checks, decodes on CPU threads) -> Tagger (one model, dynamic batches)

The two scale apart: decoding needs CPUs, the model a GPU or CPU threads of its own. The model runs in a
thread, never on the event loop: a blocked loop answers no health check and hides its queue from the
autoscaler. A replica that dies is replaced and its pictures are sent again once, which is safe because
tagging changes nothing.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
import urllib.error
import urllib.request
from typing import Any

import numpy as np
from pydantic import ValidationError
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from ram_ray.runtime import ray_internals
from ram_ray.serving.limits import ApiError
from ram_ray.serving.messages import ImageResult, ModelInfo, Options
from ram_ray.serving.tagger import Job, model_info, model_name, tag_batch
from ram_ray.settings.serving import ServeConfig

APP_NAME = "tagger"
INGRESS_CPUS = 0.25  # decoding threads release the lock; on a cluster set it in the Serve config's `deployments`
START_TIMEOUT_S = 120.0
STUCK_FACTOR = 10  # a forward that takes so many request timeouts is taken for dead


@serve.deployment(name="Tagger")
class TaggerReplica:
    """One loaded model. Pictures of all requests that wait are answered in shared forwards."""

    def __init__(self, model_uri: str, config: ServeConfig) -> None:
        from ram_ray.inference.predictor import Predictor

        gpu = config.num_gpus > 0
        self._predictor = Predictor.from_pretrained(
            model_uri,
            device="cuda" if gpu else "cpu",
            precision="bf16" if gpu else "fp32",
            threads=config.threads,
        )
        self._info = model_info(self._predictor, model=model_name(model_uri))
        self._stuck_after_s = STUCK_FACTOR * config.timeout_s
        self._started: float | None = None
        self.tag.set_max_batch_size(config.max_batch_size)  # type: ignore[attr-defined]
        self.tag.set_batch_wait_timeout_s(config.batch_wait_s)  # type: ignore[attr-defined]

    @serve.batch
    async def tag(self, jobs: list[Job]) -> list[ImageResult]:
        """Callers send one `(picture, options)`; Serve hands over what has gathered."""
        self._started = time.monotonic()
        try:
            return await asyncio.to_thread(tag_batch, self._predictor, jobs)
        finally:
            self._started = None

    async def info(self) -> ModelInfo:
        """The model's labels."""
        return self._info

    def check_health(self) -> None:
        """Called by Serve: fails, so that the replica is replaced, when a forward does not come back.

        Raises:
            RuntimeError: if a forward has been running for too long.
        """
        if self._started is not None and time.monotonic() - self._started > self._stuck_after_s:
            raise RuntimeError(f"a forward has been running for over {self._stuck_after_s:g} s")


class RemoteTagger:
    """A `ram_ray.serving.tagger.Tagger` over a Serve handle: errors of the way there become HTTP errors."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def info(self) -> ModelInfo:
        """See `Tagger.info`."""
        return await self._call("info")

    async def tag(self, image: np.ndarray, options: Options) -> ImageResult:
        """See `Tagger.tag`."""
        return await self._call("tag", (image, options))

    async def _call(self, method: str, *args: Any) -> Any:
        for attempt in (1, 2):
            try:
                return await getattr(self._handle, method).remote(*args)
            except BackPressureError:
                raise ApiError(503, "busy", "too many pictures are waiting; try again", retry_after_s=2) from None
            except (RayActorError, DeploymentUnavailableError):
                if attempt == 2:
                    raise ApiError(503, "not_ready", "the model is being restarted", retry_after_s=5) from None
                await asyncio.sleep(0.2)
        raise AssertionError("the loop returns or raises")


@serve.deployment(name="Ingress")
@serve.ingress()
class Ingress:
    """The HTTP side; the FastAPI application is made in the replica."""

    def __init__(self, tagger: DeploymentHandle, config: ServeConfig) -> None:
        self._tagger, self._config = tagger, config

    def __serve_build_asgi_app__(self) -> Any:
        from ram_ray.serving.api import create_api

        return create_api(RemoteTagger(self._tagger), self._config)


def build_app(model_uri: str, config: ServeConfig) -> serve.Application:
    """The Serve application for a model bundle (a path, any fsspec URI, or a hub id)."""
    waiting = config.max_queued * config.max_images
    tagger = TaggerReplica.options(  # type: ignore[attr-defined]
        ray_actor_options={"num_cpus": config.num_cpus, "num_gpus": config.num_gpus},
        max_ongoing_requests=4 * config.max_batch_size,
        max_queued_requests=waiting,
        health_check_period_s=10,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=config.timeout_s,
        **_scaling(config, target=2 * config.max_batch_size),
    ).bind(model_uri, config)
    ingress = Ingress.options(  # type: ignore[attr-defined]
        ray_actor_options={"num_cpus": INGRESS_CPUS},
        max_ongoing_requests=config.max_queued + 32,  # the gate answers first, in words; health checks still pass
        **_scaling(config, target=max(config.max_queued // 2, 1)),
    ).bind(tagger, config)
    return ingress


def app(args: dict[str, Any]) -> serve.Application:
    """For a Serve config file: `import_path: ram_ray.serving.app:app`, `args: {model: ..., max_images: ...}`.

    `args` are `model` and any field of `ServeConfig` but `host` and `port`.

    Raises:
        ValueError: for a missing model or an unknown or wrong field; names it.
    """
    fields = dict(args)
    model = fields.pop("model", None)
    if not isinstance(model, str) or not model:
        raise ValueError("args.model: give the path, URI or hub id of a model bundle")
    for name in ("host", "port"):
        if name in fields:
            raise ValueError(f"args.{name}: set it in the config file's http_options; all applications share it")
    try:
        return build_app(model, ServeConfig.model_validate(fields))
    except ValidationError as error:
        from ram_ray.serving.messages import describe

        raise ValueError(f"args: {describe(error)}") from None


def _scaling(config: ServeConfig, *, target: int) -> dict[str, Any]:
    if config.max_replicas <= config.replicas:
        return {"num_replicas": config.replicas}
    limits = {"min_replicas": config.replicas, "max_replicas": config.max_replicas}
    return {"autoscaling_config": {**limits, "target_ongoing_requests": target, "upscale_delay_s": 10}}


def deploy(model_uri: str, config: ServeConfig) -> str:
    """Serve a model bundle on the cluster that this process has joined; returns the URL once it answers.

    Where the application is already served, on the same port, it is updated in place. Stop it with
    `ray.serve.delete(APP_NAME)`, or everything of Serve with `ray.serve.shutdown()`.

    Args:
        model_uri: a path, any fsspec URI, or a hub id.
        config: section `serve`.

    Raises:
        ValueError: if the port is taken, or Serve already runs on another one.
        RuntimeError: if the application does not come up; Ray's log of the replica says why.
    """
    _start_serve(config)
    # `serve.run` waits until every replica has loaded its model, or gives up on the first that cannot.
    serve.run(
        build_app(model_uri, config),
        name=APP_NAME,
        route_prefix="/",
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
    )
    host = "127.0.0.1" if config.host in ("0.0.0.0", "::") else config.host
    url = f"http://{f'[{host}]' if ':' in host else host}:{config.port}"
    _wait_ready(url)
    return url


def _start_serve(config: ServeConfig) -> None:
    running = ray_internals.serve_port()
    if running is not None:  # its HTTP options stay as they are: Ray would only warn and serve elsewhere
        if running != config.port:
            raise ValueError(
                f"Ray Serve already runs on port {running} of this cluster, not {config.port}: "
                f"set serve.port={running}, or stop it first with `serve shutdown`"
            )
        return
    _check_port_free(config.host, config.port)
    serve.start(http_options={"host": config.host, "port": config.port})


def _check_port_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ValueError(f"port {port} on {host} is taken: set serve.port to a free one") from None
            if error.errno == errno.EACCES:
                raise ValueError(f"port {port} needs more rights: set serve.port to 1024 or above") from None
            raise ValueError(f"cannot listen on {host}:{port}: {error.strerror}; set serve.host") from None


def _wait_ready(url: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    problem = ""
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=10):
                return
        except (urllib.error.URLError, OSError) as error:
            problem = str(error)
            time.sleep(0.2)
    raise RuntimeError(f"{url}/readyz did not answer within {START_TIMEOUT_S:g} s: {problem}")
