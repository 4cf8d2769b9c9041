"""Decoding of untrusted images in threads, and what is answered in place of one that cannot be decoded."""

from __future__ import annotations

import logging

import numpy as np

from ram_ray.data.images import Limits
from ram_ray.data.preprocess import to_square
from ram_ray.records import Reject
from ram_ray.serving.encodings import kind_of
from ram_ray.serving.messages import ImageResult, Problem

logger = logging.getLogger(__name__)


def decode_all(contents: list[bytes], sizes: list[int], limits: Limits) -> list[np.ndarray | Reject]:
    """Bring images to the size of their models; called in a thread.

    Args:
        contents: bytes of each file.
        sizes: S of each image, pixels a side.
        limits: of files.

    Returns:
        uint8 (S, S, 3) of each image, or why it has none.
    """
    return [_decode_one(content, size, limits) for content, size in zip(contents, sizes, strict=True)]


def _decode_one(content: bytes, size: int, limits: Limits) -> np.ndarray | Reject:
    try:
        return to_square(content, size=size, limits=limits)
    except Reject as reject:
        return reject
    except Exception as error:  # such as no memory for this image
        logger.exception("an image of %d bytes cannot be decoded", len(content))
        return Reject("undecodable", type(error).__name__)


def reject_answer(reject: Reject, content: bytes) -> bytes:
    """Say what is wrong with an image.

    Args:
        reject: why it was not decoded.
        content: bytes of the file.

    Returns:
        An `ImageResult` as JSON.
    """
    message = reject.detail or reject.reason
    if reject.reason == "undecodable":
        kind = kind_of(content)
        what = f"this is {kind}, not an image that can be read" if kind else "this is not an image that can be read"
        message = f"{what}: send JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC or AVIF"
    elif reject.reason == "truncated":
        message = "the image ends before its last pixel"
    return problem_answer(Problem(code=reject.reason, message=message))


def problem_answer(problem: Problem) -> bytes:
    """Write the result of an image that has none.

    Args:
        problem: what went wrong.

    Returns:
        An `ImageResult` as JSON.
    """
    return ImageResult(error=problem).model_dump_json().encode()
