"""Sums over all workers of a training run.

Losses divide by what all workers have together, so that a step does not depend on how many there are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


def world_size() -> int:
    """Number of workers; 1 without a process group."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def total(values: Tensor) -> Tensor:
    """The sum of a tensor over all workers, without gradients.

    Args:
        values: of any shape, the same on every worker.

    Returns:
        The sum in the same shape; in one process the values themselves.
    """
    values = values.detach()
    if world_size() > 1:
        values = values.clone()
        distributed.all_reduce(values)
    return values


def differentiable_total(values: Tensor) -> Tensor:
    """The sum of a tensor over all workers; its gradient is the sum of all workers' gradients.

    Args:
        values: of any shape, the same on every worker.

    Returns:
        The sum in the same shape; in one process the values themselves.
    """
    return _Total.apply(values) if world_size() > 1 else values


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # type: ignore[override]
        values = values.clone()
        distributed.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        gradient = gradient.contiguous().clone()
        distributed.all_reduce(gradient)
        return gradient
