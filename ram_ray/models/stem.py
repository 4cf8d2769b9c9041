"""A start of the Swin that learns sooner from few pictures: convolutions in place of one cut into patches.

A patch embedding sees each patch once and alone, and takes many pictures to find edges and textures; a few strided
convolutions find them at once (Xiao et al., "Early Convolutions Help Transformers See Better", arXiv 2106.14881). The
released models have patches, so this is an option (`model.swin.stem`). Imports timm: kept apart, for those who do not.
"""

from __future__ import annotations

from typing import Any

from timm.layers import PatchEmbed
from torch import nn


class ConvolutionStem(PatchEmbed):
    """Pixels (B, 3, S, S) to tokens (B, S / P, S / P, C), P a power of two: 3 x 3 convolutions that halve, up to C."""

    def __init__(self, *, patch_size: int, in_chans: int, embed_dim: int, **options: Any) -> None:
        super().__init__(patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim, **options)
        layers: list[nn.Module] = []
        width = in_chans
        for halving in reversed(range(patch_size.bit_length() - 1)):
            before, width = width, embed_dim >> halving
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.proj = nn.Sequential(*layers, nn.Conv2d(width, embed_dim, 1))  # type: ignore[assignment]
