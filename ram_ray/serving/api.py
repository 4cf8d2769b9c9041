"""The HTTP API as a FastAPI application over loaded models: it reads and checks requests; it runs no model.

A client may be hostile or careless, so the cost of a request is bounded: the guard around the application reads bodies
with limits on bytes and rate, waiting images have a bounded number of places, an image's header is checked before its
pixels are decoded, and decoding runs in a few threads (`work`), so that the event loop stays free. An image that fails
does not fail its request.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

import ram_ray
from ram_ray.serving import messages
from ram_ray.serving.guard import CODES, Guard
from ram_ray.serving.keys import Keys
from ram_ray.serving.limits import ApiError
from ram_ray.serving.messages import ErrorResponse, ModelEntry, ModelInfo, ModelList, Options, TagRequest, TagResponse
from ram_ray.serving.metrics import Metrics, exported_lines
from ram_ray.serving.models import Models, ServedModel
from ram_ray.serving.tagger import ReplicaLost, Tagger
from ram_ray.serving.work import Work
from ram_ray.settings.serving import ServeConfig

logger = logging.getLogger(__name__)

MAX_FIELD_BYTES = 64 * 1024
QUICK_BYTES = 200_000  # a body that is parsed on the event loop; a larger one in a thread
ICON = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><path fill="#1f7a63" d="M1 1h7l7 7-7 7-7-7z"/></svg>'
)
# The pages load nothing from elsewhere and may not be framed.
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": meaning}
    for status, meaning in {
        400: "The body cannot be read",
        401: "No API key, or one that is unknown",
        404: "There is no model of this name",
        408: "The body came too slowly",
        413: "Too many bytes or images",
        415: "Neither multipart/form-data nor application/json",
        422: "A field is unknown or wrong; the message names it",
        429: "Too many images are waiting, or the key's images of this minute are used up; see Retry-After",
        503: "No model is ready, or it is too busy; see Retry-After",
        504: "Not finished within the server's time limit",
    }.items()
}


class Api:
    """The state of one server: its models and the work on images."""

    def __init__(self, models: Models, config: ServeConfig, metrics: Metrics) -> None:
        self.models, self.config = models, config
        self.work = Work(config, metrics)
        self.keys = Keys(config)

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
        contents, options = await self._read(request)
        client = request.client.host if request.client else "unknown"
        client = self.keys.client_of(request.headers, client)
        self.keys.count_images(request.headers, len(contents))
        try:
            async with asyncio.timeout(self.config.timeout_s):
                model = await self.model(options.model)
                try:
                    answers = await self.work.run(contents, model=model, options=options, client=client)
                except ReplicaLost:  # its model was replaced
                    model = await self.models.refresh(model, timeout_s=self.config.timeout_s)
                    answers = await self.work.run(contents, model=model, options=options, client=client)
        except TimeoutError:
            message = f"not finished within {self.config.timeout_s:g} s"
            raise ApiError(504, "timeout", message, retry_after_s=2) from None
        except ReplicaLost:
            raise ApiError(503, "not_ready", "the model is being restarted", retry_after_s=5) from None
        head = json.dumps({"model": model.name, "digest": model.info.digest})[:-1].encode()
        body = b"".join([head, b', "images": [', b",".join(answers), b"]}"])
        return Response(body, media_type="application/json")

    async def _read(self, request: Request) -> tuple[list[bytes], Options]:
        """Read the images and the options."""
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise ApiError(415, "unsupported_media_type", "send the body without Content-Encoding")
        if content_type == "application/json":
            body = await request.body()
            try:
                message = await _parse(body)
            except ValueError as error:
                invalid_json = str(error).startswith("Invalid JSON")
                status, code = (400, "bad_request") if invalid_json else (422, "invalid_field")
                raise ApiError(status, code, str(error)) from None
            self._check_count(len(message.images))
            contents = [_from_base64(image.content) for image in message.images]
            return contents, message.options()
        if content_type == "multipart/form-data":
            return await self._read_form(request)
        raise ApiError(415, "unsupported_media_type", "send multipart/form-data or application/json")

    async def _read_form(self, request: Request) -> tuple[list[bytes], Options]:
        contents: list[bytes] = []
        fields: list[tuple[str, str]] = []
        limits = {"max_files": self.config.max_images, "max_fields": messages.MAX_OWN_TAGS + 10}
        async with request.form(**limits, max_part_size=MAX_FIELD_BYTES) as form:
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    if name != "images":
                        raise ApiError(422, "invalid_field", f"{name[:100]}: send the files in the field 'images'")
                    contents.append(await value.read())
                elif name == "images":
                    raise ApiError(422, "invalid_field", "images: send files, each with a filename")
                else:
                    fields.append((name, value))
        self._check_count(len(contents))
        try:
            return contents, messages.options_from_form(fields)
        except ValueError as error:
            raise ApiError(422, "invalid_field", str(error)) from None

    def _check_count(self, num_images: int) -> None:
        if num_images == 0:
            raise ApiError(422, "invalid_field", "images: send at least one image")
        if num_images > self.config.max_images:
            raise ApiError(413, "too_many_images", f"a request may have at most {self.config.max_images} images")


async def _parse(body: bytes) -> TagRequest:
    if len(body) <= QUICK_BYTES:
        return messages.request_from_json(body)
    return await asyncio.to_thread(messages.request_from_json, body)


def _from_base64(content: str) -> bytes:
    """The bytes of an image; an empty one, which is refused as an image, if it is not base64."""
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        return b""


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
    app = FastAPI(
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
        allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-ID"],
        expose_headers=["Retry-After", "X-Request-ID"],
    )
    app.add_middleware(Guard, config=config, metrics=metrics if counts_requests else None)  # type: ignore[arg-type]
    app.state.api = api
    _add_error_handlers(app)
    _add_pages(app)
    _add_state(app, api)

    @app.post("/v1/tag", response_model=TagResponse, responses=_ERRORS, openapi_extra=_request_body())
    async def tag(request: Request) -> Response:
        """Tag images; an image that fails has an `error` of its own."""
        return await api.tag(request)

    @app.get("/v1/tags", response_model=ModelInfo, responses={404: _ERRORS[404], 503: _ERRORS[503]})
    async def tags(model: str | None = None) -> ModelInfo:
        """The labels of a model."""
        return (await api.model(model)).info

    @app.get("/v1/models", response_model=ModelList, responses={503: _ERRORS[503]})
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

    @app.get("/readyz", responses={503: _ERRORS[503]})
    async def readyz() -> dict[str, str]:
        """A model is loaded and images can be sent."""
        return {"status": "ready", "model": (await api.model()).name}

    @app.get("/metrics", responses={503: _ERRORS[503]}, response_class=PlainTextResponse)
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


def error_response(request: Request, error: Exception) -> Response:
    """The answer of a request that failed.

    Args:
        request: that failed.
        error: any; what is not the client's mistake is logged.

    Returns:
        The error as JSON.
    """
    request_id = request.headers.get("x-request-id")
    headers: Mapping[str, str] | None = None
    if isinstance(error, ApiError):
        status, code, message, headers = error.status, error.code, error.message, error.headers
    elif isinstance(error, HTTPException):
        status, message, headers = error.status_code, str(error.detail), error.headers
        code = CODES.get(status, "error")
        if message.startswith("Too many files"):
            status, code = 413, "too_many_images"
    else:
        logger.error("%s %s failed (request %s)", request.method, request.url.path, request_id, exc_info=error)
        status, code, message = 500, "internal", "the server failed; its log says why"
    return JSONResponse({"error": {"code": code, "message": message, "request_id": request_id}}, status, headers)


def _add_pages(app: FastAPI) -> None:
    folder = Path(__file__).parent

    def page(name: str) -> HTMLResponse:
        return HTMLResponse((folder / name).read_text(encoding="utf-8"), headers=_PAGE_HEADERS)

    @app.get("/", include_in_schema=False)
    async def front() -> HTMLResponse:
        return page("page.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return page("docs.html")

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(ICON, media_type="image/svg+xml", headers={"Cache-Control": "max-age=86400"})


def _request_body() -> dict[str, Any]:
    """The two forms of a request with images, for openapi.json: FastAPI does not read the body, `Api` does."""
    json_schema = TagRequest.model_json_schema()
    defs = json_schema.pop("$defs", {})
    json_schema["properties"]["images"]["items"] = defs["ImageContent"]
    form = Options.model_json_schema()
    form["properties"]["images"] = {"type": "array", "items": {"type": "string", "format": "binary"}}
    form["required"] = ["images"]
    content = {"multipart/form-data": {"schema": form}, "application/json": {"schema": json_schema}}
    return {"requestBody": {"required": True, "content": content}}
