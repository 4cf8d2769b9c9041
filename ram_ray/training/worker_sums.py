"""Sums over all workers of a training run.

Losses are divided by sums over all workers, so a step does not depend on the number of workers.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed
from torch.autograd.function import FunctionCtx


def world_size() -> int:
    """Number of workers; 1 without a process group."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def is_first_worker() -> bool:
    """Whether this process is the worker of a training run that reports for all; False outside of a run."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_rank() == 0


def sum_over_workers(values: Tensor) -> Tensor:
    """Sum a tensor over all workers, without gradients.

    Args:
        values: tensor of any shape; the shape is the same on every worker.

    Returns:
        The sum in the same shape; without a process group, the values themselves.
    """
    values = values.detach()
    if world_size() > 1:
        values = values.clone()
        distributed.all_reduce(values)
    return values


def differentiable_sum_over_workers(values: Tensor) -> Tensor:
    """Sum a tensor over all workers; the gradient is the sum of all workers' gradients.

    Args:
        values: tensor of any shape; the shape is the same on every worker.

    Returns:
        The sum in the same shape; without a process group, the values themselves.
    """
    return _SumOverWorkers.apply(values) if world_size() > 1 else values


class _SumOverWorkers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor) -> Tensor:  # type: ignore[override]
        values = values.clone()
        distributed.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:  # type: ignore[override]
        gradient = gradient.contiguous().clone()
        distributed.all_reduce(gradient)
        return gradient
