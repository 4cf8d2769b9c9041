"""What a request to tag images has in its body: JSON, a form, or an image itself; plain or gzip.

Clients differ, so several spellings of one thing are read alike: base64 of every kind and data: URLs (`encodings`),
`image`, `images[]` and `file` for `images`. Options of forms and of plain images may also be in the URL.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.types import Message

from ram_ray.serving import messages
from ram_ray.serving.encodings import gunzip, image_from_text
from ram_ray.serving.limits import ApiError
from ram_ray.serving.messages import Options, Problem
from ram_ray.settings.serving import ServeConfig

QUICK_BYTES = 200_000  # a body that is parsed on the event loop; a larger one in a thread
MAX_FIELD_CHARS = 64 * 1024
MIN_BASE64_CHARS = 64  # shorter text in place of a file is a mistake, such as its name
_IMAGE_FIELD = re.compile(r"(images?|files?)(\[\d{0,3}\])?")
_HOW = "send multipart/form-data, application/json or image/jpeg (image/png, ...)"

T = TypeVar("T")


async def read_request(
    request: Request, config: ServeConfig, *, add: Callable[[int], None]
) -> tuple[list[bytes | Problem], Options]:
    """Read the images and the options of `POST /v1/tag`.

    Args:
        request: its body is there as a whole.
        config: section `serve`, with the limits.
        add: counts bytes, as `ByteBudget.hold` gives it.

    Returns:
        Bytes of each image, or what is wrong with it, and the options.

    Raises:
        ApiError: naming what is wrong with the request.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    in_url = [(name, value) for name, value in request.query_params.multi_items() if name != "key"]
    try:
        if kind == "application/json":
            body = await plain_body(request, config, add=add)
            if in_url:
                raise ValueError(f"{in_url[0][0][:100]}: with JSON, options are in the body, not in the URL")
            contents, options = await quickly(_read_json, body, max_images=config.max_images)
        elif kind == "multipart/form-data":
            contents, fields = await _read_form(request, config, add=add)
            options = messages.options_from_form([*fields, *in_url])
        elif kind.startswith("image/") or kind == "application/octet-stream":
            contents = [await plain_body(request, config, add=add)]
            options = messages.options_from_form(in_url)
        else:
            what = f"Content-Type is {kind[:100]!r}" if kind else "there is no Content-Type"
            raise ApiError(415, "unsupported_media_type", f"{what}; {_HOW}")
    except ValueError as error:
        raise ApiError(422, "invalid_field", str(error)) from None
    _check_count(len(contents), config.max_images)
    return contents, options


def estimate_num_images(request: Request, body: bytes, *, max_images: int) -> int:
    """Estimate how many images a body has, before it is parsed: what is refused for lack of room is not worth that.

    Args:
        request: to tag or to annotate images.
        body: of the request.
        max_images: most images of a request.

    Returns:
        Number of images, 1 where it is not plain to see, as in gzip. Bytes of an image may look like another image.
    """
    kind = request.headers.get("content-type", "")
    mark = b"filename=" if kind.startswith("multipart/") else b'"content"'
    return min(max(1, body.count(mark)), max_images)


async def plain_body(request: Request, config: ServeConfig, *, add: Callable[[int], None]) -> bytes:
    """Read a body and decompress it.

    Args:
        request: its body is there as a whole.
        config: section `serve`, with the limits.
        add: counts the bytes of what is decompressed, as `ByteBudget.hold` gives it.

    Returns:
        The body.

    Raises:
        ApiError: 415 for another encoding than gzip, or of `gunzip`.
    """
    body = await request.body()
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("identity", ""):
        return body
    if encoding in ("gzip", "x-gzip"):
        return await gunzip(body, max_bytes=config.max_request_bytes, add=add)
    message = f"Content-Encoding is {encoding[:100]!r}; send gzip or none"
    raise ApiError(415, "unsupported_media_type", message)


async def quickly(read: Callable[..., T], body: bytes, **options: Any) -> T:
    """Read a body on the event loop if it is small, in a thread if it is large.

    Args:
        read: takes the body.
        body: of the request.
        **options: of `read`.

    Returns:
        What `read` returns.
    """
    if len(body) <= QUICK_BYTES:
        return read(body, **options)
    return await asyncio.to_thread(read, body, **options)


def _check_count(num_images: int, max_images: int) -> None:
    if num_images == 0:
        raise ApiError(422, "invalid_field", "images: send at least one image")
    if num_images > max_images:
        raise ApiError(413, "too_many_images", f"a request may have at most {max_images} images")


def _read_json(body: bytes, *, max_images: int) -> tuple[list[bytes | Problem], Options]:
    plain = messages.images_from_json(body)
    if plain is not None:
        return [*plain[0]], plain[1]
    try:
        message = messages.request_from_json(body)
    except ValueError as error:
        if not str(error).startswith("Invalid JSON"):
            raise
        raise ApiError(400, "bad_request", str(error)) from None
    _check_count(len(message.images), max_images)
    return [image_from_text(image.content) for image in message.images], message.options()


async def _read_form(
    request: Request, config: ServeConfig, *, add: Callable[[int], None]
) -> tuple[list[bytes | Problem], list[tuple[str, str]]]:
    body = await plain_body(request, config, add=add)
    sent: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return sent.pop()

    contents: list[bytes | Problem] = []
    fields: list[tuple[str, str]] = []
    num_fields = messages.MAX_OWN_TAGS + 10 + config.max_images
    form = Request(request.scope, receive).form(
        max_files=config.max_images, max_fields=num_fields, max_part_size=config.max_request_bytes
    )
    async with form as parts:
        for name, value in parts.multi_items():
            is_image = _IMAGE_FIELD.fullmatch(name) is not None
            if isinstance(value, UploadFile):
                if not is_image:
                    raise ValueError(f"{name[:100]}: send the files in the field 'images'")
                contents.append(await value.read())
            elif is_image:
                contents.append(_image_of_field(name, value))
            elif len(value) > MAX_FIELD_CHARS:
                raise ValueError(f"{name[:100]}: a field may have at most {MAX_FIELD_CHARS:,} characters")
            else:
                fields.append((name, value))
    return contents, fields


def _image_of_field(name: str, text: str) -> bytes | Problem:
    """The image of a form field that is no file."""
    if not text.startswith("data:") and len(text) < MIN_BASE64_CHARS:
        raise ValueError(f"{name}: send files, each with a filename (curl: -F {name}=@FILE), or base64")
    return image_from_text(text)
