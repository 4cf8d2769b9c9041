"""Batch norms of a frozen model as a part of its convolutions."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fuse_batch_norms(module: Any) -> Any:
    """Fold batch norms in eval mode into the convolutions before them; the results differ only by rounding.

    Folded is a batch norm with an activation (timm's `BatchNormAct2d`) or without, if the layer registered just before
    it is a convolution to as many channels. A model may register its layers in another order than it runs them.

    Args:
        module: changed in place, and its weights laid out for channels last.

    Returns:
        The module.
    """
    before: str = ""  # name of the child before, and the child
    convolution: Any = None
    for name, child in list(module.named_children()):
        is_norm = isinstance(child, nn.BatchNorm2d) and isinstance(convolution, nn.Conv2d)
        if is_norm and convolution.out_channels == child.num_features:
            setattr(module, before, fuse_conv_bn_eval(convolution, child))
            setattr(module, name, getattr(child, "act", nn.Identity()))
            convolution = None
            continue
        fuse_batch_norms(child)
        before, convolution = name, child
    return module.to(memory_format=torch.channels_last)
