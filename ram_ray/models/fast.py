"""The same model, quicker on a CPU: nothing here changes what is computed, beyond the last digits.

- Linear maps go through oneDNN with weights laid out for it beforehand, GELU in the same pass. PyTorch's own float32
  linear uses Intel's MKL, which reaches half of what an AMD core can do.
- A window's position bias and its shift mask are added up once, not for every image.

What is replaced is replaced in place and freed at once, so that memory never holds two copies of more than one layer.
The result is for inference alone: it cannot be trained, saved or moved to another device.

Letters: B images, W windows an image, H heads, N tokens a window, C width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ram_ray.models.blocks import FeedForward
from ram_ray.models.ram import RAM


class PackedLinear(nn.Module):
    """A linear map through oneDNN, with GELU (exact) behind it if asked for; float32 in and out.

    With `dtype` bfloat16 inputs and weights are rounded to it and products are summed in float32.

    Args:
        linear: whose weights are packed.
        gelu: apply GELU to the result.
        dtype: of weights and products: float32 or bfloat16.
    """

    def __init__(self, linear: nn.Linear, *, gelu: bool = False, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        weight = linear.weight.detach().to(dtype)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight)  # opaque: no parameter and no buffer
        self._bias = None if linear.bias is None else linear.bias.detach().to(dtype)
        self._dtype = dtype
        self._after: tuple[str, list, str] = ("gelu", [], "none") if gelu else ("none", [], "")

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C')."""
        y = torch.ops.mkldnn._linear_pointwise(x.to(self._dtype), self._weight, self._bias, *self._after)
        return y.float()


class BiasedWindowAttention(nn.Module):
    """timm's window attention with the bias of its places, and of its shift, made once.

    Args:
        attention: timm's module, whose weights are taken over.
        mask: (W, N, N) float, of shifted windows; None: windows are not shifted.
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
        """Attention inside windows.

        Args:
            x: (B W, N, C) float32, W windows of N tokens.
            mask: not used, it is already in the bias.

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
    """Whether this PyTorch has oneDNN's linear map, and the processor the type."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@torch.inference_mode()
def bias_windows(model: RAM) -> None:
    """Make the Swin's biases and masks once. Its input is then of the configured size alone."""
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
    """Replace the linear maps of the image encoder and the recognition decoder's layers.

    Args:
        model: in eval mode; changed.
        dtype: of weights and products: float32 or bfloat16.
    """
    from timm.layers import Mlp

    for part in (model.image_encoder, model.recognition.layers):
        # Linear maps themselves are left out of the list: it would keep their weights from being freed.
        for module in [one for one in part.modules() if not isinstance(one, nn.Linear)]:
            fused: nn.Module | None = None
            if isinstance(module, FeedForward) and isinstance(module.activation, nn.GELU):
                fused, module.activation = module.up, nn.Identity()  # type: ignore[assignment]
            elif isinstance(module, Mlp) and type(module.act) is nn.GELU and module.act.approximate == "none":
                fused, module.act = module.fc1, nn.Identity()
            for name, child in list(module.named_children()):
                if type(child) is nn.Linear:
                    setattr(module, name, PackedLinear(child, gelu=child is fused, dtype=dtype))
    if isinstance(model.image_proj, nn.Linear):
        model.image_proj = PackedLinear(model.image_proj, dtype=dtype)  # type: ignore[assignment]
