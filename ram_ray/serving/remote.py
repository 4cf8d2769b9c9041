"""Calls between the processes of a server: from Ray's proxy to an Ingress, and from an Ingress to a model's replicas.

Ray's errors end here: what can be sent again becomes `ReplicaLost` or is sent again, the rest becomes an HTTP error.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any

import numpy as np
from ray import serve
from ray.exceptions import TaskCancelledError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.types import Scope

from ram_ray.runtime import ray_internals
from ram_ray.serving.forwarding import LOST, Forwarder
from ram_ray.serving.guard import PlainAnswer
from ram_ray.serving.limits import ApiError
from ram_ray.serving.messages import ModelInfo, Options
from ram_ray.serving.tagger import ReplicaLost
from ram_ray.settings.serving import ServeConfig

logger = logging.getLogger(__name__)

APP_NAME = "tagger"
CONFIG_S = 2.0  # the proxy asks for the application's settings so often
EXTRA_S = 5.0  # an Ingress ends a request by itself before the proxy does

local_config: ServeConfig | None = None  # of the Ingress in this process, if there is one


class Frontdoor:
    """The way from Ray's proxy to an Ingress, and the settings of the application there."""

    def __init__(self) -> None:
        self._handle: DeploymentHandle | None = None
        self._forwarder: Forwarder | None = None
        self._config: ServeConfig | None = None
        self._ask_again = 0.0
        self._is_replica: bool | None = None
        self._task: asyncio.Task | None = None

    def config(self) -> ServeConfig | None:
        """The application's settings, once they are known."""
        if self._in_replica():
            return local_config
        if time.monotonic() >= self._ask_again:
            self._ask_again = time.monotonic() + CONFIG_S
            self._task = asyncio.get_running_loop().create_task(self._refresh())
        return self._config

    async def ask(self, scope: Scope, body: bytes) -> PlainAnswer | None:
        """Ask an Ingress.

        Args:
            scope: of the request.
            body: the whole body.

        Returns:
            The answer; None: Ray's own way must be used.

        Raises:
            ApiError: 503 or 504 if no Ingress answers.
        """
        if self._in_replica() or self._forwarder is None or self._config is None:
            return None
        timeout_s = self._config.timeout_s + EXTRA_S
        try:
            async with asyncio.timeout(timeout_s):
                return await self._forwarder.ask(scope, body)
        except TimeoutError:
            raise ApiError(504, "timeout", f"not finished within {timeout_s:g} s", retry_after_s=2) from None

    def _in_replica(self) -> bool:
        """Whether this process is an Ingress itself, as with HAProxy."""
        if self._is_replica is None:
            try:
                serve.get_replica_context()
                self._is_replica = True
            except RayServeException:
                self._is_replica = False
        return self._is_replica

    async def _refresh(self) -> None:
        try:
            if self._handle is None:
                self._handle = await asyncio.to_thread(serve.get_app_handle, APP_NAME)
                self._forwarder = Forwarder(self._handle)
            async with asyncio.timeout(5):
                config = await self._handle.settings.remote()
            if config != self._config:
                self._config = config
        except Exception as error:  # the application is not there, or is not this one
            logger.debug("no settings: %s", error)
            if self._config is None:
                self._handle = self._forwarder = None


class RemoteTagger:
    """A `ram_ray.serving.tagger.Tagger` over a Serve handle.

    Args:
        handle: of the model's replicas.
    """

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        self._digest = ""

    async def facts(self) -> tuple[ModelInfo, int]:
        """See `Tagger.facts`."""
        info, batch_size = await self._call("facts")
        self._digest = info.digest
        return info, batch_size

    async def tag(self, images: np.ndarray, options: Options) -> list[bytes]:
        """See `Tagger.tag`."""
        return await self._call("tag", self._digest, images, options)

    async def _call(self, method: str, *args: Any) -> Any:
        ray_internals.route_on_this_loop(self._handle)
        response = getattr(self._handle, method).remote(*args)
        try:
            return await response
        except BackPressureError:
            raise ApiError(503, "busy", "too many images are waiting; try again", retry_after_s=2) from None
        except (*LOST, TaskCancelledError):
            raise ReplicaLost from None
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                response.cancel()
            raise
