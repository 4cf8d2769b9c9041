"""Models whose weights are assigned afterwards, built without drawing initial ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

# What initial weights are made with, of torch and of timm, where no gradients are recorded.
_IN_PLACE = {getattr(torch.Tensor, name) for name in ("normal_", "uniform_", "erfinv_", "mul_", "add_", "clamp_")}


class NoInitialWeights(TorchFunctionMode):
    """A context in which new weights stay as they are: memory that was not touched, and so takes none.

    Buffers are computed as always.

    The meta device does the same at a price: to compute buffers on it, torch imports its compiler and sympy, for three
    seconds of CPU in each process that loads a model, and then they have no values.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init" or func in _IN_PLACE:
            target = args[0] if args else kwargs["tensor"]
            if isinstance(target, nn.Parameter) and (func not in _IN_PLACE or not torch.is_grad_enabled()):
                return target
        return func(*args, **kwargs)
