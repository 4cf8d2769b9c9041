"""Faster inference of the same model on a CPU; the results differ only by rounding.

- oneDNN computes linear layers, with weights packed in advance and GELU in the same pass. PyTorch's float32 layer
  uses Intel's MKL, which reaches half the speed on an AMD core.
- The position bias and the shift mask of windows are summed once, not for every image.

Layers are replaced in place and freed at once, so memory never holds two copies of more than a single layer. The result
is only for inference: it cannot be trained, saved or moved to another device.

Letters: B images, W windows an image, H heads, N tokens a window, C width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ram_ray.models.active_rows import RowLinear
from ram_ray.models.blocks import FeedForward
from ram_ray.models.ram import RAM


class PackedLinear(nn.Module):
    """A linear layer of oneDNN, optionally followed by exact GELU; float32 in and out.

    With bfloat16, inputs and weights are rounded to bfloat16, and products are summed in float32.

    Args:
        linear: layer whose weights are packed.
        gelu: whether GELU is applied to the result.
        dtype: type of weights and products: float32 or bfloat16.
    """

    def __init__(self, linear: nn.Linear, *, gelu: bool = False, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        weight = linear.weight.detach().to(dtype)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight)  # opaque: no parameter and no buffer
        self._bias = None if linear.bias is None else linear.bias.detach().to(dtype)
        self._dtype = dtype
        self._post_op: tuple[str, list, str] = ("gelu", [], "none") if gelu else ("none", [], "")

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            x: (..., C) float32.

        Returns:
            (..., C') float32.
        """
        y = torch.ops.mkldnn._linear_pointwise(x.to(self._dtype), self._weight, self._bias, *self._post_op)
        return y.float()


class BiasedWindowAttention(nn.Module):
    """timm's window attention with its position bias and shift mask summed in advance.

    Args:
        attention: timm's module; its weights are used.
        mask: (W, N, N) float, mask of shifted windows; None: windows are not shifted.
    """

    bias: Tensor

    def __init__(self, attention: Any, mask: Tensor | None) -> None:
        super().__init__()
        self.num_heads, self.scale = attention.num_heads, attention.scale
        self.qkv, self.proj = attention.qkv, attention.proj
        bias = attention._get_rel_pos_bias()  # (1, H, N, N)
        self.register_buffer("bias", bias if mask is None else bias + mask.unsqueeze(1), persistent=False)
        self.num_windows = len(self.bias)  # 1: the same bias in every window

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute attention inside windows.

        Args:
            x: (B W, N, C) float32, W windows of N tokens.
            mask: not used, because the bias includes it.

        Returns:
            (B W, N, C).
        """
        rows, tokens, width = x.shape
        qkv = self.qkv(x).reshape(rows, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        scores = (q * self.scale) @ k.transpose(-2, -1)
        scores = scores.view(-1, self.num_windows, self.num_heads, tokens, tokens) + self.bias
        x = scores.view(-1, self.num_heads, tokens, tokens).softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(rows, tokens, -1))


def can_pack(dtype: torch.dtype = torch.float32) -> bool:
    """Whether PyTorch has oneDNN's linear layer and the processor supports the type.

    Args:
        dtype: type of weights and products: float32 or bfloat16.

    Returns:
        Whether `pack_linears` works.
    """
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def can_pack_encoder(model: RAM) -> bool:
    """Whether the image encoder only calls its linear layers; others also read their weights.

    Args:
        model: the tagger.

    Returns:
        True for a Swin and a ViT.
    """
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.vision_transformer import VisionTransformer

    return type(model.image_encoder.backbone) in (SwinTransformer, VisionTransformer)


@torch.inference_mode()
def bias_windows(model: RAM) -> None:
    """Sum position biases and shift masks of a Swin in advance. It then takes only images of the configured size.

    Args:
        model: changed in place.
    """
    from timm.models.swin_transformer import SwinTransformerBlock

    for block in model.image_encoder.modules():
        if isinstance(block, SwinTransformerBlock) and not isinstance(block.attn, BiasedWindowAttention):
            bias = block.attn.relative_position_bias_table
            mask = block.get_attn_mask(device=bias.device, dtype=bias.dtype)
            block.attn = BiasedWindowAttention(block.attn, mask)  # type: ignore[assignment]
            block.dynamic_mask = False
            block.register_buffer("attn_mask", None, persistent=False)


@torch.inference_mode()
def pack_linears(model: RAM, *, dtype: torch.dtype = torch.float32) -> None:
    """Pack the linear layers of the recognition decoder's layers and, if it allows it, of the image encoder.

    Args:
        model: model in eval mode; changed in place.
        dtype: type of weights and products: float32 or bfloat16.
    """
    from timm.layers import Mlp

    encoder = [model.image_encoder] if can_pack_encoder(model) else []
    for part in (*encoder, model.recognition.layers):
        # The list has no linear layers: a reference in it would keep their weights in memory.
        for module in [module for module in part.modules() if not isinstance(module, nn.Linear)]:
            fused: nn.Module | None = None
            if isinstance(module, FeedForward) and isinstance(module.activation, nn.GELU):
                fused, module.activation = module.up, nn.Identity()  # type: ignore[assignment]
            elif isinstance(module, Mlp) and type(module.act) is nn.GELU and module.act.approximate == "none":
                fused, module.act = module.fc1, nn.Identity()
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear) and type(child) in (nn.Linear, RowLinear):
                    setattr(module, name, PackedLinear(child, gelu=child is fused, dtype=dtype))
    if isinstance(model.image_proj, nn.Linear):
        model.image_proj = PackedLinear(model.image_proj, dtype=dtype)  # type: ignore[assignment]
