"""The HTTP API as a FastAPI application over any `Tagger`: it reads, checks and decodes requests; it runs no model.

A client may be hostile or careless, so the cost of a request is bounded: the bytes of a body are counted as they
arrive, the number of requests in memory is limited, an image's header is checked before its pixels are decoded, and
decoding runs in a few threads, so that the event loop stays free. An image that fails does not fail its request.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import Response

import ram_ray
from ram_ray.records import Reject
from ram_ray.serving import messages
from ram_ray.serving.limits import AdmittedRequest, ApiError, RequestLimiter, check_length, limit_body
from ram_ray.serving.messages import ErrorResponse, ImageResult, ModelInfo, Options, Problem, TagRequest, TagResponse
from ram_ray.serving.tagger import Tagger
from ram_ray.settings.serving import ServeConfig

logger = logging.getLogger(__name__)

DECODE_THREADS = 4
MAX_FULL_BODIES = 8  # bodies of the largest size that may be in memory at a time
MAX_FIELD_BYTES = 64 * 1024
_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}
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
        408: "The body came too slowly",
        413: "Too many bytes or images",
        415: "Neither multipart/form-data nor application/json",
        422: "A field is unknown or wrong; the message names it",
        429: "Too many requests are waiting; see Retry-After",
        503: "No model is ready, or it is too busy; see Retry-After",
        504: "Not finished within the server's time limit",
    }.items()
}


class Api:
    """The state of one server: its tagger, its limits and its decoding threads."""

    def __init__(self, tagger: Tagger, config: ServeConfig) -> None:
        self.tagger, self.config = tagger, config
        self.limiter = RequestLimiter(config.max_queued, max_bytes=MAX_FULL_BODIES * config.max_request_bytes)
        self.threads = ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="decode")
        self._info: ModelInfo | None = None

    async def info(self) -> ModelInfo:
        """The model and its labels, cached after the first call.

        Returns:
            The answer of `GET /v1/tags`.

        Raises:
            ApiError: 503, if the model is not loaded within `timeout_s`.
        """
        if self._info is None:
            try:
                async with asyncio.timeout(self.config.timeout_s):
                    self._info = await self.tagger.info()
            except TimeoutError:
                raise ApiError(503, "not_ready", "the model is not loaded yet", retry_after_s=5) from None
        return self._info

    async def tag(self, request: Request) -> TagResponse:
        """Answer `POST /v1/tag`.

        Args:
            request: with its body unread.

        Returns:
            The tags of each image, in order.

        Raises:
            ApiError: a mistake in the request or its images, 408 or 504 where it takes too long, 503 without a model.
        """
        async with self.limiter.admit() as admitted:
            try:
                async with asyncio.timeout(self.config.timeout_s):
                    contents, options = await self._read(request, admitted)
            except TimeoutError:
                raise ApiError(408, "timeout", f"the body took over {self.config.timeout_s:g} s to arrive") from None
            try:
                async with asyncio.timeout(self.config.timeout_s):
                    info = await self.info()
                    answers = (self._tag_image(content, options, info) for content in contents)
                    results = await asyncio.gather(*answers)
            except TimeoutError:
                message = f"not finished within {self.config.timeout_s:g} s"
                raise ApiError(504, "timeout", message, retry_after_s=2) from None
            return TagResponse(model=info.model, images=results)

    async def _read(self, request: Request, admitted: AdmittedRequest) -> tuple[list[bytes | str], Options]:
        """Read the images, as bytes (multipart) or base64 text (JSON), and the options."""
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        max_bytes = self.config.max_request_bytes
        check_length(request.headers.get("content-length"), max_bytes=max_bytes)
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise ApiError(415, "unsupported_media_type", "send the body without Content-Encoding")
        request = Request(request.scope, limit_body(request.receive, max_bytes=max_bytes, admitted=admitted))
        if content_type == "application/json":
            body = await request.body()
            try:
                message: TagRequest = await asyncio.to_thread(messages.request_from_json, body)
            except ValueError as error:
                invalid_json = str(error).startswith("Invalid JSON")
                status, code = (400, "bad_request") if invalid_json else (422, "invalid_field")
                raise ApiError(status, code, str(error)) from None
            self._check_count(len(message.images))
            return [image.content for image in message.images], message.options()
        if content_type == "multipart/form-data":
            return await self._read_form(request)
        raise ApiError(415, "unsupported_media_type", "send multipart/form-data or application/json")

    async def _read_form(self, request: Request) -> tuple[list[bytes | str], Options]:
        contents: list[bytes | str] = []
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

    async def _tag_image(self, content: bytes | str, options: Options, info: ModelInfo) -> ImageResult:
        loop = asyncio.get_running_loop()
        try:
            array = await loop.run_in_executor(self.threads, decode_image, content, self.config, info.image_size)
        except Reject as reject:
            return ImageResult(error=Problem(code=reject.reason, message=self._describe_reject(reject)))
        return await self.tagger.tag(array, options)

    def _describe_reject(self, reject: Reject) -> str:
        return {
            "undecodable": "this is not an image that can be read: send JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC or AVIF",
            "truncated": "the image ends before its last pixel",
        }.get(reject.reason, reject.detail or reject.reason)


def decode_image(content: bytes | str, config: ServeConfig, size: int) -> np.ndarray:
    """Decode one untrusted image within the limits of bytes and pixels.

    It is resized to the model's size here, so that less data is sent to the tagger.

    Args:
        content: the file's bytes, or base64 text of them.
        config: section `serve`, with the limits.
        size: S, pixels a side.

    Returns:
        (S, S, 3) uint8, RGB.

    Raises:
        Reject: if it is not an image, or too large.
    """
    from ram_ray.data.images import Limits
    from ram_ray.data.preprocess import to_square

    if isinstance(content, str):
        try:
            content = base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError):
            raise Reject("undecodable", "content is not base64") from None
    limits = Limits(min_side=1, max_pixels=config.max_pixels, max_bytes=config.max_image_bytes)
    return to_square(content, size=size, limits=limits)


def create_api(tagger: Tagger, config: ServeConfig) -> FastAPI:
    """Make the HTTP application.

    Args:
        tagger: answers for the images.
        config: section `serve`, with the limits.

    Returns:
        A FastAPI application with the API and its two pages.
    """
    api = Api(tagger, config)
    app = FastAPI(
        title="ram_ray",
        version=ram_ray.__version__,
        description="Tags, captions and regions for images. Every error is `{error: {code, message}}`.",
        docs_url=None,
        redoc_url=None,
    )
    _add_error_handlers(app)
    _add_pages(app)

    @app.post("/v1/tag", response_model=TagResponse, responses=_ERRORS, openapi_extra=_request_body())
    async def tag(request: Request) -> TagResponse:
        """Tag images; an image that fails has an `error` of its own."""
        return await api.tag(request)

    @app.get("/v1/tags", response_model=ModelInfo, responses={503: _ERRORS[503]})
    async def tags() -> ModelInfo:
        """The labels of the loaded model."""
        return await api.info()

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The server is alive."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: _ERRORS[503]})
    async def readyz() -> dict[str, str]:
        """A model is loaded and images can be sent."""
        return {"status": "ready", "model": (await api.info()).model}

    return app


def _add_error_handlers(app: FastAPI) -> None:
    def error_response(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": {"code": code, "message": message}}, status, headers)

    @app.exception_handler(ApiError)
    async def handle_api_error(request: Request, error: ApiError) -> Response:
        return error_response(error.status, error.code, error.message, error.headers)

    @app.exception_handler(HTTPException)
    async def handle_http_error(request: Request, error: HTTPException) -> Response:
        if str(error.detail).startswith("Too many files"):
            return error_response(413, "too_many_images", str(error.detail), error.headers)
        return error_response(
            error.status_code, _CODES.get(error.status_code, "error"), str(error.detail), error.headers
        )

    @app.exception_handler(Exception)
    async def handle_exception(request: Request, error: Exception) -> Response:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return error_response(500, "internal", "the server failed; its log says why")


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
