"""Captions as a column of numbers, because a batch on its way to a worker's device has only tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

MAX_BYTES = 320  # of a text; CLIP reads 77 tokens


def write_texts(texts: Sequence[str]) -> np.ndarray:
    """Write texts as bytes of equal length.

    Args:
        texts: B texts; longer ones are cut.

    Returns:
        uint8 (B, MAX_BYTES), UTF-8 with zeros at the end.
    """
    column = np.zeros((len(texts), MAX_BYTES), dtype=np.uint8)
    for row, text in zip(column, texts, strict=True):
        data = text.replace("\0", " ").encode()[:MAX_BYTES]
        row[: len(data)] = np.frombuffer(data, dtype=np.uint8)
    return column


def read_texts(column: Tensor) -> list[str]:
    """Read the texts of `write_texts`.

    Args:
        column: uint8 (B, MAX_BYTES), on any device.

    Returns:
        B texts.
    """
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in column.cpu().numpy()]
