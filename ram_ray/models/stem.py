"""A convolution stem for the Swin, which needs fewer training images than a patch embedding.

A patch embedding is a single linear map of each patch, and needs many images to learn edges and textures. A few strided
convolutions learn them sooner (Xiao et al., "Early Convolutions Help Transformers See Better", arXiv 2106.14881). The
released models have patch embeddings, so the stem is an option (`model.swin.stem`). This file imports timm, so it is
separate from `image_encoder`.
"""

from __future__ import annotations

from typing import Any

from timm.layers import PatchEmbed
from torch import nn


class ConvolutionStem(PatchEmbed):
    """Pixels (B, 3, S, S) to tokens (B, S / P, S / P, C): 3 x 3 convolutions of stride 2, up to C channels.

    Args:
        patch_size: P, a power of two.
        in_chans: channels of the pixels.
        embed_dim: C.
        **options: of timm's PatchEmbed.
    """

    def __init__(self, *, patch_size: int, in_chans: int, embed_dim: int, **options: Any) -> None:
        super().__init__(patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim, **options)
        layers: list[nn.Module] = []
        width = in_chans
        for halving in reversed(range(patch_size.bit_length() - 1)):
            width_in, width = width, embed_dim >> halving
            layers += [nn.Conv2d(width_in, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.proj = nn.Sequential(*layers, nn.Conv2d(width, embed_dim, 1))  # type: ignore[assignment]
