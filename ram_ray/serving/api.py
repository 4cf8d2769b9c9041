"""The HTTP API as a FastAPI application over loaded models: it reads and checks requests; it runs no model.

A client may be hostile or careless, so the cost of a request is bounded: the guard around the application reads bodies
with limits on bytes and rate, waiting images have a bounded number of places, an image's header is checked before its
pixels are decoded, and decoding runs in a few threads (`work`), so that the event loop stays free. An image that fails
does not fail its request.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

import ram_ray
from ram_ray.serving import vision
from ram_ray.serving.errors import VISION_PATH, error_response
from ram_ray.serving.guard import Guard
from ram_ray.serving.keys import Keys
from ram_ray.serving.limits import ApiError, ByteBudget
from ram_ray.serving.messages import ErrorResponse, ModelEntry, ModelInfo, ModelList, Options, Problem, TagResponse
from ram_ray.serving.metrics import Metrics, exported_lines
from ram_ray.serving.models import Models, ServedModel
from ram_ray.serving.openapi import ERRORS, tag_body, vision_operation
from ram_ray.serving.pages import add_pages
from ram_ray.serving.reading import estimate_num_images, plain_body, quickly, read_request
from ram_ray.serving.tagger import ReplicaLost, Tagger
from ram_ray.serving.work import Work
from ram_ray.settings.serving import ServeConfig

if TYPE_CHECKING:
    from ram_ray.serving.web_images import WebImages

logger = logging.getLogger(__name__)


class Api:
    """The state of one server: its models and the work on images."""

    def __init__(self, models: Models, config: ServeConfig, metrics: Metrics) -> None:
        self.models, self.config = models, config
        self.work = Work(config, metrics)
        self.keys = Keys(config)
        self.budget = ByteBudget(config.max_held_bytes)  # of what is decompressed and fetched
        self._web: WebImages | None = None

    async def model(self, name: str | None = None) -> ServedModel:
        """Find a model, as `Models.get`."""
        return await self.models.get(name, timeout_s=self.config.timeout_s)

    async def tag(self, request: Request) -> Response:
        """Answer `POST /v1/tag`.

        Args:
            request: its body is there as a whole.

        Returns:
            A `TagResponse`: the tags of each image, in order.

        Raises:
            ApiError: a mistake in the request, 504 where it takes too long, 503 without a model.
        """
        with self.budget.hold() as add:
            client = await self._admit(request)
            contents, options = await read_request(request, self.config, add=add)
            self.keys.count_images(request.headers, len(contents))
            async with self._deadline():
                model, answers = await self._run(contents, options, client=client)
        head = json.dumps({"model": model.name, "digest": model.info.digest})[:-1].encode()
        body = b"".join([head, b', "images": [', b",".join(answers), b"]}"])
        return Response(body, media_type="application/json")

    async def annotate(self, request: Request) -> Response:
        """Answer `POST /v1/images:annotate`.

        Args:
            request: its body is there as a whole.

        Returns:
            A `BatchAnnotateImagesResponse` of Google Vision.

        Raises:
            ApiError: as of `tag`.
        """
        with self.budget.hold() as add:
            client = await self._admit(request)
            body = await plain_body(request, self.config, add=add)
            max_images = min(vision.MAX_IMAGES, self.config.max_images)
            requests = await quickly(vision.parse, body, max_images=max_images)
            self.keys.count_images(request.headers, len(requests))
            self.work.places.check(len(requests), client=client)  # before anything is fetched

            async def run(contents: list[bytes | Problem], options: Options) -> list[bytes]:
                return (await self._run(contents, options, client=client))[1]

            async with self._deadline():
                answer = await vision.annotate(requests, fetch=partial(self._fetch, add=add), run=run)
        return Response(answer, media_type="application/json")

    async def _admit(self, request: Request) -> str:
        """Refuse a request for whose images there is no place, before its body is parsed; whose request it is."""
        client = self.keys.client_of(request.headers, request.client.host if request.client else "unknown")
        num_images = estimate_num_images(request, await request.body(), max_images=self.config.max_images)
        self.work.places.check(num_images, client=client)
        return client

    @asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self.config.timeout_s):
                yield
        except TimeoutError:
            message = f"not finished within {self.config.timeout_s:g} s"
            raise ApiError(504, "timeout", message, retry_after_s=2) from None

    async def _run(
        self, contents: list[bytes | Problem], options: Options, *, client: str
    ) -> tuple[ServedModel, list[bytes]]:
        model = await self.model(options.model)
        try:
            try:
                return model, await self.work.run(contents, model=model, options=options, client=client)
            except ReplicaLost:  # its model was replaced
                model = await self.models.refresh(model, timeout_s=self.config.timeout_s)
                return model, await self.work.run(contents, model=model, options=options, client=client)
        except ReplicaLost:
            raise ApiError(503, "not_ready", "the model is being restarted", retry_after_s=5) from None

    async def _fetch(self, uri: str, *, add: Callable[[int], None]) -> bytes | Problem:
        if not self.config.image_hosts:
            return Problem(code="forbidden", message="this server fetches no imageUri; send the content")
        if self._web is None:
            from ram_ray.serving.web_images import WebImages

            self._web = WebImages(self.config)
        return await self._web.fetch(uri, add=add)


class _Application(FastAPI):
    """Answers the requests that count without FastAPI's layers, which cost more than the rest of their way.

    `quick` has what answers a POST, by path; a guard must be around the application.
    """

    quick: Mapping[str, Callable[[Request], Awaitable[Response]]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        answer = self.quick.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if answer is None:
            await super().__call__(scope, receive, send)
            return
        scope["app"] = self  # or Starlette's errors in forms are of another kind
        request = Request(scope, receive)
        try:
            response = await answer(request)
        except Exception as error:
            response = error_response(request, error)
        await response(scope, receive, send)


def create_api(
    models: Models | Tagger, config: ServeConfig, *, metrics: Metrics | None = None, counts_requests: bool = True
) -> FastAPI:
    """Make the HTTP application.

    Args:
        models: the models that answer, or the tagger of a single one.
        config: section `serve`, with the limits.
        metrics: what is counted; None: nothing.
        counts_requests: False: a guard before this application counts and logs requests.

    Returns:
        A FastAPI application with the API and its two pages.
    """
    metrics = metrics or Metrics(enabled=False)
    api = Api(models if isinstance(models, Models) else Models(models), config, metrics)
    app = _Application(
        title="ram_ray",
        version=ram_ray.__version__,
        description="Tags, captions and regions for images. Every error is `{error: {code, message, request_id}}`.",
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(config.cors_origins),
        allow_methods=["GET", "POST"],
        allow_headers=[
            "Authorization",
            "Content-Encoding",
            "Content-Type",
            "X-API-Key",
            "X-Goog-Api-Key",
            "X-Request-ID",
        ],
        expose_headers=["Retry-After", "X-Request-ID"],
    )
    app.add_middleware(Guard, config=config, metrics=metrics if counts_requests else None)  # type: ignore[arg-type]
    app.state.api = api
    if not counts_requests and not config.cors_origins:
        app.quick = {"/v1/tag": api.tag, VISION_PATH: api.annotate}
    _add_error_handlers(app)
    add_pages(app, config)
    _add_state(app, api)

    @app.post(
        "/v1/tag", response_model=TagResponse, responses=ERRORS, openapi_extra=tag_body(max_images=config.max_images)
    )
    async def tag(request: Request) -> Response:
        """Tag images; an image that fails has an `error` of its own."""
        return await api.tag(request)

    @app.post("/v1/projects/{project}/locations/{location}/images:annotate", include_in_schema=False)
    @app.post("/v1/projects/{project}/images:annotate", include_in_schema=False)
    @app.post(VISION_PATH, openapi_extra=vision_operation(max_images=min(vision.MAX_IMAGES, config.max_images)))
    async def annotate(request: Request) -> Response:
        """Tag images in the shape of Google Cloud Vision: LABEL_DETECTION and OBJECT_LOCALIZATION."""
        return await api.annotate(request)

    @app.get("/v1/tags", response_model=ModelInfo, responses={404: ERRORS[404], 503: ERRORS[503]})
    async def tags(model: str | None = None) -> ModelInfo:
        """The labels of a model."""
        return (await api.model(model)).info

    @app.get("/v1/models", response_model=ModelList, responses={503: ERRORS[503] | {"model": ErrorResponse}})
    async def models_() -> ModelList:
        """The models of this server."""
        default = await api.model()
        return ModelList(models=[_entry(model, default=model is default) for model in api.models])

    return app


def _entry(model: ServedModel, *, default: bool) -> ModelEntry:
    info = model.info
    return ModelEntry(
        name=info.model,
        digest=info.digest,
        version=info.version,
        image_size=info.image_size,
        num_tags=len(info.tags),
        default=default,
    )


def _add_state(app: FastAPI, api: Api) -> None:
    """Paths that say how the server is."""

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The server is alive."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: ERRORS[503]})
    async def readyz() -> dict[str, str]:
        """A model is loaded and images can be sent."""
        return {"status": "ready", "model": (await api.model()).name}

    @app.get("/metrics", responses={503: ERRORS[503]}, response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Counters of all replicas, for Prometheus."""
        import ray

        if not ray.is_initialized():
            raise ApiError(503, "not_ready", "there is no Ray to count", retry_after_s=30)
        nodes = [node for node in await asyncio.to_thread(ray.nodes) if node["Alive"]]
        urls = [f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics" for node in nodes]
        lines = await asyncio.to_thread(exported_lines, urls)
        return PlainTextResponse("\n".join([*lines, ""]), media_type="text/plain; version=0.0.4")


def _add_error_handlers(app: FastAPI) -> None:
    for kind in (ApiError, HTTPException, Exception):

        @app.exception_handler(kind)
        async def handle(request: Request, error: Exception) -> Response:
            return error_response(request, error)
