"""Backward passes of the recognition decoder that skip the (image, label) pairs without a gradient.

The asymmetric loss gives a negative whose probability is below `clip` the gradient zero, exactly, and one a little
above it a gradient of less than a billionth of a positive's; a trained model says so of nearly all labels. There is no
self-attention between labels, so all that such a pair went through needs no matrix products in the backward pass. By
default a millionth of an image's gradients is left out, which is below the rounding of float32. It is counted for each
image by itself, so that the result does not depend on how images are spread over workers. Dropout is drawn as always.

Letters: B batch, N labels, D width, R active rows of all B x N, I inputs and O outputs of a layer.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

EXACT = 1e-6  # share of the sum of the absolute gradients of an image's logits
MAX_SHARE = 0.7  # an image with a larger share of active rows is computed whole: picking them costs more than it saves


class ActiveRows:
    """The rows of a forward pass whose logits have a gradient; known as soon as its backward pass begins.

    Args:
        left_out: share of the sum of the absolute gradients of an image's logits that is left out, the smallest ones.
    """

    def __init__(self, left_out: float) -> None:
        self._left_out = left_out
        self._index: Tensor | None = None
        self._num_rows = 0

    def watch(self, logits: Tensor) -> None:
        """Let the backward pass say which rows are active.

        Args:
            logits: (B, N), with a gradient.
        """
        logits.register_hook(self._set)

    def _set(self, grad: Tensor) -> None:
        self._num_rows = grad.numel()
        sizes, order = grad.abs().float().sort(dim=1)
        sums = sizes.cumsum(dim=1)
        active = ~(sums <= self._left_out * sums[:, -1:])  # with a NaN nothing is left out
        active |= active.float().mean(dim=1, keepdim=True) > MAX_SHARE
        self._index = torch.zeros_like(active).scatter_(1, order, active).flatten().nonzero().squeeze(1)

    def index(self, num_rows: int) -> Tensor | None:
        """Find the active rows of a layer.

        Args:
            num_rows: rows of the layer.

        Returns:
            (R,) int64; None if it has other rows than the logits, or all are active: all rows are computed.
        """
        if self._index is None or num_rows != self._num_rows or len(self._index) == num_rows:
            return None
        return self._index


class RowLinear(nn.Linear):
    """A linear layer whose backward pass can leave out rows without a gradient."""

    def forward(self, x: Tensor, rows: ActiveRows | None = None) -> Tensor:
        """Apply the layer.

        Args:
            x: (..., I).
            rows: of this forward pass; None: all rows are computed in the backward pass.

        Returns:
            (..., O).
        """
        if rows is None or not torch.is_grad_enabled():
            return F.linear(x, self.weight, self.bias)
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))  # so that the backward pass keeps the smaller type
        return _RowLinear.apply(x, self.weight, self.bias, rows)


class _RowLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, rows: ActiveRows) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.rows = rows
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        inputs, grads = x.flatten(0, -2), grad.flatten(0, -2)
        index = ctx.rows.index(len(grads))
        if index is not None:
            inputs, grads = inputs[index], grads[index]
        grad_x = grads @ weight.to(grad.dtype)  # under autocast weights have another type
        if index is not None:
            grad_x = torch.zeros_like(x, dtype=grad.dtype).flatten(0, -2).index_copy_(0, index, grad_x)
        grad_weight, grad_bias = grads.T @ inputs.to(grad.dtype), grads.sum(0)
        return grad_x.view(x.shape).to(x.dtype), grad_weight.to(weight.dtype), grad_bias.to(weight.dtype), None
