"""Bytes of an image from what clients send: base64 of every kind, data: URLs, gzip; and what bytes are if no image."""

from __future__ import annotations

import asyncio
import base64
import re
import zlib
from collections.abc import Callable

from ram_ray.serving.limits import ApiError
from ram_ray.serving.messages import Problem

GZIP_CHUNK = 1 << 20
MAX_MEMBERS = 100
_DATA_URL = re.compile(r"data:([^,]{0,200}),", re.IGNORECASE)
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_SPACE = b" \t\r\n"
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/_=\-\s]")
_VIDEO_BRANDS = (b"isom", b"iso2", b"mp41", b"mp42", b"avc1", b"M4V ", b"qt  ", b"3gp4", b"3gp5")
_KINDS = (
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP file"),
    (b"\x1f\x8b", "gzip data"),
    (b"data:", "a data: URL; send it as text in JSON"),
    (b"/9j/", "base64; send it as text in JSON, or the bytes themselves"),
    (b"iVBOR", "base64; send it as text in JSON, or the bytes themselves"),
    (b"http://", "a URL"),
    (b"https://", "a URL"),
    (b"\x1aE\xdf\xa3", "a video"),
    (b"<", "HTML, SVG or other XML"),
    (b"{", "JSON"),
)


def image_from_text(text: str) -> bytes | Problem:
    """Decode an image that was sent as text.

    Args:
        text: base64, of the standard or the URL-safe alphabet, wrapped or not, with or without padding; or a data: URL
            that has it.

    Returns:
        The bytes; a problem that says what is wrong with the text.
    """
    start = 0
    if text[:5].lower() == "data:":
        head = _DATA_URL.match(text)
        if head is None or not head[1].lower().endswith(";base64"):
            return _problem("a data: URL must begin with data:image/...;base64,")
        start = head.end()
    elif text[:8].lower().startswith(("http://", "https://")):
        return _problem("this is a URL: send the image itself, as base64")
    try:
        data = text[start:].encode("ascii").translate(_TO_STANDARD, _SPACE).rstrip(b"=")
        if not data:
            return _problem("no bytes were sent")
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except ValueError:  # of the encoding or the decoding
        wrong = _NOT_BASE64.search(text, start)
        if wrong is not None:
            return _problem(f"this is not base64: character {wrong.start() + 1} is not of its alphabet")
        if "=" in text[start:].rstrip("=\r\n\t "):
            return _problem("this is not base64: '=' stands before its end")
        return _problem("this base64 ends early: a part of it is missing")


async def gunzip(body: bytes, *, max_bytes: int, add: Callable[[int], None]) -> bytes:
    """Decompress a body, in a thread, piece by piece.

    Args:
        body: one or more members of gzip.
        max_bytes: most bytes of the result; decompression ends at the first byte over it.
        add: counts the bytes of the result, as `ByteBudget.hold` gives it.

    Returns:
        The decompressed bytes.

    Raises:
        ApiError: 413 over `max_bytes`, 400 if it is not whole gzip data, 503 of `add`.
    """
    chunks: list[bytes] = []
    num_bytes = num_members = 0
    while body:
        member = zlib.decompressobj(wbits=31)
        num_members += 1
        while not member.eof:
            size = min(GZIP_CHUNK, max_bytes - num_bytes + 1)
            try:
                chunk = await asyncio.to_thread(member.decompress, body, size)
            except zlib.error:
                raise ApiError(400, "bad_request", "the body is not gzip data, as Content-Encoding says") from None
            body = member.unconsumed_tail
            num_bytes += len(chunk)
            if num_bytes > max_bytes:
                raise ApiError(413, "too_large", f"a request may have at most {max_bytes:,} bytes, decompressed")
            if not (chunk or body or member.eof):
                raise ApiError(400, "bad_request", "the gzip data of the body end early")
            add(len(chunk))
            chunks.append(chunk)
        body = member.unused_data
        if body and num_members == MAX_MEMBERS:  # each costs a copy of the rest
            raise ApiError(400, "bad_request", f"the body has over {MAX_MEMBERS} members of gzip")
    return b"".join(chunks)


def kind_of(data: bytes) -> str:
    """Say what bytes are that are no image.

    Args:
        data: of a file.

    Returns:
        Such as "a PDF"; empty if it is not known.
    """
    if not data:
        return "no bytes"
    if data[4:8] == b"ftyp" and data[8:12] in _VIDEO_BRANDS:
        return "a video"
    head = data[:64].lstrip(b"\xef\xbb\xbf" + _SPACE)
    return next((kind for magic, kind in _KINDS if head.startswith(magic)), "")


def _problem(message: str) -> Problem:
    return Problem(code="undecodable", message=message)
