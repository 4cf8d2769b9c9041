"""The Ray Serve application: an HTTP deployment that decodes images, and taggers that hold the model and batch.

    client -> proxy -> Ingress (reads, checks, decodes on CPU threads) -> Tagger (one model, dynamic batches)

The two deployments scale separately: decoding needs CPUs, the model a GPU or CPU threads of its own. The model runs in
a thread, never on the event loop: a blocked loop answers no health check and hides its queue from the autoscaler. A
replica that dies is replaced and its images are sent again once, which is safe because tagging has no side effects.
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
from ram_ray.runtime.worker_log import write_warnings
from ram_ray.serving.limits import ApiError
from ram_ray.serving.messages import ImageResult, ModelInfo, Options
from ram_ray.serving.tagger import Job, model_info, model_name, tag_batch
from ram_ray.settings.serving import ServeConfig

APP_NAME = "tagger"
INGRESS_CPUS = 0.25  # decoding threads release the lock; on a cluster set it in the Serve config's `deployments`
START_TIMEOUT_S = 120.0
STUCK_FACTOR = 10  # a forward pass that takes so many request timeouts counts as hung


@serve.deployment(name="Tagger")
class TaggerReplica:
    """One loaded model. It batches the images of all waiting requests into shared forward passes."""

    def __init__(self, model_uri: str, config: ServeConfig) -> None:
        from ram_ray.inference.predictor import Predictor

        write_warnings()
        use_gpu = config.num_gpus > 0
        self._predictor = Predictor.from_pretrained(
            model_uri,
            device="cuda" if use_gpu else "cpu",
            precision="bf16" if use_gpu else "fp32",
            threads=config.threads,
        )
        self._info = model_info(self._predictor, model=model_name(model_uri))
        self._stuck_after_s = STUCK_FACTOR * config.timeout_s
        self._started: float | None = None
        self.tag.set_max_batch_size(config.max_batch_size)  # type: ignore[attr-defined]
        self.tag.set_batch_wait_timeout_s(config.batch_wait_s)  # type: ignore[attr-defined]

    @serve.batch
    async def tag(self, jobs: list[Job]) -> list[ImageResult]:
        """Tag a batch. A caller sends one job; Serve collects the jobs that arrive together.

        Args:
            jobs: pairs of an image, uint8 (H, W, 3), and its options.

        Returns:
            A result for each job, in order.
        """
        self._started = time.monotonic()
        try:
            return await asyncio.to_thread(tag_batch, self._predictor, jobs)
        finally:
            self._started = None

    async def info(self) -> ModelInfo:
        """The model's labels."""
        return self._info

    def check_health(self) -> None:
        """Called by Serve: an error here makes Serve replace the replica.

        Raises:
            RuntimeError: if a forward pass has been running for too long.
        """
        if self._started is not None and time.monotonic() - self._started > self._stuck_after_s:
            raise RuntimeError(f"a forward pass has been running for over {self._stuck_after_s:g} s")


class RemoteTagger:
    """A `ram_ray.serving.tagger.Tagger` over a Serve handle: Ray's errors become HTTP errors."""

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
                raise ApiError(503, "busy", "too many images are waiting; try again", retry_after_s=2) from None
            except (RayActorError, DeploymentUnavailableError):
                if attempt == 2:
                    raise ApiError(503, "not_ready", "the model is being restarted", retry_after_s=5) from None
                await asyncio.sleep(0.2)
        raise AssertionError("the loop returns or raises")


@serve.deployment(name="Ingress")
@serve.ingress()
class Ingress:
    """The HTTP deployment; each replica makes its own FastAPI application."""

    def __init__(self, tagger: DeploymentHandle, config: ServeConfig) -> None:
        write_warnings()
        self._tagger, self._config = tagger, config

    def __serve_build_asgi_app__(self) -> Any:
        from ram_ray.serving.api import create_api

        return create_api(RemoteTagger(self._tagger), self._config)


def build_app(model_uri: str, config: ServeConfig) -> serve.Application:
    """Make the Serve application for a model bundle.

    Args:
        model_uri: a path, any fsspec URI, or a Hugging Face id.
        config: section `serve`.

    Returns:
        The application, not yet deployed.
    """
    max_waiting_images = config.max_queued * config.max_images
    tagger = TaggerReplica.options(  # type: ignore[attr-defined]
        ray_actor_options={"num_cpus": config.num_cpus, "num_gpus": config.num_gpus},
        max_ongoing_requests=4 * config.max_batch_size,
        max_queued_requests=max_waiting_images,
        health_check_period_s=10,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=config.timeout_s,
        **_scaling(config, target=2 * config.max_batch_size),
    ).bind(model_uri, config)
    ingress = Ingress.options(  # type: ignore[attr-defined]
        ray_actor_options={"num_cpus": INGRESS_CPUS},
        max_ongoing_requests=config.max_queued
        + 32,  # the limiter refuses first, with a message; health checks still pass
        **_scaling(config, target=max(config.max_queued // 2, 1)),
    ).bind(tagger, config)
    return ingress


def app(args: dict[str, Any]) -> serve.Application:
    """Build the application of a Serve config file: `import_path: ram_ray.serving.app:app`, `args: {model: ...}`.

    Args:
        args: `model`, and any field of `ServeConfig` except `host` and `port`.

    Returns:
        The application, not yet deployed.

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
    """Serve a model bundle on the cluster that this process has joined, and wait until it answers.

    Where the application is already served, on the same port, it is updated in place. Stop it with
    `ray.serve.delete(APP_NAME)`, or everything of Serve with `ray.serve.shutdown()`.

    Args:
        model_uri: a path, any fsspec URI, or a Hugging Face id.
        config: section `serve`.

    Returns:
        The URL of the server.

    Raises:
        ValueError: if the port is taken, or Serve already runs on another port.
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
    running_port = ray_internals.serve_port()
    if running_port is not None:  # its HTTP options cannot change: Ray would only warn and keep the old port
        if running_port != config.port:
            raise ValueError(
                f"Ray Serve already runs on port {running_port} of this cluster, not {config.port}: "
                f"set serve.port={running_port}, or stop it first with `serve shutdown`"
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
