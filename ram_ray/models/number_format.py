"""The number format of a model's products: bf16 where the hardware has it, else fp32.

A processor without bf16 arithmetic computes it by other means, 4 to 16 times slower than fp32 (an AMD EPYC with AVX2
alone: the demo's training step 5 times, the convolutions of EfficientNet 16 times). Machines of one cluster may differ,
so each process asks its own.
"""

from __future__ import annotations

import functools
import logging
from typing import Literal, cast

import torch

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16"]
_HAS_BF16 = ("avx512_bf16", "amx_bf16")  # as torch names them; of Arm nothing was measured


def choose_precision(wanted: str, device: str | torch.device) -> Precision:
    """Choose the number format of a model.

    Args:
        wanted: "fp32", "bf16" or "auto": bf16 on a GPU, and on a processor that has bf16 arithmetic.
        device: of the model.

    Returns:
        "fp32" or "bf16".

    Raises:
        ValueError: if `wanted` is none of these.
    """
    if wanted not in ("auto", "fp32", "bf16"):
        raise ValueError(f"precision {wanted!r}: use 'auto', 'fp32' or 'bf16'")
    can = torch.device(device).type != "cpu" or has_bf16()
    if wanted == "auto":
        return "bf16" if can else "fp32"
    if wanted == "bf16" and not can:
        _warn_of_bf16()
    return cast(Precision, wanted)


def has_bf16() -> bool:
    """Whether this machine's processor has bf16 arithmetic."""
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in _HAS_BF16)


@functools.cache
def _warn_of_bf16() -> None:
    logger.warning("this processor has no bf16 arithmetic, so bf16 is slower than fp32 here; precision auto chooses")
