"""Image files, valid and hostile, made in memory for the tests of serving."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
from PIL import Image


def image_file(seed: int = 0, *, size: tuple[int, int] = (80, 60), format: str = "JPEG") -> bytes:
    """An image file: smooth coloured waves, different for each seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : size[1], 0 : size[0]] / 20
    phases = rng.uniform(0, 6, 3)
    pixels = np.stack([np.sin(x * (1 + seed % 3) + y + phase) for phase in phases], -1)
    out = io.BytesIO()
    Image.fromarray(((pixels + 1) * 127).astype(np.uint8)).save(out, format)
    return out.getvalue()


def bomb(side: int = 30_000) -> bytes:
    """A valid grey PNG of side x side pixels in a few hundred kilobytes."""
    rows = zlib.compressobj(9)
    packed = b"".join(rows.compress(bytes(side + 1)) for _ in range(side)) + rows.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def base64_of(data: bytes) -> dict[str, str]:
    """The image as an entry of `images` in a JSON request."""
    return {"content": base64.b64encode(data).decode()}
