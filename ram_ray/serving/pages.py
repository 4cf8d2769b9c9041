"""The pages of a server: one to tag images in a browser, and one that describes the API.

They load nothing from elsewhere and may not be framed. Their files are read once, when the server starts.
"""

from __future__ import annotations

import logging
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.responses import Response

from ram_ray.serving import messages
from ram_ray.serving.limits import ApiError
from ram_ray.serving.messages import ServerLimits
from ram_ray.settings.serving import ServeConfig

logger = logging.getLogger(__name__)

MAX_EXAMPLES = 8
MAX_EXAMPLE_BYTES = 2_000_000
FORMATS = ("JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF", "HEIC", "AVIF")
_FOLDER = Path(__file__).parent / "page"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".json": "application/json"}
_IMAGE_TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
_ICON = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><path fill="#1f7a63" d="M1 1h7l7 7-7 7-7-7z"/></svg>'
)
_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
_POLICY = (
    "default-src 'none'; style-src 'self'{inline}; script-src 'self'{inline}; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_pages(app: FastAPI, config: ServeConfig) -> None:
    """Add the pages to an application.

    Args:
        app: the application.
        config: section `serve`, with the limits and the examples.
    """
    pages = {name: (_FOLDER / f"{name}.html").read_text(encoding="utf-8") for name in ("page", "docs")}
    examples = find_examples(config.examples)
    paths = [f"page/examples/{number}{path.suffix.lower()}" for number, path in enumerate(examples, 1)]
    files = {path.name: (path.read_bytes(), _TYPES[path.suffix]) for path in _FOLDER.iterdir() if path.suffix in _TYPES}
    for name, path in zip(paths, examples, strict=True):
        files[name.removeprefix("page/")] = (path.read_bytes(), _IMAGE_TYPES[path.suffix.lower()])
    limits = server_limits(config)

    def page(name: str, *, inline: str = "") -> HTMLResponse:
        headers = _HEADERS | {"Content-Security-Policy": _POLICY.format(inline=inline)}
        return HTMLResponse(pages[name], headers=headers)

    @app.get("/", include_in_schema=False)
    async def front() -> HTMLResponse:
        return page("page")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return page("docs", inline=" 'unsafe-inline'")

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(_ICON, media_type="image/svg+xml", headers={"Cache-Control": "max-age=86400"})

    @app.get("/page/examples.json", include_in_schema=False)
    async def list_examples() -> JSONResponse:
        return JSONResponse(paths, headers=_HEADERS)

    @app.get("/page/{name:path}", include_in_schema=False)
    async def file(name: str) -> Response:
        if name not in files:
            raise ApiError(404, "not_found", f"there is no /page/{name:.100}")
        content, kind = files[name]
        return Response(content, media_type=kind, headers=_HEADERS)

    @app.get("/v1/limits", response_model=ServerLimits)
    async def state_limits() -> ServerLimits:
        """What a request may have."""
        return limits


def server_limits(config: ServeConfig) -> ServerLimits:
    """What a request may have.

    Args:
        config: section `serve`.

    Returns:
        The answer of `GET /v1/limits`.
    """
    return ServerLimits(
        formats=list(FORMATS),
        max_images=config.max_images,
        max_request_bytes=config.max_request_bytes,
        max_image_bytes=config.max_image_bytes,
        max_pixels=config.max_pixels,
        max_top_k=messages.MAX_TOP_K,
        max_own_tags=messages.MAX_OWN_TAGS,
        max_tag_chars=messages.MAX_TAG_CHARS,
        timeout_s=config.timeout_s,
    )


def find_examples(folder: str) -> list[Path]:
    """Find the images that the page offers.

    Args:
        folder: of the settings; empty: drawn scenes.

    Returns:
        Paths of at most `MAX_EXAMPLES` images that are not too large, sorted; none if the folder cannot be read.
    """
    try:
        paths = sorted((Path(folder) if folder else _FOLDER / "examples").iterdir())
        images = [path for path in paths if path.suffix.lower() in _IMAGE_TYPES and path.is_file()]
        return [path for path in images if path.stat().st_size <= MAX_EXAMPLE_BYTES][:MAX_EXAMPLES]
    except OSError as error:
        logger.warning("serve.examples: %s cannot be read: %s", folder, error.strerror)
        return []
